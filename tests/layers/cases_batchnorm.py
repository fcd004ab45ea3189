"""Batch normalization."""

from layer_case import Case, normal

CASES = [
    Case("BatchNorm1d", normal(6, 3), (3,), has_factory=True),
    Case("BatchNorm1d", normal(4, 3, 5), (3,), label="NCL", has_factory=True),
    Case("BatchNorm2d", normal(4, 3, 5, 5), (3,), has_factory=True),
    Case("BatchNorm2d", normal(4, 3, 5, 5), (3,), {"affine": False}, label="no_affine"),
    Case("BatchNorm3d", normal(4, 3, 2, 5, 5), (3,), has_factory=True),
    # without a process group; with one: test_syncbatchnorm.py
    Case("SyncBatchNorm", normal(4, 3, 5, 5), (3,), has_factory=True),
    Case("SyncBatchNorm", normal(6, 3), (3,), label="NC", has_factory=True),
]
