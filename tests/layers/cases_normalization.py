"""Layer, group, RMS, instance and local response normalization."""

from layer_case import Case, normal

CASES = [
    Case("LayerNorm", normal(6, 8), (8,), has_factory=True),
    Case("LayerNorm", normal(2, 3, 4, 5), ((4, 5),), label="two_dimensions"),
    Case("LayerNorm", normal(6, 8), (8,), {"bias": False}, label="no_bias"),
    Case("LayerNorm", normal(6, 8), (8,), {"elementwise_affine": False}, label="no_affine"),
    Case("RMSNorm", normal(6, 8), (8,), has_factory=True),
    Case("RMSNorm", normal(2, 3, 5), ((3, 5),), {"eps": 0.1}, label="two_dimensions"),
    Case("RMSNorm", normal(6, 8), (8,), {"elementwise_affine": False}, label="no_affine"),
    Case("GroupNorm", normal(2, 6, 3, 3), (3, 6), has_factory=True),
    Case("GroupNorm", normal(4, 12), (2, 12), label="NC"),
    Case("GroupNorm", normal(2, 4, 2, 3, 2), (1, 4), label="one_group"),
    Case("GroupNorm", normal(2, 4, 3, 3), (2, 4), {"affine": False}, label="no_affine"),
    Case("InstanceNorm1d", normal(3, 2, 6), (2,), has_factory=True),
    Case("InstanceNorm1d", normal(2, 6), (2,), label="unbatched"),
    Case("InstanceNorm2d", normal(2, 3, 4, 4), (3,), has_factory=True),
    Case(
        "InstanceNorm2d",
        normal(2, 3, 4, 4),
        (3,),
        {"affine": True, "track_running_stats": True},
        label="tracking",
        without={"vmap": "running statistics are changed in place, natively too"},
    ),
    Case("InstanceNorm3d", normal(2, 2, 2, 3, 3), (2,), {"affine": True}, has_factory=True),
    Case("LocalResponseNorm", normal(2, 6, 3, 3), (5, 1.0), half=False),
    Case("LocalResponseNorm", normal(2, 4, 5), (2, 1.0, 0.5, 2.0), label="even"),
    # of a single channel: with more, torch's own is not what its equation says
    Case("CrossMapLRN2d", normal(2, 1, 4, 4), (3, 1.0)),
]
