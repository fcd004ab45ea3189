"""What torch.nn's own layers are known to fail, found by running this kit over them.

As of torch 2.15 on the CPU. Each reason says how to see the defect, or names the issue.
"""

from __future__ import annotations

_CONTIGUOUS = "the output is contiguous whatever the memory format of the input"
_COUNTED = (
    "num_batches_tracked counts a batch that is refused: "
    "BatchNorm2d(3)(torch.ones(1, 2, 4, 4)) raises an error and leaves it at 1"
)
_NO_DERIVATIVE = "its kernel has no derivative of this kind"
_EMPTY = "InstanceNorm2d(3, affine=True)(torch.ones(0, 3, 4, 4)) raises an IndexError"
_OLD_FUNCTION = "its autograd.Function is of the old kind, without setup_context and jvp"
_LOOKS = "it looks at the values of var: https://github.com/pytorch/pytorch/issues/194503"
_HARDSIGMOID = "the slope is 1/6 in the digits of float32: 0.16666667163372"

KNOWN: dict[str, dict[str, str]] = {
    "torch.nn.GELU": {
        "is_finite_far_from_zero": "approximate='tanh': the gradient at 1e30 in float32 is nan"
    },
    "torch.nn.LogSigmoid": {"keeps_channels_last": _CONTIGUOUS},
    "torch.nn.Hardsigmoid": {
        "has_the_values_of_the_paper": _HARDSIGMOID,
        "second_derivatives_are_right": _NO_DERIVATIVE,
    },
    "torch.nn.RReLU": {
        "works_under_vmap": "there is no batching rule for aten::rrelu",
        "is_converted_to_other_dtypes": "there is no kernel for float16 on the CPU",
    },
    **{
        f"torch.nn.{layer}": {"keeps_channels_last": _CONTIGUOUS}
        for layer in ("Softmax", "LogSoftmax", "Softmax2d")
    },
    **{
        f"torch.nn.{layer}": {"a_refused_input_changes_no_state": _COUNTED}
        for layer in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
    },
    "torch.nn.InstanceNorm2d": {"takes_an_empty_batch": _EMPTY},
    "torch.nn.InstanceNorm3d": {"takes_an_empty_batch": _EMPTY},
    "torch.nn.CrossMapLRN2d": {
        "forward_derivatives_are_right": _OLD_FUNCTION,
        "second_derivatives_are_right": "its backward writes to out=",
        "works_under_torch_func": _OLD_FUNCTION,
        "works_under_vmap": _OLD_FUNCTION,
        "compiles_as_one_graph": "Dynamo does not trace its resize_as_",
    },
    "torch.nn.GaussianNLLLoss": {
        "works_under_vmap": _LOOKS,
        "gives_shapes_on_the_meta_device": _LOOKS,
        "compiles_as_one_graph": _LOOKS,
        "exports": _LOOKS,
    },
    **{
        f"torch.nn.{layer}": dict.fromkeys(
            (
                "forward_derivatives_are_right",
                "second_derivatives_are_right",
                "works_under_torch_func",
            ),
            _NO_DERIVATIVE,
        )
        for layer in ("MultiMarginLoss", "MultiLabelMarginLoss")
    },
}
"""Reasons by the title of the subject and the name of the check."""
KNOWN["torch.nn.BatchNorm2d"]["gives_shapes_on_the_meta_device"] = (
    "momentum=None: it takes the number of batches as a number of Python, for which there is no "
    "value; compiled: https://github.com/pytorch/pytorch/issues/194579"
)
