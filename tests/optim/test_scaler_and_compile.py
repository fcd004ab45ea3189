"""Inside torch.amp.GradScaler and torch.compile."""

import copy
import pickle

import pytest
import torch
from cases import ADAMW, each_case, each_fused_case, set_gradients, snapshot

from scratch_optim.testing.compare import assert_same, assert_same_bits, epsilons
from scratch_optim.testing.subject import SHAPES, gradients, parameters

FUSED_STEP = 8
"""Bound on what one fused step differs from torch's loop, in epsilons: at most 16 roundings of half
an epsilon. Dividing by the scale, a power of two, is exact."""


def scaler(device="cpu"):
    return torch.amp.GradScaler(device, init_scale=1024.0, growth_interval=3)


def scaled_steps(optimizer, params, steps, infinite=()):
    """Steps through a GradScaler; those in ``infinite`` have one infinite gradient."""
    scale = scaler()
    scale.scale(torch.ones(()))  # starts it
    for step in range(steps):
        factor = scale.get_scale()
        grads = [
            torch.empty_like(p).copy_(g * factor)
            for p, g in zip(params, gradients()[step % 10], strict=True)
        ]
        if step in infinite:
            grads[5][3] = float("inf")
        set_gradients(params, grads)
        before = snapshot(optimizer)
        scale.step(optimizer)
        scale.update()
        if step in infinite:
            after = snapshot(optimizer)
            for part in ("params", "groups", "defaults"):
                assert_same(after[part], before[part], f"{part} in a skipped step")
            if any(before["state"]):
                assert_same(after["state"], before["state"], "state in a skipped step")
            assert scale.get_scale() == factor / 2
    return scale.get_scale()


@pytest.mark.parametrize("infinite", [(), (3,), (0, 1, 4)], ids=str)
@each_fused_case
def test_fused_steps_through_a_scaler_skip_wholly_and_stay_within_epsilons(case, infinite):
    params = [parameters() for _ in range(2)]
    options = case.fused[0]
    ours = case.ours(params[0], **options, fused=True)
    # Not torch's fused: after a skipped first step that of SGD goes on from an uninitialized
    # momentum buffer. The unfused step is skipped by the scaler, as a whole.
    torchs = case.torchs(params[1], **options, foreach=False)
    scales = [
        scaled_steps(optimizer, own, 8, infinite)
        for optimizer, own in zip((ours, torchs), params, strict=True)
    ]
    assert scales[0] == scales[1]
    for i, (p, q) in enumerate(zip(*params, strict=True)):
        assert epsilons(p, q) <= 8 * FUSED_STEP, SHAPES[i]
        if "step" in ours.state[p]:
            assert ours.state[p]["step"].item() == torchs.state[q]["step"].item()
            assert ours.state[p]["step"].item() == 8 - len(infinite)


@each_fused_case
def test_a_scaler_unscales_by_itself_only_for_fused(case):
    assert not getattr(case.ours(parameters()), "_step_supports_amp_scaling", False)
    fused = case.ours(parameters(), fused=True)
    assert fused._step_supports_amp_scaling
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert twin._step_supports_amp_scaling


@each_fused_case
def test_a_fused_step_with_a_scale_leaves_the_scaled_gradient_as_it_is(case):
    params = parameters()
    optimizer = case.ours(params, **case.fused[0], fused=True)
    scale = scaler()
    scale.scale(torch.ones(()))
    grads = [g * 1024.0 for g in gradients()[0]]
    kept = [g.clone() for g in grads]
    set_gradients(params, grads)
    scale.step(optimizer)
    for p, g, old in zip(params, grads, kept, strict=True):
        assert p.grad is g
        assert_same_bits(g, old, "a gradient")
    assert not hasattr(optimizer, "grad_scale"), "the scaler takes back what it gave"
    assert not hasattr(optimizer, "found_inf")


@each_fused_case
def test_unscaling_first_and_clipping_works_with_fused(case):
    results = []
    for factor in (1.0, 1024.0):
        params = parameters()
        optimizer = case.ours(params, **case.fused[0], fused=True)
        scale = torch.amp.GradScaler("cpu", init_scale=factor)
        scale.scale(torch.ones(()))
        for grads in gradients()[:3]:
            set_gradients(params, [g * scale.get_scale() for g in grads])
            scale.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            scale.step(optimizer)
            scale.update()
        results.append(params)
    for p, q in zip(*results, strict=True):
        assert epsilons(p, q) <= 3 * FUSED_STEP


# ------------------------------------------------------------------ torch.compile


@pytest.mark.parametrize("way", [{}, {"foreach": False}], ids=["default", "loop"])
@each_case
def test_a_compiled_training_step_equals_the_eager_one(case, way):
    """Backend "aot_eager": traced and cut as for any compiler, but computed by the same kernels."""
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        torch._dynamo.reset()
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        optimizer = case.ours(model.parameters(), **case.typical | way)

        def train(x, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss

        if compiled:
            train = torch.compile(train, backend="aot_eager")
        generator = torch.Generator().manual_seed(1)
        losses = [train(torch.randn(5, 4, generator=generator)).item() for _ in range(6)]
        results.append((losses, list(model.parameters())))
    torch._dynamo.reset()
    # The backward pass is traced into other operations: 1e-5 is 100 epsilons for 6 steps.
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    for p, q in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", [ADAMW], ids=repr)
def test_fused_inside_a_compiled_training_step_equals_fused_outside(case):
    results = []
    for compiled in (False, True):
        params = parameters()
        optimizer = case.ours(params, **case.fused[0], fused=True)

        def train(optimizer=optimizer):
            optimizer.step()
            return torch.ones(2) + 1

        if compiled:
            train = torch.compile(train, backend="eager")
        for grads in gradients()[:3]:
            set_gradients(params, grads)
            train()
        results.append(params)
    torch._dynamo.reset()
    for p, q in zip(*results, strict=True):
        assert_same_bits(p, q, str(tuple(p.shape)))
