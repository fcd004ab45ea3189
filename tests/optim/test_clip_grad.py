"""Gradient clipping: torch's bits; the adaptive one against its formula in float64."""

import inspect
import math
import warnings
from functools import partial

import pytest
import torch
from cases import DTYPES, each_device
from torch import Tensor
from torch.nn.utils import clip_grad as theirs
from torch.nn.utils.clip_grad import _clip_grads_with_norm_ as torchs_clip_grads_with_norm_
from torch.nn.utils.clip_grad import _get_total_norm as torchs_get_total_norm

from scratch_optim import clip_grad as ours
from scratch_optim.testing.compare import assert_same_bits, epsilons, same_bits
from scratch_optim.testing.subject import SHAPES, gradients, parameters

NORMS = [1, 2, 3, 0.5, 0, math.inf, -math.inf, "inf", 2.0]
WAYS = [None, True, False]
BIG = ((130, 128), (64, 32, 3, 3), (3,), (127, 129))
"""Of more and of fewer elements than what is taken apart from the lists."""

TORCHS = {
    ours.clip_grad_norm_: theirs.clip_grad_norm_,
    ours.clip_grad_value_: theirs.clip_grad_value_,
    ours.get_total_norm: torchs_get_total_norm,
    ours.clip_grads_with_norm_: torchs_clip_grads_with_norm_,
    ours.clip_grad_norm: theirs.clip_grad_norm,
}

each_way = pytest.mark.parametrize("foreach", WAYS)
each_dtype = pytest.mark.parametrize(
    "dtype", [*DTYPES.values(), torch.float16, torch.complex64, torch.complex128]
)


def with_gradients(shapes=SHAPES, dtype=torch.float32, device="cpu", step=3, without=(2,)):
    """Parameters with gradients; those at ``without`` have none."""
    params = parameters(shapes, dtype, device)
    for i, (p, g) in enumerate(zip(params, gradients(shapes, dtype, device)[step], strict=True)):
        p.grad = None if i in without else torch.empty_like(p).copy_(g)
    return params


def pair(*args, **kwargs):
    return with_gradients(*args, **kwargs), with_gradients(*args, **kwargs)


def norm_of(params):
    return torchs_get_total_norm([p.grad for p in params if p.grad is not None])


def assert_same_gradients(mine, torchs):
    for i, (p, q) in enumerate(zip(mine, torchs, strict=True)):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            assert_same_bits(p.grad, q.grad, f"gradient {i} {tuple(p.shape)}")


# ------------------------------------------------------------------ torch's bits


@each_device
@each_way
@pytest.mark.parametrize("factor", [0.3, 0.95, 3])
@pytest.mark.parametrize("norm_type", NORMS)
def test_clipping_by_norm_has_torchs_bits(norm_type, factor, foreach, device):
    # The least or largest element of nothing is no number; torch raises.
    extreme = math.isinf(float(norm_type))
    shapes = tuple(shape for shape in SHAPES if not (extreme and 0 in shape))
    mine, torchs = pair(shapes, device=device)
    max_norm = factor * float(norm_of(mine))
    a = ours.clip_grad_norm_(mine, max_norm, norm_type, foreach=foreach)
    b = theirs.clip_grad_norm_(torchs, max_norm, norm_type, foreach=foreach)
    assert_same_bits(a, b, "norm")
    assert_same_gradients(mine, torchs)


@each_way
@each_dtype
@pytest.mark.parametrize("shapes", [SHAPES, BIG], ids=["small", "big"])
@pytest.mark.parametrize("step", [0, 3, 5])
def test_all_dtypes_are_clipped_to_torchs_bits(dtype, foreach, shapes, step):
    for max_norm in (1e-3, 1.0, 1e3, 0, math.inf):
        mine, torchs = pair(shapes, dtype, step=step)
        a = ours.clip_grad_norm_(mine, max_norm, foreach=foreach)
        assert_same_bits(a, theirs.clip_grad_norm_(torchs, max_norm, foreach=foreach), "norm")
        assert_same_gradients(mine, torchs)
    if not dtype.is_complex:
        for clip_value in (0.0, 1e-3, 0.7, math.inf):
            mine, torchs = pair(shapes, dtype, step=step)
            ours.clip_grad_value_(mine, clip_value, foreach=foreach)
            theirs.clip_grad_value_(torchs, clip_value, foreach=foreach)
            assert_same_gradients(mine, torchs)


