"""Penalties and their derivatives, which parameters decay, the projection on a ball of norms."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import scratch_layers
import scratch_optim
from scratch_layers.regularization import (
    decay_groups,
    elastic_net_penalty,
    l1_penalty,
    l2_penalty,
    max_norm_,
)

# penalty of a list, the same of one number, its derivative
PENALTIES = {
    "l1": (l1_penalty, lambda w: w.abs(), lambda w: w.sign()),
    "l2": (l2_penalty, lambda w: w * w / 2, lambda w: w),
    "elastic": (
        lambda W: elastic_net_penalty(W, l1=0.3, l2=0.7),
        lambda w: 0.3 * w.abs() + 0.35 * w * w,
        lambda w: 0.3 * w.sign() + 0.7 * w,
    ),
}


def weights(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    W = [torch.randn(4, 3, 2), torch.randn(5), torch.randn(()), torch.randn(2, 0), torch.zeros(3)]
    W.append(torch.randn(3, 8, 2, 2).to(memory_format=torch.channels_last))
    return [w.to(dtype).requires_grad_() for w in W]


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_penalty_and_gradient_are_the_closed_form(name, dtype):
    penalty, value, derivative = PENALTIES[name]
    W = weights(dtype)
    R = penalty(W)
    wide = torch.promote_types(dtype, torch.float32)
    assert R.dtype == wide
    assert R.shape == ()
    expected = sum(value(w.detach().double()).sum() for w in W)
    # fewer than 200 positive terms: the sum is wrong by at most 200 eps of itself
    assert float(R.detach()) == pytest.approx(float(expected), rel=200 * torch.finfo(wide).eps)
    (128 * R).backward()  # exact in half precision
    for w in W:
        assert w.grad.dtype == dtype
        expected = 128 * derivative(w.detach().double())
        # products and a sum in the wide dtype, rounded once more at the end
        eps = 4 * torch.finfo(wide).eps + torch.finfo(dtype).eps
        assert ((w.grad.double() - expected).abs() <= eps * expected.abs()).all()


@pytest.mark.parametrize("name", PENALTIES)
def test_penalty_is_as_exact_as_a_sum_can_be(name):
    penalty, value, _ = PENALTIES[name]
    torch.manual_seed(0)
    w = torch.randn(1_000_000)
    expected = float(value(w.double()).sum())
    # pairwise: log2(n) = 20 roundings; one after the other it would be 1e-4
    assert float(penalty([w])) == pytest.approx(expected, rel=20 * torch.finfo(w.dtype).eps)


@pytest.mark.parametrize("name", PENALTIES)
def test_penalty_can_be_differentiated_twice_and_transformed(name):
    penalty, _, derivative = PENALTIES[name]
    torch.manual_seed(0)
    W = [torch.randn(3, 2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)]
    leaves = [w.clone().requires_grad_() for w in W]
    assert gradcheck(lambda *W: penalty(W), leaves, check_forward_ad=True)
    assert gradgradcheck(lambda *W: penalty(W), leaves)
    gradient = torch.func.grad(lambda w: penalty([w]))
    torch.testing.assert_close(torch.vmap(gradient)(W[0]), derivative(W[0]))
    compiled = torch.compile(penalty, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(W), penalty(W))


@pytest.mark.parametrize("name", PENALTIES)
def test_derivatives_at_zero(name):
    penalty, _, _ = PENALTIES[name]
    w = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(torch.func.grad(lambda w: penalty([w]))(w), w)
    # not so if it were computed as the square of a norm
    curvature = {"l1": 0.0, "l2": 1.0, "elastic": 0.7}[name]
    hessian = torch.func.hessian(lambda w: penalty([w]))(w)
    torch.testing.assert_close(hessian, curvature * torch.eye(3, dtype=torch.float64))


def test_penalty_of_mixed_dtypes_takes_the_widest():
    W = [torch.full((2,), 3.0, dtype=d) for d in (torch.float16, torch.float64, torch.float32)]
    assert l1_penalty(W).dtype == torch.float64
    assert float(l1_penalty(W)) == 18
    # squares of 300 are out of the range of float16
    assert float(l2_penalty(torch.full((4,), 300.0, dtype=torch.float16))) == 180_000


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_penalty_over_several_devices():
    W = [torch.ones(3, device=d, requires_grad=True) for d in ("cpu", "cuda")]
    R = elastic_net_penalty(W, l1=1.0, l2=1.0)
    R.backward()
    assert R.device == W[0].device
    assert float(R) == 9
    assert [w.grad.tolist() for w in W] == [[2.0] * 3] * 2


def test_penalty_of_a_model_is_that_of_its_decaying_weights():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert torch.equal(l1_penalty(model), l1_penalty([model[0].weight, model[2].weight]))
    assert torch.equal(l2_penalty(model.parameters()), l2_penalty(list(model.parameters())))


def test_elastic_net_reads_a_generator_once():
    W = weights()
    R = elastic_net_penalty((w for w in W), l1=0.3, l2=0.7)
    assert torch.equal(R, 0.3 * l1_penalty(W) + 0.7 * l2_penalty(W))


@pytest.mark.parametrize("library", [torch.optim, scratch_optim], ids=["torch", "scratch"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "RMSprop"])
def test_penalty_with_strength_lambda_is_weight_decay_lambda(library, optimizer):
    results = []
    for in_the_loss in (True, False):
        torch.manual_seed(0)
        w = torch.randn(20, dtype=torch.float64, requires_grad=True)
        x = torch.randn(30, 20, dtype=torch.float64)
        decay = 0 if in_the_loss else 0.1
        opt = getattr(library, optimizer)([w], lr=0.01, weight_decay=decay)
        for _ in range(20):
            opt.zero_grad()
            loss = (x @ w).cos().sum()
            (loss + 0.1 * l2_penalty([w]) if in_the_loss else loss).backward()
            opt.step()
        results.append(w.detach())
    # rounding of the gradient, carried on through 20 steps
    torch.testing.assert_close(results[0], results[1], rtol=1e-11, atol=1e-11)


def test_decoupled_decay_is_not_a_penalty_for_adam():
    def shrinkage(optimizer, penalty, scale):
        w = torch.ones(1, dtype=torch.float64, requires_grad=True)
        opt = optimizer([w], lr=1e-3)
        for sign in (1, -1) * 50:  # a gradient of mean 0
            opt.zero_grad()
            (sign * scale * w.sum() + penalty * l2_penalty([w])).backward()
            opt.step()
        return float(w.detach())

    def adamw(params, lr):
        return torch.optim.AdamW(params, lr=lr, weight_decay=0.1)

    # apart from the decay a step depends on the direction of gradients only, not on their size
    assert shrinkage(adamw, 0, 100.0) == pytest.approx(shrinkage(adamw, 0, 1.0), abs=1e-6)
    coupled = [1 - shrinkage(torch.optim.Adam, 0.1, scale) for scale in (100.0, 1.0)]
    plain = 1 - shrinkage(torch.optim.Adam, 0, 1.0)
    # pulled by λ / sqrt(v): 100 times larger gradients, about 100 times less
    assert (coupled[1] - plain) / (coupled[0] - plain) == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: l1_penalty([]), "there are no parameters to penalize"),
        (lambda: l2_penalty(nn.BatchNorm1d(3)), "there are no parameters to penalize"),
        (lambda: elastic_net_penalty(weights(), l1=-0.1, l2=0), "l1 must be .* but is -0.1"),
        (lambda: elastic_net_penalty(weights(), l1=0, l2=math.nan), "l2 must be .* but is nan"),
        (lambda: max_norm_(weights(), 0.0), "limit must be a number > 0, but is 0.0"),
        (lambda: max_norm_(weights(), math.nan), "limit must be a number > 0, but is nan"),
        (lambda: max_norm_(weights(), 1.0, p=0.5), "p must be a number >= 1, but is 0.5"),
    ],
    ids=range(7),
)
def test_refuses_with_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Which parameters decay


class Odd(nn.Module):
    """Shared and frozen parameters, and those of which a rule by shape alone is wrong."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.norm2d = nn.LayerNorm((3, 6))
        self.rms = nn.RMSNorm((3, 6))
        self.group = scratch_layers.BatchNorm1d(6)
        self.attention = nn.MultiheadAttention(6, 2, add_bias_kv=True)
        self.rnn = nn.LSTM(6, 5)
        self.prelu = nn.PReLU(6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.table = nn.ParameterDict({"relative_position_bias_table": torch.zeros(9, 2)})
        self.scale = nn.Parameter(torch.ones(()))
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.head = nn.Linear(6, 7)
        self.head.weight = self.embed.weight
        self.again = self.head


DECAYING = [
    "embed.weight",
    "token",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "rnn.weight_ih_l0",
    "rnn.weight_hh_l0",
]


def names(groups):
    return [[name for name, _ in group["params"]] for group in groups]


def test_biases_norms_scales_and_slopes_do_not_decay():
    model = Odd()
    groups = decay_groups(model, 0.05, named=True)
    assert [g["weight_decay"] for g in groups] == [0.05, 0.0]
    decaying, others = names(groups)
    assert set(decaying) == set(DECAYING)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert set(decaying) | set(others) == set(trainable)
    assert len(decaying) + len(others) == len(trainable)
    # the order of model.parameters()
    assert decaying == [name for name in trainable if name in DECAYING]
    assert others == [name for name in trainable if name not in DECAYING]
    plain = decay_groups(model, 0.05)
    for group, pairs in zip(plain, groups, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for _, p in pairs["params"]]


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        ("token", ["token"]),
        (["rnn.*", "nothing"], ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]),
        (iter(["*.weight_?h_l0"]), ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]),
        (["head.weight"], ["embed.weight"]),  # the second name of a shared parameter
        (["again.*"], ["embed.weight"]),  # its third
        (["Token", "weight"], []),
    ],
    ids=range(6),
)
def test_patterns_exempt_by_any_name(patterns, kept):
    decaying, others = names(decay_groups(Odd(), 0.05, patterns, named=True))
    assert set(DECAYING) - set(decaying) == set(kept)
    assert set(kept) <= set(others)


