"""Muon: torch's bits on matrices, the theory of its iteration, and what goes beyond torch."""

import copy
import io
import pickle

import pytest
import torch
from cases import each_dtype, set_gradients, snapshot
from torch.nn import Parameter

from scratch_optim import AdamW
from scratch_optim.muon import SCALES, Muon, newton_schulz
from scratch_optim.testing.compare import assert_same, assert_same_bits
from scratch_optim.testing.options import describe
from scratch_optim.testing.subject import gradients, parameters

KINDS = (Muon, torch.optim.Muon)
QUINTIC = (3.4445, -4.7750, 2.0315)
SHAPES = ((5, 3), (7, 4), (1, 1), (64, 27), (10, 64), (0, 3), (3, 5), (7, 4))
MIXED = ((5, 3), (7,), (4, 3, 3, 2), (), (6, 4), (33,))
MATRICES, OTHERS = (0, 2, 4), (1, 3, 5)
ALL_OPTIONS = [
    {},
    {"lr": 0.1, "weight_decay": 0},
    {"nesterov": False},
    {"momentum": 0},
    {"momentum": 1.0},
    {"eps": 1e3},
    {"ns_steps": 0},
    {"ns_steps": 3},
    {"ns_coefficients": (2.0, -1.5, 0.5)},
    {"adjust_lr_fn": "original"},
    {"adjust_lr_fn": "match_rms_adamw"},
    {"adjust_lr_fn": "spectral_unclamped"},
    {"lr": torch.tensor(0.1), "weight_decay": 0.3},
    {"lr": torch.tensor([0.1], dtype=torch.float64)},
]


def torch_takes(options):
    """Not spectral_unclamped in torch 2.11."""
    try:
        torch.optim.Muon([Parameter(torch.ones(2, 2))], **options)
    except ValueError:
        return False
    return True


OPTIONS = [options for options in ALL_OPTIONS if torch_takes(options)]
each_options = pytest.mark.parametrize("options", OPTIONS, ids=describe)


def steps(optimizer, params, some, dtype=torch.float32, which=None):
    """Take steps; ``which`` of the gradients of all ``MIXED`` are those of the parameters."""
    shapes = tuple(tuple(p.shape) for p in params) if which is None else MIXED
    for grads in gradients(shapes, dtype)[some]:
        grads = grads if which is None else [grads[i] for i in which]
        set_gradients(
            params, [torch.empty_like(p).copy_(g) for p, g in zip(params, grads, strict=True)]
        )
        optimizer.step()


def check(a, b):
    for i, (p, q) in enumerate(zip(a[1], b[1], strict=True)):
        what = f"parameter {i} {tuple(p.shape)}"
        assert_same_bits(p, q, what)
        assert_same(a[0].state[p], b[0].state[q], what)


def pair(options, dtype=torch.float32, shapes=SHAPES):
    params = [parameters(shapes, dtype) for _ in KINDS]
    return [(kind(p, **options), p) for kind, p in zip(KINDS, params, strict=True)]


# ------------------------------------------------------------------ torch's Muon


@each_dtype
@each_options
@pytest.mark.parametrize("way", [{}, {"foreach": False}], ids=describe)
def test_matrices_get_the_bits_of_torch(options, dtype, way):
    if dtype == torch.bfloat16 and not options.get("nesterov", True) and torch.__version__ < "2.15":
        pytest.skip("torch's divides the momentum itself by its norm, where it is bfloat16 already")
    both = pair(options, dtype)
    both[0][0].param_groups[0].update(way)
    for optimizer, params in both:
        steps(optimizer, params, slice(None), dtype)
    check(*both)


@pytest.mark.parametrize("ours_first", [True, False])
@each_options
def test_either_goes_on_from_the_state_dict_of_the_other(options, ours_first):
    both = pair(options)
    for optimizer, params in both:
        steps(optimizer, params, slice(4))
    a, b = both if ours_first else both[::-1]
    b[0].load_state_dict(copy.deepcopy(a[0].state_dict()))
    for optimizer, params in both:
        steps(optimizer, params, slice(4, None))
    check(*both)