@each_way
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -0.0])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_extraordinary_values_are_treated_as_torch_treats_them(value, at, foreach):
    for mine_fn in (ours.clip_grad_norm_, ours.clip_grad_value_):
        mine, torchs = pair(BIG, without=())
        for params in (mine, torchs):
            params[at].grad[..., -1] = value
        mine_fn(mine, 0.5, foreach=foreach)
        TORCHS[mine_fn](torchs, 0.5, foreach=foreach)
        assert_same_gradients(mine, torchs)


@each_way
def test_a_mixture_of_dtypes_has_torchs_bits(foreach):
    for max_norm in (0.1, 1e6):
        lists = [
            [
                p
                for dtype in (torch.bfloat16, torch.float64, torch.complex64, torch.float32)
                for p in with_gradients(BIG, dtype)
            ]
            for _ in range(2)
        ]
        a = ours.clip_grad_norm_(lists[0], max_norm, foreach=foreach)
        b = theirs.clip_grad_norm_(lists[1], max_norm, foreach=foreach)
        assert_same_bits(a, b, "norm")
        assert_same_gradients(*lists)
        assert_same_bits(
            ours.get_total_norm([p.grad for p in lists[0] if p.grad is not None]),
            torchs_get_total_norm([p.grad for p in lists[1] if p.grad is not None]),
            "norm",
        )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_way
def test_a_mixture_of_devices_has_torchs_bits(foreach):
    lists = [with_gradients() + with_gradients(device="cuda") for _ in range(2)]
    a = ours.clip_grad_norm_(lists[0], 0.1, foreach=foreach)
    assert_same_bits(a, theirs.clip_grad_norm_(lists[1], 0.1, foreach=foreach), "norm")
    assert_same_gradients(*lists)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "clip",
    [
        partial(ours.clip_grad_norm_, max_norm=0.1),
        partial(ours.clip_grad_value_, clip_value=0.1),
        ours.adaptive_clip_grad_,
    ],
)
def test_nothing_waits_for_the_gpu(clip):
    params = with_gradients(device="cuda")
    clip(params)
    torch.cuda.set_sync_debug_mode("error")
    try:
        clip(params)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_way
@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_sparse_gradients_are_treated_as_torch_treats_them(foreach):
    def params():
        p, q = torch.zeros(4, requires_grad=True), torch.zeros(3, requires_grad=True)
        p.grad = torch.sparse_coo_tensor([[0, 2, 0]], [1.0, 2.0, 3.0], (4,))
        q.grad = torch.ones(3)
        return [p, q]

    mine, torchs = params(), params()
    a = ours.clip_grad_norm_(mine, 0.5, foreach=foreach)
    assert_same_bits(a, theirs.clip_grad_norm_(torchs, 0.5, foreach=foreach), "norm")
    assert_same_gradients(mine, torchs)
    for clip in (ours.clip_grad_value_, theirs.clip_grad_value_):
        with pytest.raises(NotImplementedError, match="Sparse"):
            clip(mine, 0.5, foreach=foreach)
    with pytest.raises(RuntimeError, match="of layout"):
        ours.adaptive_clip_grad_(mine, foreach=foreach)
    assert_same_gradients(mine, torchs)


@each_way
def test_a_norm_given_is_used_as_torch_uses_it(foreach):
    for total in (torch.tensor(7.5), torch.tensor(1e-9), torch.tensor(7.5, dtype=torch.float64)):
        mine, torchs = pair()
        ours.clip_grads_with_norm_(mine, 0.5, total, foreach)
        torchs_clip_grads_with_norm_(torchs, 0.5, total, foreach)
        assert_same_gradients(mine, torchs)


@each_way
def test_a_norm_that_is_not_finite_is_an_error_if_asked_for_and_changes_nothing(foreach):
    for value in (math.nan, math.inf):
        mine, torchs = pair()
        messages = []
        for fn, params in ((ours.clip_grad_norm_, mine), (theirs.clip_grad_norm_, torchs)):
            params[0].grad[0] = value
            with pytest.raises(RuntimeError) as error:
                fn(params, 1.0, error_if_nonfinite=True, foreach=foreach)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
        assert_same_gradients(mine, torchs)


# ------------------------------------------------------------------ what may be given


@pytest.mark.parametrize("mine", TORCHS, ids=lambda f: f.__name__)
def test_signatures_are_torchs(mine):
    a, b = inspect.signature(mine), inspect.signature(TORCHS[mine])
    assert [(p.name, p.default, p.kind) for p in a.parameters.values()] == [
        (p.name, p.default, p.kind) for p in b.parameters.values()
    ]


def test_all_names_of_torch_are_there():
    assert set(theirs.__all__) <= set(ours.__all__)
    assert all(hasattr(ours, name) for name in ours.__all__)