def test_groups_without_members_are_left_out():
    linear = nn.Linear(2, 3, bias=False)
    assert decay_groups(linear, 0.1) == [{"params": [linear.weight], "weight_decay": 0.1}]
    assert [g["weight_decay"] for g in decay_groups(nn.LayerNorm(3), 0.1)] == [0.0]
    assert decay_groups(linear.requires_grad_(False), 0.1) == []


@pytest.mark.parametrize("library", [torch.optim, scratch_optim], ids=["torch", "scratch"])
def test_optimizers_take_the_groups_with_and_without_names(library):
    for model in (Odd(), nn.Linear(2, 2, bias=False)):
        for named in (False, True):
            opt = library.AdamW(decay_groups(model, 0.05, named=named), lr=0.1)
            before = copy.deepcopy(model.state_dict())
            opt.zero_grad()
            sum(0 * p.sum() for p in model.parameters()).backward()
            opt.step()
            decaying = {id(p) for p in opt.param_groups[0]["params"]}
            for name, p in model.named_parameters():
                factor = 1 - 0.1 * 0.05 if id(p) in decaying else 1
                torch.testing.assert_close(p.detach(), factor * before[name])
            if named:
                state = opt.state_dict()["param_groups"]
                expected = names(decay_groups(model, 0.05, named=True))
                assert [g["param_names"] for g in state] == expected


