"""Activations and softmax."""

from scratch_layers.testing.case import Case, normal

ELEMENTWISE = (
    *("ReLU", "ReLU6", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish", "LeakyReLU"),
    *("Hardtanh", "Hardswish", "Hardshrink", "Softshrink"),
    *("Sigmoid", "Tanh", "Softplus", "Softsign", "Tanhshrink"),
)
SHAPES = (normal(), normal(1), normal(0), normal(2, 0, 3), normal(65, 33))
OF_TWO = (normal(0, 3), normal(1, 1), normal(33, 65), normal(2, 3, 4))
OF_FOUR = (normal(0, 3, 4, 2), normal(1, 1, 1, 1), normal(3, 17, 5, 9))

# Here channels_last stays channels_last.
LAYOUT = {
    "memory_formats_are_the_references": "torch's own makes output or gradient contiguous",
}


def elementwise(*args: object, **more: object) -> Case:
    """A function of every value."""
    return Case(normal(2, 3, 3, 2), args, shapes=SHAPES, **more)  # type: ignore[arg-type]


CASES = {
    **{layer: [elementwise()] for layer in ELEMENTWISE},
    "LogSigmoid": [elementwise(without=LAYOUT)],
    "Hardsigmoid": [
        elementwise(
            without=dict.fromkeys(
                (
                    "equals_the_reference_in_float64",
                    "equals_the_reference_in_all_shapes",
                    "equals_the_reference_in_all_layouts",
                    "equals_the_reference_on_drawn_cases",
                ),
                "torch's slope is 1/6 in float32's digits",
            )
        )
    ],
    "Threshold": [elementwise(0.1, 20.0)],
    "PReLU": [
        Case(normal(4, 3, 5), shapes=SHAPES),
        Case(normal(2, 3, 3, 2), (3,), label="channels", shapes=(normal(0, 3), normal(65, 3, 33))),
    ],
    "RReLU": [Case(normal(4, 3, 5), random=True, shapes=SHAPES)],
    "GLU": [
        Case(normal(4, 3, 6), shapes=(normal(2), normal(0, 4), normal(3, 0), normal(33, 66))),
        Case(normal(3, 4, 5, 2), (1,), label="channels", without=LAYOUT),
    ],
    **{
        layer: [
            Case(normal(4, 3), (1,), shapes=OF_TWO),
            Case(normal(2, 3, 4, 2), (1,), label="inner", shapes=OF_FOUR, without=LAYOUT),
        ]
        for layer in ("Softmax", "LogSoftmax")
    },
    "Softmin": [Case(normal(4, 3), (1,), shapes=OF_TWO)],
    "Softmax2d": [Case(normal(2, 3, 4, 2), shapes=OF_FOUR, without=LAYOUT)],
}
CASES["LeakyReLU"].append(Case(normal(4, 3), (-0.3,), label="negative"))
CASES["ELU"].append(Case(normal(4, 3), (0.4,), label="0.4"))
CASES["CELU"].append(Case(normal(4, 3), (0.5,), label="0.5"))
CASES["GELU"].append(Case(normal(4, 3, 5), ("tanh",), label="tanh"))
CASES["Hardtanh"].append(Case(normal(4, 3), (-0.5, 0.7), label="narrow"))
CASES["Softplus"].append(Case(normal(4, 3), (2.0, 1.0), label="threshold"))
