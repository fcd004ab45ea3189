"""Batch normalization."""

from scratch_layers.testing.case import Case, normal

NC = (normal(0, 3), normal(2, 3), normal(1, 3), normal(257, 3))
NCL = (normal(0, 3, 2), normal(1, 3, 2), normal(2, 3, 1), normal(33, 3, 65))
NCHW = (normal(0, 3, 2, 2), normal(1, 3, 1, 1), normal(2, 3, 1, 1), normal(9, 3, 17, 5))
NCDHW = (normal(0, 3, 2, 2, 2), normal(2, 3, 1, 1, 1), normal(5, 3, 4, 7, 9))

CASES = {
    "BatchNorm1d": [
        Case(normal(6, 3), (3,), label="NC", shapes=NC),
        Case(normal(4, 3, 5), (3,), label="NCL", shapes=NCL),
    ],
    "BatchNorm2d": [
        Case(normal(4, 3, 2, 3), (3,), shapes=NCHW),
        Case(normal(4, 3, 2, 3), (3,), {"affine": False}, label="no affine", shapes=NCHW),
        Case(normal(4, 3, 2, 3), (3,), {"momentum": None, "eps": 0.3}, label="cumulative"),
        Case(normal(4, 3, 2, 3), (3,), {"track_running_stats": False}, label="no tracking",
             samples=False),
    ],
    "BatchNorm3d": [Case(normal(3, 3, 2, 2, 2), (3,), shapes=NCDHW)],
    # without a process group
    "SyncBatchNorm": [
        Case(normal(4, 3, 2, 3), (3,), shapes=NCHW),
        Case(normal(6, 3), (3,), label="NC", shapes=NC),
    ],
}  # fmt: skip
