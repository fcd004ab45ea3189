"""What is known to fail of the optimizers of torch itself, and why.

Each failure was seen on torch 2.15, of the class checked alone or against itself, on a CPU. Where
there is an issue at github.com/pytorch/pytorch that tells of it, its number follows.
"""

from __future__ import annotations

EVERY = {
    "refuses_options_that_are_not_finite": "an infinite learning rate, or NaN, is taken",
    "refuses_bad_options_of_a_group": (
        "options are checked as they are passed to the class, not those of a group (#30889)"
    ),
    "loading_shares_no_memory_with_the_dict": (
        "load_state_dict keeps the tensors of the dict, which the next step changes (#196083)"
    ),
    "refuses_a_state_that_does_not_fit": (
        "load_state_dict does not look at shapes and names: a later step fails, or is wrong"
    ),
    "refuses_groups_that_lack_options": (
        "load_state_dict takes a group without a learning rate: the next step fails"
    ),
}
"""Of all of them."""

SPARSE = {
    "sparse_gradients_are_taken_or_refused_whole": (
        "a sparse gradient in a later group is refused when earlier groups are updated already"
    )
}
FUSED = {
    "autograd_sees_the_step": (
        "fused kernels do not count versions of the parameters: a graph that has saved them goes "
        "backward with the new values, without an error"
    ),
    "gradients_and_state_may_lie_otherwise_than_their_parameters": (
        "fused kernels read gradients and state in the order of memory, whatever their strides: "
        "the step is that of other numbers, without an error"
    ),
}
CAST = {
    "continues_from_a_state_dict": (
        "load_state_dict casts numbers kept beside the step count to the dtype of the parameter, "
        "where a step keeps them in float32 (#75224)"
    )
}

GRAPH = {
    "differentiable_step_passes_gradcheck": (
        "a differentiable step overwrites what autograd has saved, or detaches the first buffer"
    )
}
BY_OPTIONS = "differentiable_step_passes_gradcheck_by_its_options"
LISTS = "its lists compute eta and mu in other dtypes than its loop"
DRAWN = {"continues_from_a_state_dict_in_drawn_cases": CAST["continues_from_a_state_dict"]}

OWN: dict[str, dict[str, str]] = {
    "ASGD": {
        **SPARSE,
        **CAST,
        "lists_equal_the_loop": LISTS,
        "every_way_equals_the_loop_in_drawn_cases": LISTS,
    },
    "Adadelta": SPARSE,
    "Adafactor": {
        **SPARSE,
        "takes_every_shape": "divides by the number of elements, also where there are none",
        "mixed_dtypes_are_updated_as_if_apart": (
            "eps[0]=None becomes the epsilon of the first parameter's dtype, for all that follow"
        ),
    },
    "Adagrad": {
        **SPARSE,
        **FUSED,
        "groups_equal_separate_optimizers": (
            "initial_accumulator_value of a group is ignored: that of the class is taken"
        ),
    },
    "Adam": {
        **SPARSE,
        **FUSED,
        "differentiable_step_passes_gradcheck": (
            "with amsgrad, overwrites what autograd has saved: backward raises (#150183)"
        ),
        BY_OPTIONS: "with amsgrad, overwrites what autograd has saved: backward raises (#150183)",
    },
    "Adamax": {
        **SPARSE,
        "differentiable_step_passes_gradcheck": "overwrites what autograd has saved",
    },
    "LBFGS": {
        "takes_every_shape": "takes a view of a gradient, which not every layout allows",
        "updates_parameters_in_place": "takes a view of a gradient, which not every layout allows",
        "a_learning_rate_of_zero_moves_nothing": "the line search divides by the distance it went",
        "continues_as_a_copy": "a deep copy lacks the list of parameters",
    },
    "Muon": {**SPARSE, "refuses_options_out_of_range": "a negative eps is taken"},
    "NAdam": {
        **SPARSE,
        **CAST,
        **DRAWN,
        BY_OPTIONS: "a tensor learning rate: overwrites what autograd has saved, backward raises",
    },
    "RAdam": SPARSE,
    "RMSprop": {**SPARSE, **GRAPH},
    "Rprop": {**SPARSE, **GRAPH},
    "SGD": {
        **GRAPH,
        **SPARSE,
        **FUSED,
        BY_OPTIONS: "with momentum, overwrites what autograd has saved, or loses the first buffer",
        "leaves_gradients_as_they_are": (
            "with nesterov and foreach, without weight decay, adds the momentum to the gradient"
        ),
    },
    "SparseAdam": {
        **SPARSE,
        "many_and_large_tensors_equal_the_loop": (
            "a large parameter, on several threads: a view of a leaf is changed in place"
        ),
    },
}
OWN["AdamW"] = OWN["Adam"]

KNOWN: dict[str, dict[str, str]] = {
    f"torch.optim.{name}": {**EVERY, **own} for name, own in sorted(OWN.items())
}
"""Reasons by the names of checks, by the names of classes."""

BESIDE_ITSELF: dict[str, dict[str, str]] = {
    "torch.optim.ASGD": {"the_way_may_change_in_mid_run": LISTS},
}
"""Of a class that is its own reference, beside those."""