@pytest.mark.parametrize("kind", [tuple, iter, lambda ps: (p for p in ps), lambda ps: ps[0]])
def test_parameters_may_come_in_any_form(kind):
    mine, torchs = pair()
    total = ours.clip_grad_norm_(kind(mine), 0.1)
    assert_same_bits(total, theirs.clip_grad_norm_(kind(torchs), 0.1), "norm")
    ours.clip_grad_value_(kind(mine), 1e-4)
    theirs.clip_grad_value_(kind(torchs), 1e-4)
    ours.clip_grads_with_norm_(kind(mine), 1e-5, total)
    torchs_clip_grads_with_norm_(kind(torchs), 1e-5, total)
    assert_same_gradients(mine, torchs)
    before = [p.grad for p in mine]
    ours.adaptive_clip_grad_(kind(mine))
    assert all(p.grad is g for p, g in zip(mine, before, strict=True))


def test_where_there_is_nothing_to_clip_the_norm_is_zero():
    for params in ([], [torch.zeros(3, requires_grad=True)]):
        a, b = ours.clip_grad_norm_(params, 1.0), theirs.clip_grad_norm_(params, 1.0)
        assert_same_bits(a, b, "norm")
        ours.clip_grad_value_(params, 1.0)
        ours.adaptive_clip_grad_(params)
        ours.clip_grads_with_norm_(params, 1.0, a)
    assert_same_bits(ours.get_total_norm([]), torch.tensor(0.0), "norm")


def test_an_empty_generator_is_warned_of_where_it_is_given():
    with pytest.warns(UserWarning, match="empty generator, no gradient clipping") as record:
        ours.clip_grad_norm_((p for p in []), 1.0)
    assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.clip_grad_norm_([], 1.0)


def test_the_name_of_old_warns_and_clips():
    mine, torchs = pair()
    with pytest.warns(FutureWarning, match="`torch.nn.utils.clip_grad_norm` is now deprecated"):
        ours.clip_grad_norm(mine, 0.1)
    theirs.clip_grad_norm_(torchs, 0.1)
    assert_same_gradients(mine, torchs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ps: ours.clip_grad_norm_(ps, -1), "max_norm must be a number >= 0, but is -1.0"),
        (lambda ps: ours.clip_grad_norm_(ps, math.nan), "max_norm .* nan"),
        (lambda ps: ours.clip_grads_with_norm_(ps, -2, torch.tensor(1.0)), "max_norm .* -2.0"),
        (lambda ps: ours.clip_grad_value_(ps, -0.5), "clip_value .* -0.5"),
        (lambda ps: ours.clip_grad_value_(ps, math.nan), "clip_value .* nan"),
        (lambda ps: ours.adaptive_clip_grad_(ps, 0), "clip_factor must be positive .* 0"),
        (lambda ps: ours.adaptive_clip_grad_(ps, -0.1), "clip_factor .* -0.1"),
        (lambda ps: ours.adaptive_clip_grad_(ps, math.nan), "clip_factor .* nan"),
        (lambda ps: ours.adaptive_clip_grad_(ps, math.inf), "clip_factor .* inf"),
        (lambda ps: ours.adaptive_clip_grad_(ps, eps=0), "eps must be positive .* 0"),
    ],
)
def test_bad_bounds_are_refused_before_anything_changes(call, message):
    params, before = pair()
    with pytest.raises(ValueError, match=message):
        call(params)
    assert_same_gradients(params, before)


def test_lists_are_refused_where_there_are_none_before_anything_changes():
    params = [*with_gradients(), torch.zeros(3, device="meta", requires_grad=True)]
    params[-1].grad = torch.zeros(3, device="meta")
    before = with_gradients()
    for mine in (
        lambda: ours.clip_grad_value_(params, 1e-9, foreach=True),
        lambda: ours.clip_grads_with_norm_(params, 1e-9, torch.tensor(1.0), foreach=True),
    ):
        with pytest.raises(
            RuntimeError, match="foreach=True was passed, but can't use the foreach"
        ):
            mine()
        assert_same_gradients(params[:-1], before)


def test_clipping_is_not_recorded_and_draws_no_random_numbers():
    state = torch.get_rng_state()
    params = with_gradients()
    p = params[0]
    p.grad = p.grad.clone().requires_grad_()  # as create_graph=True leaves them
    total = ours.clip_grad_norm_(params, 0.1)
    ours.clip_grad_value_(params, 1e-3)
    ours.adaptive_clip_grad_(params)
    assert not total.requires_grad
    assert p.grad.is_leaf
    assert torch.equal(state, torch.get_rng_state())


def test_gradients_within_the_norm_are_not_written_to():
    params = with_gradients()
    versions = [p.grad._version for p in params if p.grad is not None]
    ours.clip_grad_norm_(params, 1e6)
    assert versions == [p.grad._version for p in params if p.grad is not None]


