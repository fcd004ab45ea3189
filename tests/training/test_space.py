"""What is searched, as it is written on a command line."""

from __future__ import annotations

import pytest

from training.options import make_config, parser
from training.space import parse, spelled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("augment", ()), ("augment", ("flip", "crop")), ("hidden", ()), ("hidden", (64, 32)),
        ("resolutions", (20, 26)), ("compile", True), ("compile", False), ("lr", 0.25),
    ],
)  # fmt: skip
def test_a_value_is_spelled_as_it_is_read(name, value):
    given = vars(parser().parse_args(spelled(name, value)))
    model = {"model": "mlp"} if name == "hidden" else {"dataset": "cifar10"}
    made = make_config(log_dir="no/where", device="cpu", **model, **given)
    assert getattr(made, name) == value


def test_no_hidden_layer_may_be_one_of_the_choices():
    choice = parse(["hidden=,64,64 32"])["hidden"]
    assert [choice.value("hidden", word) for word in choice.grid()] == [(), (64,), (64, 32)]
