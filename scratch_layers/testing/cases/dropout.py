"""Dropout and its family."""

from scratch_layers.testing.case import Case, normal

CASES = {
    "Dropout": [
        Case(normal(4, 3), random=True, shapes=(normal(), normal(0), normal(1), normal(65, 33))),
        Case(normal(4, 3), (0.3,), label="0.3", random=True),
        Case(normal(4, 3), options={"p": 0.0}, label="0"),
        Case(normal(4, 3), options={"p": 1.0}, label="1"),
    ],
    "Dropout1d": [
        Case(normal(4, 3, 5), random=True, shapes=(normal(0, 3, 5), normal(3, 5), normal(9, 33, 4)))
    ],
    "Dropout2d": [
        Case(normal(4, 3, 2, 3), random=True, shapes=(normal(0, 3, 2, 2), normal(9, 33, 4, 3)))
    ],
    "Dropout3d": [
        Case(
            normal(3, 3, 2, 2, 2),
            random=True,
            shapes=(normal(0, 3, 2, 2, 2), normal(3, 2, 2, 2), normal(9, 33, 4, 3, 2)),
        )
    ],
    "AlphaDropout": [
        Case(normal(4, 3), random=True, shapes=(normal(), normal(0), normal(1), normal(65, 33)))
    ],
    "FeatureAlphaDropout": [
        Case(normal(4, 3, 5), random=True, shapes=(normal(0, 3, 5), normal(3, 5), normal(9, 33, 4)))
    ],
}