def test_clipping_goes_into_one_graph_with_others():
    grads = [torch.ones(3, 2), torch.full((4,), 2.0)]

    @torch.compile(fullgraph=True, backend="eager")
    def total(x, y):
        return ours.get_total_norm([x, y])

    @torch.compile(fullgraph=True, backend="eager")
    def scaled(p, q):
        ours.clip_grads_with_norm_([p, q], 1.0, torch.ones(()) * 4)

    assert_same_bits(total(*grads), torchs_get_total_norm(grads), "norm")
    params = [torch.zeros_like(g, requires_grad=True) for g in grads]
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    scaled(*params)
    assert params[0].grad[0, 0] == 1.0 * (1.0 / (4 + 1e-6))


# ------------------------------------------------------------------ adaptive clipping


def adaptively_clipped(w: Tensor, g: Tensor, clip_factor: float, eps: float, p: float) -> Tensor:
    """Equation 3 in float64, a unit after the other."""
    result = g.to(torch.promote_types(g.dtype, torch.float64)).clone()
    units = [()] if w.dim() <= 1 else [(i,) for i in range(w.shape[0])]

    def norm(x: Tensor) -> float:
        values = x.detach().abs().double().flatten()
        return float(values.max() if p == math.inf else values.pow(p).sum() ** (1 / p))

    for unit in units:
        if not result[unit].numel():
            continue
        weight_norm, grad_norm = max(norm(w[unit]), eps), norm(g[unit])
        if grad_norm / weight_norm > clip_factor:
            result[unit] *= clip_factor * weight_norm / grad_norm
    return result


AGC_SHAPES = (*SHAPES, (6, 2, 3), (3, 2, 2, 2, 2), (1, 9), (9, 1), (2, 0))


@each_device
@each_way
@each_dtype
@pytest.mark.parametrize(
    ("clip_factor", "eps", "p"),
    [(0.01, 1e-3, 2.0), (0.7, 1.5, 2.0), (0.3, 1e-3, 1.0), (0.1, 1, math.inf)],
)
def test_adaptive_clipping_is_the_papers_equation(clip_factor, eps, p, dtype, foreach, device):
    for step in (0, 3, 5):
        params = with_gradients(AGC_SHAPES, dtype, device, step)
        with torch.no_grad():
            params[0][1] = 0  # a unit of weights that is zero
            params[0].grad[2] = 0  # one of gradients
        before = with_gradients(AGC_SHAPES, dtype, device, step)
        before[0].grad[2] = 0
        ours.adaptive_clip_grad_(params, clip_factor, eps, p, foreach)
        for q, b in zip(params, before, strict=True):
            if b.grad is None:
                assert q.grad is None
                continue
            expected = adaptively_clipped(q, b.grad, clip_factor, eps, p)
            # A norm of at most 54 terms, rounded in float32 or better, and five operations.
            rounded = expected.to(dtype)
            if q.numel():
                assert epsilons(q.grad, rounded) <= 8
            untouched = expected == b.grad.to(expected.dtype)
            assert same_bits(q.grad[untouched], b.grad[untouched])


def test_adaptive_clipping_bounds_the_ratio_of_every_unit():
    params = with_gradients(BIG, without=(), step=2)
    ours.adaptive_clip_grad_(params, 0.02)
    for p in params:
        units = (lambda x: x.flatten(1)) if p.dim() > 1 else (lambda x: x[None])
        ratios = units(p.grad).norm(dim=1) / units(p.detach()).norm(dim=1)
        # The largest is lambda itself, to the rounding of two norms and a product.
        assert ratios.max() <= 0.02 * (1 + 1e-5)
        assert ratios.max() >= 0.02 * (1 - 1e-5)


def test_adaptive_clipping_of_half_precision_neither_overflows_nor_vanishes():
    w = torch.full((4, 512), 1e-4, dtype=torch.float16).requires_grad_()
    w.grad = torch.full_like(w, 4e4)
    expected = adaptively_clipped(w, w.grad, 0.01, 1e-3, 2.0).half()
    ours.adaptive_clip_grad_([w])
    assert expected.max() > 0
    assert epsilons(w.grad, expected) <= 1


def test_adaptive_clipping_keeps_a_nan_to_its_unit():
    params = with_gradients(BIG, without=())
    params[0].grad[7, 3] = math.nan
    ours.adaptive_clip_grad_(params)
    rows = params[0].grad.isnan().all(dim=1)
    assert rows[7]
    assert rows.sum() == 1
    assert not params[1].grad.isnan().any()