def test_momentum_follows_a_schedule_as_in_torch():
    both = pair({})
    for optimizer, params in both:
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=8)
        for step in range(7):
            steps(optimizer, params, slice(step, step + 1))
            schedule.step()
    check(*both)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1},
        {"lr": torch.tensor([0.1, 0.2])},
        {"momentum": -0.1},
        {"weight_decay": -0.1},
        {"adjust_lr_fn": "none"},
        {"ns_steps": 100},
        {"ns_coefficients": (1.0, 2.0)},
    ],
    ids=describe,
)
def test_options_out_of_range_are_refused_with_torchs_words(options):
    messages = []
    for kind in KINDS:
        p = Parameter(torch.ones(2, 2))
        p.grad = torch.ones(2, 2)
        with pytest.raises(ValueError) as error:  # noqa: PT011
            kind([p], **options).step()  # torch sees some of them here only
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    with pytest.raises(ValueError):  # noqa: PT011
        Muon([Parameter(torch.ones(2, 2))], **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": float("nan")}, "Learning rate should be >= 0 but is: nan"),
        ({"momentum": float("nan")}, "momentum should be >= 0 but is: nan"),
        ({"weight_decay": float("inf")}, "weight decay should be >= 0 but is: inf"),
        ({"eps": -1e-7}, "epsilon value: -1e-07"),
        ({"ns_steps": -1}, "ns_steps should be >= 0 but is: -1"),
    ],
)
def test_what_torch_takes_by_accident_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Muon([Parameter(torch.ones(2, 2))], **options)


@pytest.mark.parametrize("shape", [(3,), ()])
def test_what_is_no_matrix_is_refused_with_torchs_words(shape):
    messages = []
    for kind in KINDS:
        with pytest.raises(ValueError, match="only supports 2D") as error:
            kind([Parameter(torch.ones(2, 2)), Parameter(torch.ones(shape))])
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    optimizer = Muon([Parameter(torch.ones(2, 2))])
    with pytest.raises(ValueError, match="only supports 2D"):
        optimizer.add_param_group({"params": [Parameter(torch.ones(shape))]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("bad", ["complex", "sparse"])
def test_complex_parameters_and_sparse_gradients_are_refused(bad):
    messages = []
    for kind in KINDS:
        p = Parameter(torch.ones(3, 2, dtype=torch.complex64 if bad == "complex" else None))
        p.grad = torch.ones_like(p).to_sparse() if bad == "sparse" else torch.ones_like(p)
        optimizer = kind([p])
        with pytest.raises(RuntimeError) as error:
            optimizer.step()
        messages.append(str(error.value))
    assert messages[0] == messages[1]


# ------------------------------------------------------------------ the iteration


def polynomial(s, steps, coefficients=QUINTIC):
    a, b, c = coefficients
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return s


def numbers(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("coefficients", [QUINTIC, (1.5, -0.5, 0.0)], ids=["quintic", "cubic"])
@pytest.mark.parametrize("number", [0, 1, 5])
@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5), (5, 1), (2, 3, 4, 7)])
def test_each_singular_value_goes_through_the_polynomial(shape, number, coefficients):
    """In float64; a step multiplies an error by p'(0) = a at most, so by 3.5^5 = 500 in five."""
    x = numbers(*shape)
    U, S, Wh = torch.linalg.svd(x, full_matrices=False)
    norm = S.square().sum(-1, keepdim=True).sqrt()
    expected = U @ torch.diag_embed(polynomial(S / norm, number, coefficients)) @ Wh
    result = newton_schulz(x, number, coefficients)
    torch.testing.assert_close(result, expected, rtol=0, atol=500 * 20 * 2.3e-16)


