"""Layer, group, RMS, instance and local response normalization."""

from scratch_layers.testing.case import Case, normal

ROWS = (normal(8), normal(0, 8), normal(1, 8), normal(3, 2, 8), normal(257, 8))
CONTIGUOUS = {"keeps_channels_last": "torch's own makes it contiguous"}
TRACKING = {"affine": True, "track_running_stats": True}

CASES = {
    "LayerNorm": [
        Case(normal(4, 8), (8,), shapes=ROWS),
        Case(
            normal(2, 3, 3, 2),
            ((3, 2),),
            label="two dimensions",
            shapes=(normal(0, 3, 2),),
            without=CONTIGUOUS,
        ),
        Case(normal(4, 8), (8,), {"bias": False}, label="no bias"),
        Case(normal(4, 8), (8,), {"elementwise_affine": False}, label="no affine"),
    ],
    "RMSNorm": [
        Case(normal(4, 8), (8,), shapes=ROWS),
        Case(normal(2, 3, 5), ((3, 5),), {"eps": 0.1}, label="two dimensions"),
        Case(normal(4, 8), (8,), {"elementwise_affine": False}, label="no affine"),
    ],
    "GroupNorm": [
        Case(
            normal(2, 6, 2, 2),
            (3, 6),
            shapes=(normal(0, 6, 3, 3), normal(1, 6, 1), normal(5, 6, 17, 9)),
        ),
        Case(normal(3, 12), (2, 12), label="NC", shapes=(normal(0, 12), normal(33, 12))),
        Case(normal(2, 4, 2, 1, 2), (1, 4), label="one group"),
        Case(normal(2, 4, 2, 2), (2, 4), {"affine": False}, label="no affine"),
    ],
    "InstanceNorm1d": [
        Case(normal(3, 2, 6), (2,), shapes=(normal(0, 2, 6), normal(3, 2, 1), normal(9, 2, 65))),
        Case(normal(2, 6), (2,), label="unbatched", samples=False),
    ],
    "InstanceNorm2d": [
        Case(
            normal(2, 3, 3, 2),
            (3,),
            shapes=(normal(3, 4, 4), normal(0, 3, 4, 4), normal(2, 3, 1, 1), normal(9, 3, 17, 5)),
            without=CONTIGUOUS,
        ),
        Case(
            normal(2, 3, 3, 2),
            (3,),
            TRACKING,
            label="tracking",
            without={
                **CONTIGUOUS,
                "works_under_vmap": "running statistics are changed in place by torch's too",
            },
        ),
    ],
    "InstanceNorm3d": [Case(normal(2, 2, 2, 2, 2), (2,), {"affine": True}, without=CONTIGUOUS)],
    "LocalResponseNorm": [
        Case(normal(2, 6, 2, 2), (5, 1.0), half=False, shapes=(normal(1, 1, 1), normal(3, 33, 5))),
        Case(normal(2, 4, 5), (2, 1.0, 0.5, 2.0), label="even"),
    ],
    # of a single channel: with more, torch's own is not what its equation says
    "CrossMapLRN2d": [Case(normal(2, 1, 4, 4), (3, 1.0), shapes=(normal(3, 1, 9, 5),))],
}