def test_resnet18_of_torchvision():
    models = pytest.importorskip("torchvision.models")
    model = models.resnet18()
    decaying, others = names(decay_groups(model, 1e-4, named=True))
    weights = ("conv1.weight", "conv2.weight", "downsample.0.weight", "fc.weight")
    assert decaying == [name for name, _ in model.named_parameters() if name.endswith(weights)]
    assert len(decaying) == 21
    assert len(others) == 41


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"]
)
def test_models_of_timm_decay_as_timm_has_them(name):
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_weight_decay

    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10)
    keep = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    mine = decay_groups(model, 0.05, keep)
    theirs = param_groups_weight_decay(model, 0.05, no_weight_decay_list=keep)
    # timm: fewer than two dimensions, a name ending in .bias, or in the set (and its first group
    # is the one without decay)
    tables = {id(p) for n, p in model.named_parameters() if n.endswith("bias_table")}
    theirs = [{id(p) for p in g["params"]} for g in reversed(theirs)]
    assert [{id(p) for p in g["params"]} for g in mine] == [theirs[0] - tables, theirs[1] | tables]
    assert len(tables) == (12 if "swin" in name else 0)


# Max-norm

LAYERS = {
    "linear": (lambda: nn.Linear(5, 7), 0, 7),
    "conv": (lambda: nn.Conv2d(4, 6, 3, groups=2), 0, 6),
    "transposed": (lambda: nn.ConvTranspose1d(3, 5, 2), 1, 5),
    "last": (lambda: nn.Linear(5, 7), -1, 5),
}


