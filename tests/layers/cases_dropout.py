"""Dropout and its family."""

from layer_case import Case, normal

CASES = [
    Case("Dropout", normal(4, 3), random=True),
    Case("Dropout", normal(4, 3), options={"p": 0.0}, label="p0"),
    Case("Dropout", normal(4, 3), options={"p": 1.0}, label="p1"),
    Case("Dropout1d", normal(4, 3, 5), random=True),
    Case("Dropout2d", normal(4, 3, 5, 5), random=True),
    Case("Dropout3d", normal(4, 3, 2, 5, 5), random=True),
    Case("AlphaDropout", normal(4, 3), random=True),
    Case("FeatureAlphaDropout", normal(4, 3, 5), random=True),
]