def test_singular_values_end_where_the_polynomial_sends_them():
    s = polynomial(torch.linspace(2e-3, 1, 100_001, dtype=torch.float64), 5)
    low, high = s.min().item(), s.max().item()
    assert (low, high) == (pytest.approx(0.68, abs=0.005), pytest.approx(1.205, abs=0.005))
    S = torch.logspace(-2, 0, 12, dtype=torch.float64)
    U, W = (torch.linalg.qr(numbers(n, 12, seed=n))[0] for n in (20, 12))
    x = (U * S) @ W.T
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        values = torch.linalg.svdvals(newton_schulz(x.to(dtype)).double())
        # Twice what a rounding of x is multiplied by in five steps, where x has Frobenius norm 1.
        slack = 2 * 500 * torch.finfo(dtype).eps * S.min() if dtype != torch.bfloat16 else 0.1
        assert values.min() > low - slack
        assert values.max() < high + slack


def test_the_least_norm_bounds_the_divisor():
    x = numbers(3, 4) * 1e-3
    torch.testing.assert_close(newton_schulz(x, 0, QUINTIC, eps=2.0), x / 2, rtol=1e-15, atol=0)
    assert newton_schulz(torch.zeros(3, 4)).eq(0).all()


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (16, 144)])
def test_a_batch_is_its_matrices_one_by_one(shape):
    """In float64, up to the order of the sums: as above."""
    x = numbers(5, *shape)
    apart = torch.stack([newton_schulz(y) for y in x])
    torch.testing.assert_close(newton_schulz(x), apart, rtol=0, atol=500 * 20 * 2.3e-16)
    before = x.clone()
    newton_schulz(x, 1)
    assert_same_bits(x, before, "what was handed in")


@each_dtype
def test_batches_differ_from_single_matrices_by_roundings_in_bfloat16(dtype):
    """Each of the 5 steps rounds to bfloat16, and multiplies what was rounded by up to 3.4445."""
    shapes = ((16, 144),) * 5 + ((9, 4),) * 3 + ((4, 3, 3, 2),) * 2
    params = [parameters(shapes, dtype) for _ in range(2)]
    for p, foreach in zip(params, (True, False), strict=True):
        optimizer = Muon(p, foreach=foreach, lr=1.0, weight_decay=0)
        steps(optimizer, p, slice(1), dtype)
    for p, q in zip(*params, strict=True):
        scale = SCALES[None](p.size(0), p[0].numel())
        assert (p - q).abs().max() <= scale * 0.05 + 2 * torch.finfo(dtype).eps * q.abs().max()


# ------------------------------------------------------------------ convolutions


@each_options
@pytest.mark.parametrize("shape", [(4, 3, 3, 2), (20, 3, 2, 2), (4, 5, 3), (3, 2, 2, 2, 2)])
def test_a_convolution_is_the_matrix_of_its_outputs(shape, options):
    conv = parameters((shape,))
    matrix = [Parameter(conv[0].detach().flatten(1).contiguous())]
    ours, torchs = Muon(conv, **options), torch.optim.Muon(matrix, **options)
    for grads in gradients((shape,)):
        conv[0].grad = torch.empty_like(conv[0]).copy_(grads[0])
        matrix[0].grad = grads[0].flatten(1).contiguous()
        ours.step()
        torchs.step()
    assert_same_bits(conv[0].flatten(1), matrix[0], "the weight")
    buffers = [o.state[p]["momentum_buffer"] for o, (p,) in ((ours, conv), (torchs, matrix))]
    assert_same_bits(buffers[0].flatten(1), buffers[1], "the momentum")
    assert buffers[0].shape == shape
    assert buffers[0].stride() == conv[0].stride()


@pytest.mark.parametrize("foreach", [None, True])
def test_the_layout_of_a_convolution_changes_nothing(foreach):
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        params = [
            Parameter(p.detach().contiguous(memory_format=memory_format))
            for p in parameters(((4, 3, 3, 2), (4, 3, 3, 2)))
        ]
        addresses = [p.data_ptr() for p in params]
        optimizer = Muon(params, foreach=foreach)
        steps(optimizer, params, slice(None))
        assert [p.data_ptr() for p in params] == addresses
        assert all(p.is_contiguous(memory_format=memory_format) for p in params)
        results.append(params)
    for p, q in zip(*results, strict=True):
        assert_same_bits(p, q, "the weight")