def units(w, dim):
    return w.detach().movedim(dim, 0).flatten(1)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_max_norm_scales_each_unit_outside_of_the_ball_and_no_other(name, p, dtype):
    torch.manual_seed(0)
    make, dim, count = LAYERS[name]
    layer = make().to(dtype)
    before = layer.weight.detach().clone(), layer.bias.detach().clone()
    norms = units(before[0].double(), dim).norm(p, dim=1)
    limit = float(norms.sort().values[count // 2]) * 1.001
    max_norm_(layer.parameters(), limit, dim, p)
    assert torch.equal(layer.bias, before[1])
    expected = units(before[0].double(), dim)
    outside = norms > limit
    assert 0 < outside.sum() < count
    result = units(layer.weight, dim)
    assert torch.equal(result[~outside], units(before[0], dim)[~outside])
    expected = expected[outside] * (limit / norms[outside])[:, None]
    # a norm of n values, in float32 or better, and one rounding of the product; float16 has
    # subnormals below 6e-5
    n = expected.shape[1]
    wide = torch.promote_types(dtype, torch.float32)
    eps = n * torch.finfo(wide).eps + torch.finfo(dtype).eps
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    torch.testing.assert_close(result[outside].double(), expected, rtol=eps, atol=tiny)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4), min_size=1, max_size=5
    ),
    st.floats(0.01, 1e4),
)
def test_max_norm_is_the_projection_on_the_ball(rows, limit):
    w = torch.tensor(rows)
    projected = w.clone()
    max_norm_(projected, limit)
    eps = 8 * torch.finfo(w.dtype).eps  # a norm of four values, a quotient and a product
    norms = projected.double().norm(dim=1)
    assert (norms <= limit * (1 + eps)).all()
    # of the points of the ball the nearest: (w - Pw) is along Pw, and outwards
    residual = (w.double() - projected.double()).norm(dim=1)
    distance = (w.double().norm(dim=1) - limit).clamp(min=0)
    assert ((residual - distance).abs() <= eps * w.double().norm(dim=1)).all()
    again = projected.clone()
    max_norm_(again, limit)
    assert ((again - projected).abs() <= eps * projected.abs()).all()


def test_max_norm_agrees_with_renorm():
    torch.manual_seed(0)
    w = torch.randn(50, 4, 3, dtype=torch.float64)
    ours = w.clone()
    max_norm_([ours], 2.5)
    # torch divides by the norm plus 1e-7; norms here are above 1
    torch.testing.assert_close(ours, torch.renorm(w, 2, 0, 2.5), rtol=1e-7, atol=0)


def test_max_norm_of_a_model_reaches_weights_only_and_zero_stays_zero():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm((2, 4)), nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(10.0)
        model[0].weight[0] = 0
    max_norm_(model, 1.0)
    norms = model[0].weight.detach().norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([0.0, 1.0, 1.0, 1.0]))
    assert (model[1].weight == 10).all()
    assert (model[0].bias == 10).all()
    assert model[0].weight.requires_grad


def test_max_norm_refuses_before_anything_changes():
    W = [torch.ones(2, 3, 4), torch.ones(2, 3), torch.ones(0, 2), torch.ones(2)]
    with pytest.raises(IndexError, match=r"dim 2 is not a dimension .*\(2, 3\)"):
        max_norm_(W, 0.1, dim=2)
    assert all((w == 1).all() for w in W)
