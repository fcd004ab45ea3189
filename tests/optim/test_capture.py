"""A step that is captured in a CUDA graph is the step that is not; see tests/tape.py."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

import scratch_optim
from scratch_optim.swa_utils import Lookahead
from tests.tape import capture

SETTLED = 8
"""After so many steps no equation is new: RAdam's changes at its sixth."""

OPTIONS = {
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
    "LARS": {"momentum": 0.9, "weight_decay": 1e-2},
    "Lion": {"weight_decay": 1e-2},
    "Muon": {"auxiliary": {"lr": 0.01}},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "AdamW": {"amsgrad": True},
}
NAMES = [
    name
    for name in scratch_optim.__all__
    if isinstance(getattr(scratch_optim, name), type)
    and issubclass(getattr(scratch_optim, name), torch.optim.Optimizer)
    and name != "Optimizer"
]
CAPTURED = [name for name in NAMES if getattr(scratch_optim, name).captures]


@pytest.fixture
def processors_capture(monkeypatch):
    monkeypatch.setattr(
        "scratch_optim.optimizer._get_capturable_supported_devices", lambda *_, **__: ["cpu"]
    )


def run(name: str, steps: int, captured: bool) -> list[torch.Tensor]:
    """Parameters and state after some steps with other gradients and another rate in each."""
    generator = torch.Generator().manual_seed(0)
    params = [Parameter(torch.randn(s, generator=generator)) for s in ((4, 3), (2, 3, 3, 3), (5,))]
    lr = torch.tensor(0.0)
    cls = getattr(scratch_optim, name)
    optimizer = cls([{"params": params, "capturable": True}], **OPTIONS.get(name, {}))
    for group in optimizer.param_groups:
        group["lr"], group["capturable"] = lr, True
    for p in params:
        p.grad = torch.empty_like(p)
    replay = None
    for i in range(steps):
        lr.fill_(0.1 / (1 + i))
        for p in params:
            p.grad.copy_(torch.randn(p.shape, generator=generator))
        if captured and i == SETTLED:
            replay, _ = capture(optimizer.step)
        replay() if replay else optimizer.step()
    return params + [x for p in params for x in optimizer.state[p].values()]


@pytest.mark.usefixtures("processors_capture")
@pytest.mark.parametrize("name", CAPTURED)
def test_a_captured_step_goes_on_as_steps_that_are_not(name):
    one, other = (run(name, SETTLED + 6, captured) for captured in (False, True))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)  # the same operations on the same numbers


@pytest.mark.usefixtures("processors_capture")
@pytest.mark.parametrize("name", sorted({*NAMES} - {*CAPTURED}))
def test_what_reads_the_device_refuses_to_be_captured(name):
    with pytest.raises(ValueError, match=f"capturable=True: {name} reads numbers"):
        getattr(scratch_optim, name)([{"params": [Parameter(torch.ones(2))], "capturable": True}])


def test_a_step_count_that_would_stand_still_is_refused(monkeypatch):
    params = [Parameter(torch.ones(2, 2)), Parameter(torch.ones(2))]
    optimizer = scratch_optim.Muon(params, auxiliary={})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="parameter group 1 has capturable=False"):
        optimizer.step()
    optimizer.param_groups[1]["capturable"] = True
    optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_after_a_reset_the_first_training_is_repeated_in_the_same_memory(name):
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(4, 3, generator=generator)
    gradients = torch.randn(3, 4, 3, generator=generator)
    if name == "SparseAdam":
        gradients = [g.to_sparse() for g in gradients]
    p = Parameter(first.clone())
    optimizer = getattr(scratch_optim, name)([p], **{**OPTIONS.get(name, {}), "lr": 0.1})

    def training() -> torch.Tensor:
        with torch.no_grad():
            p.copy_(first)
        for g in gradients:
            p.grad = g
            optimizer.step() if name != "LBFGS" else optimizer.step(lambda: p.square().sum())
        return p.detach().clone()

    once = training()
    held = {key: x.data_ptr() for key, x in optimizer.state[p].items() if torch.is_tensor(x)}
    optimizer.reset()
    assert torch.equal(training(), once)
    if name in CAPTURED:
        after = optimizer.state[p].items()
        assert held == {key: x.data_ptr() for key, x in after if torch.is_tensor(x)}


def test_lookahead_begins_anew_with_what_it_wraps():
    p = Parameter(torch.ones(2))
    optimizer = Lookahead(scratch_optim.SGD([p], lr=0.1, momentum=0.9), k=2)

    def training() -> torch.Tensor:
        with torch.no_grad():
            p.fill_(1.0)
        for i in range(3):
            p.grad = torch.tensor([1.0, 2.0]) * (i + 1)
            optimizer.step()
        return p.detach().clone()

    once = training()
    optimizer.reset()
    assert optimizer.taken == 0
    assert torch.equal(training(), once)