# ------------------------------------------------------------------ AdamW for the others

AUXILIARY = [
    {},
    {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    {"lr": 0.01, "amsgrad": True, "foreach": False},
]


@each_dtype
@pytest.mark.parametrize("auxiliary", AUXILIARY, ids=describe)
def test_what_is_no_matrix_gets_the_bits_of_adamw(auxiliary, dtype):
    params, matrices, others = (parameters(MIXED, dtype) for _ in range(3))
    matrices = [matrices[i] for i in MATRICES]
    others = [others[i] for i in OTHERS]
    both = Muon(params, lr=0.02, auxiliary=auxiliary)
    steps(both, params, slice(None), dtype)
    muon, adamw = Muon(matrices, lr=0.02), torch.optim.AdamW(others, **auxiliary)
    steps(muon, matrices, slice(None), dtype, MATRICES)
    steps(adamw, others, slice(None), dtype, OTHERS)
    check((both, [params[i] for i in MATRICES]), (muon, matrices))
    check((both, [params[i] for i in OTHERS]), (adamw, others))


def test_a_group_given_to_adamw_is_adamws_whatever_its_shapes():
    params, others = parameters(MIXED), parameters(MIXED)
    optimizer = Muon([{"params": params, "use_muon": False, "lr": 0.1}], auxiliary={"eps": 1e-2})
    reference = torch.optim.AdamW(others, lr=0.1, eps=1e-2)
    for o, p in ((optimizer, params), (reference, others)):
        steps(o, p, slice(None))
    check((optimizer, params), (reference, others))
    assert optimizer.param_groups[0].keys() == {*AdamW(others).param_groups[0], "use_muon"}


def test_a_split_group_has_its_matrices_first_and_each_its_own_options():
    names = [(f"p{i}", p) for i, p in enumerate(parameters(MIXED))]
    optimizer = Muon(
        [
            {"params": names[:3], "lr": 0.5, "name": "body"},
            {"params": names[3:], "weight_decay": 0.25, "use_muon": False},
        ],
        auxiliary={"lr": 0.125},
    )
    extra = parameters(((2, 2), (3, 3)), seed=1)
    optimizer.add_param_group({"params": [("q0", extra[0]), ("q1", extra[1])], "momentum": 0.5})
    seen = [
        (g["param_names"], g["lr"], g.get("use_muon", True), g.get("name"))
        for g in optimizer.param_groups
    ]
    assert seen == [
        (["p0", "p2"], 0.5, True, "body"),
        (["p1"], 0.125, False, "body"),
        (["p3", "p4", "p5"], 0.125, False, None),
        (["q0", "q1"], 1e-3, True, None),
    ]
    assert optimizer.param_groups[2]["weight_decay"] == 0.25
    assert optimizer.param_groups[1]["weight_decay"] == 1e-2
    assert "momentum" not in optimizer.param_groups[1]
    assert "use_muon: False" in repr(optimizer)


@pytest.mark.parametrize("copied", ["state_dict", "deepcopy", "pickle", "file"])
def test_it_goes_on_from_a_copy_with_the_same_bits(copied):
    params, others = parameters(MIXED), parameters(MIXED)
    a, b = (Muon(p, auxiliary={"lr": 0.01}) for p in (params, others))
    steps(a, params, slice(4))
    steps(b, others, slice(4))
    if copied == "state_dict":
        others = parameters(MIXED, seed=7)
        for p, q in zip(others, params, strict=True):
            p.data.copy_(q.data)
        b = Muon(others, auxiliary={"lr": 0.5})
        b.load_state_dict(a.state_dict())
    elif copied == "file":
        file = io.BytesIO()
        torch.save(a.state_dict(), file)
        file.seek(0)
        b.load_state_dict(torch.load(file))
    else:
        b, others = (
            copy.deepcopy((a, params))
            if copied == "deepcopy"
            else pickle.loads(pickle.dumps((a, params)))
        )
        b.add_param_group({"params": [Parameter(torch.ones(3))]})
        assert b.param_groups.pop()["lr"] == 0.01
    steps(a, params, slice(4, None))
    steps(b, others, slice(4, None))
    check((a, params), (b, others))


def test_a_checkpoint_of_the_other_kind_of_group_is_refused():
    optimizer = Muon([{"params": parameters(((3, 2),)), "use_muon": False}])
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="use_muon=True, but that of this optimizer has use_muon="):
        optimizer.load_state_dict(torch.optim.Muon(parameters(((3, 2),))).state_dict())
    assert_same(snapshot(optimizer), before)


