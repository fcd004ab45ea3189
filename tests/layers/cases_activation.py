"""Activations and softmax."""

from layer_case import Case, normal

ELEMENTWISE = (
    *("ReLU", "ReLU6", "LeakyReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish"),
    *("Hardtanh", "Hardswish", "Hardshrink", "Softshrink"),
    *("Sigmoid", "Tanh", "Softplus", "Softsign", "Tanhshrink"),
)

# Here channels_last stays channels_last.
LAYOUT = {"layout": "native makes output or gradient contiguous"}
ROUNDED = {"float64": "native's derivative is 1/6 rounded to float32"}

CASES = [
    *[Case(layer, normal(4, 3, 5, 2)) for layer in ELEMENTWISE],
    Case("LogSigmoid", normal(4, 3, 5, 2), without=LAYOUT),
    Case("Hardsigmoid", normal(4, 3, 5, 2), without=ROUNDED),
    Case("LeakyReLU", normal(4, 3), (-0.3,), label="negative"),
    Case("ELU", normal(4, 3), (0.4,), label="0.4"),
    Case("CELU", normal(4, 3), (0.5,), label="0.5"),
    Case("GELU", normal(4, 3, 5), ("tanh",), label="tanh"),
    Case("Hardtanh", normal(4, 3), (-0.5, 0.7), label="narrow"),
    Case("Softplus", normal(4, 3), (2.0, 1.0), label="threshold"),
    Case("Threshold", normal(4, 3, 5), (0.1, 20.0)),
    Case("PReLU", normal(4, 3, 5), has_factory=True),
    Case("PReLU", normal(4, 3, 5, 2), (3,), label="channels", has_factory=True),
    Case("RReLU", normal(4, 3, 5), random=True),
    Case("GLU", normal(4, 3, 6)),
    Case("GLU", normal(3, 4, 5, 2), (1,), label="channels", without=LAYOUT),
    *[Case(layer, normal(4, 3), (1,)) for layer in ("Softmax", "LogSoftmax", "Softmin")],
    *[
        Case(layer, normal(2, 3, 4, 2), (1,), label="inner", without=LAYOUT)
        for layer in ("Softmax", "LogSoftmax")
    ],
    Case("Softmax2d", normal(2, 3, 4, 2), without=LAYOUT),
]
