"""Bad options: refused in groups as in the constructor, and where torch wrongly takes them.

That torch's errors are raised in torch's words is checked by the conformance kit.
"""

import numpy as np
import pytest
import torch
from cases import CASES, each_case, snapshot, trained

from scratch_optim.testing.compare import assert_same
from scratch_optim.testing.face import BAD_OPTIONS
from scratch_optim.testing.options import describe
from scratch_optim.testing.subject import gradients, parameters


def caught(act):
    """Type and text of the error that ``act`` raises; None if it raises none."""
    try:
        act()
    except Exception as error:  # whatever it is
        return type(error), str(error)
    return None


NAN, INF = float("nan"), float("inf")

STRICTER = [
    ({"lr": NAN}, "learning rate: nan"),
    ({"lr": INF}, "learning rate: inf"),
    ({"lr": torch.tensor(NAN)}, "nan"),
    ({"weight_decay": NAN}, "weight_decay value: nan"),
    ({"weight_decay": INF}, "weight_decay value: inf"),
    ({"momentum": NAN}, "momentum value: nan"),
    ({"dampening": NAN}, "dampening value: nan"),
    ({"eps": NAN}, "epsilon value: nan"),
    ({"eps": INF}, "epsilon value: inf"),
    ({"alpha": 1.5}, "alpha value: 1.5"),
    ({"alpha": NAN}, "alpha value: nan"),
    ({"lambd": NAN}, "lambd value: nan"),
    ({"t0": NAN}, "t0 value: nan"),
    ({"lr_decay": NAN}, "lr_decay value: nan"),
    ({"momentum_decay": NAN}, "momentum_decay value: nan"),
    ({"initial_accumulator_value": INF}, "initial_accumulator_value value: inf"),
    ({"betas": (0.9, NAN)}, "beta parameter at index 1: nan"),
    ({"betas": (0.9, 0.99, 0.999)}, "betas"),
    ({"betas": (0.9,)}, "betas"),
    ({"betas": (torch.tensor([0.9, 0.8]), torch.tensor(0.99))}, "betas[0] must be 1-element"),
    ({"betas": (torch.tensor(0.9), torch.tensor([0.99, 0.9]))}, "betas[1] must be 1-element"),
    ({"etas": (0.5, INF)}, "eta values: 0.5, inf"),
    ({"step_sizes": (1.0, 0.5)}, "step_sizes: 1.0, 0.5"),
    ({"step_sizes": (-1.0, 0.5)}, "step_sizes: -1.0, 0.5"),
    ({"exclude": ["bias"]}, "exclude value: ['bias']"),
    ({"phi": (NAN, 1.0)}, "phi bounds: nan, 1.0"),
    ({"fused": True, "foreach": True}, "fused"),
    ({"fused": True, "differentiable": True}, "fused"),
]
"""What torch takes or refuses by accident, with a part of the message expected."""

TAKEN = [("ASGD", "alpha", 1.5)]
"""What is no error there."""


def applies(case, options):
    known = case.ours(parameters()).defaults
    allowed = any(case.name == n and options.get(key) == value for n, key, value in TAKEN)
    return options.keys() <= known.keys() and not allowed


STRICT = [(c, o, message) for c in CASES for o, message in STRICTER if applies(c, o)]
BAD = [
    (case, options)
    for case in CASES
    for options in [*BAD_OPTIONS, *[o for _, o, _ in STRICT]]
    if applies(case, options) and caught(lambda c=case, o=options: c.ours(parameters(), **o))
]


@pytest.mark.parametrize(
    ("case", "options", "message"), STRICT, ids=[f"{c}-{describe(o)}" for c, o, _ in STRICT]
)
def test_options_that_torch_wrongly_takes_are_refused_by_name_and_value(case, options, message):
    error = caught(lambda: case.ours(parameters(), **options))
    assert error is not None
    assert error[0] in (ValueError, RuntimeError)
    assert message in error[1]


@each_case
def test_a_group_is_refused_as_the_options_are_and_leaves_the_optimizer_as_it_was(case):
    optimizer = trained(case, gradients()[:1])
    before = snapshot(optimizer)
    asked = [options for other, options in BAD if other is case]
    assert len(asked) > 5
    for options in asked:
        expected = caught(lambda o=options: case.ours(parameters(), **o))
        assert caught(lambda o=options: case.ours([{"params": parameters(), **o}])) == expected
        new = {"params": parameters(((2,),)), **options}
        if options.get("nesterov") or "foreach" in options or "fused" in options:
            # What they clash with may be otherwise in the defaults of this optimizer.
            new = {**case.ours(parameters()).defaults, **new}
        given = dict(new)
        assert caught(lambda g=new: optimizer.add_param_group(g)) == expected, describe(options)
        assert_same(snapshot(optimizer), before, f"after {describe(options)} was refused")
        assert new.keys() == given.keys()


MISSPELT = {
    "learning_rate": "lr",
    "wd": "weight_decay",
    "weight_decy": "weight_decay",
    "weightdecay": "weight_decay",
    "maximise": "maximize",
}


@each_case
def test_an_option_misspelt_in_a_group_is_refused_and_the_right_one_named(case):
    optimizer = case.ours(parameters())
    before = snapshot(optimizer)
    for key, meant in MISSPELT.items():
        if meant not in optimizer.defaults:
            continue
        wrong = {"params": parameters(((2,),)), key: 0.1}
        for act in (lambda w=wrong: case.ours([w]), lambda w=wrong: optimizer.add_param_group(w)):
            error = caught(act)
            assert error is not None
            assert error[0] is ValueError
            assert repr(key) in error[1]
            assert repr(meant) in error[1]
            assert "0.1" in error[1]
    assert_same(snapshot(optimizer), before)


@each_case
def test_keys_that_users_and_schedulers_add_are_not_taken_for_misspellings(case):
    for key in (
        *("name", "names", "lr_scale", "lr_mult"),
        *("initial_lr", "max_lr", "decay", "group_name"),
    ):
        optimizer = case.ours([{"params": parameters(), key: 0.1}])
        assert optimizer.param_groups[0][key] == 0.1


@pytest.mark.parametrize("value", ["0.1", None, [0.1], {}], ids=repr)
@each_case
def test_a_learning_rate_that_is_no_number_is_a_type_error(case, value):
    assert caught(lambda: case.ours(parameters(), lr=value))[0] is TypeError


@each_case
def test_an_integer_or_numpy_learning_rate_is_a_number(case):
    for lr in (1, np.float64(0.5), np.float32(0.5), True):
        assert case.ours(parameters(), lr=lr).param_groups[0]["lr"] == lr