def test_a_refused_group_leaves_the_optimizer_as_it_was():
    params = parameters(MIXED)
    optimizer = Muon(params, auxiliary={})
    new = Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        optimizer.add_param_group({"params": [new, params[1]]})
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"auxiliary": {"momentum": 0.9}}, TypeError, "momentum"),
        ({"auxiliary": {"betas": (1.0, 0.9)}}, ValueError, "beta parameter at index 0: 1.0"),
        ({"auxiliary": {"differentiable": True}}, ValueError, "does not support differentiable"),
        ({"use_muon": False, "lr": -1}, ValueError, "learning rate: -1"),
        ({"use_muon": False, "beta": (0.9, 0.99)}, ValueError, "did you mean 'betas'"),
    ],
)
def test_bad_options_of_adamw_are_refused(options, error, words):
    options = dict(options)
    auxiliary = options.pop("auxiliary", None)
    with pytest.raises(error, match=words):
        Muon([{"params": [Parameter(torch.ones(3))], **options}], auxiliary=auxiliary)


def test_each_group_follows_its_own_schedule():
    params = parameters(MIXED)
    optimizer = Muon(params, lr=0.5, auxiliary={"lr": 0.25})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    steps(optimizer, params, slice(1))
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.125]


def test_it_descends():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(64, 3, 6, 6, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(128, 4)
        )
    labels = X.mean((2, 3)).argmax(1)
    optimizer = Muon(model.parameters(), lr=0.05, auxiliary={"lr": 0.01})

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(model(X), labels)
        value.backward()
        return value

    first = loss().item()
    for _ in range(60):
        optimizer.step(loss)
    assert loss().item() < first / 10
    assert all(p.any() for p in model.parameters())


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_matrices_are_made_orthogonal_in_the_given_dtype(dtype, foreach):
    params = parameters(((5, 3), (5, 3), (2, 3, 2)))
    before = [p.detach().clone() for p in params]
    optimizer = Muon(params, lr=1.0, weight_decay=0, momentum=0.0, ns_dtype=dtype, foreach=foreach)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    for p, old in zip(params, before, strict=True):
        matrix = p.grad.flatten(1)
        scale = SCALES["original"](*matrix.shape)
        expected = newton_schulz(matrix, dtype=dtype).view(p.shape).float() * scale
        # products of batches and of single matrices round differently
        eps = torch.finfo(dtype).eps if foreach else 0.0
        close = {"rtol": 0.0, "atol": 50 * eps + 1e-6}
        torch.testing.assert_close(p.detach(), old - expected, **close)


def test_the_dtype_is_that_of_this_optimizer_whatever_is_loaded():
    own, torchs = Muon(parameters(((3, 2),)), ns_dtype=torch.float32), Muon(parameters(((3, 2),)))
    assert torchs.param_groups[0].keys() == torch.optim.Muon(parameters(((3, 2),))).param_groups[
        0
    ].keys() | {"foreach"}
    own.load_state_dict(torchs.state_dict())
    assert own.param_groups[0]["ns_dtype"] == torch.float32
    torchs.load_state_dict(own.state_dict())
    assert "ns_dtype" not in torchs.param_groups[0]
    with pytest.raises(ValueError, match="ns_dtype should be a floating point dtype but is"):
        Muon(parameters(((3, 2),)), ns_dtype=torch.int8)
