"""check_gradients finds the mistakes that were published, and is silent where there are none."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import scratch_layers
from scratch_layers.gradients import STEP, GradientReport, check_gradients


def leaf(*shape, **options):
    return torch.randn(*shape, requires_grad=True, **options)


# what is built and what goes in, in float32; a fresh seed for each
RIGHT = {
    "Linear": lambda: (nn.Linear(5, 3), leaf(4, 5)),
    "Bilinear": lambda: (nn.Bilinear(3, 4, 2), leaf(5, 3), leaf(5, 4)),
    "Conv1d": lambda: (nn.Conv1d(2, 3, 3, padding=1), leaf(2, 2, 6)),
    "Conv2d": lambda: (nn.Conv2d(4, 4, 3, groups=2, padding=1), leaf(2, 4, 5, 5)),
    "ConvTranspose2d": lambda: (nn.ConvTranspose2d(2, 3, 3, stride=2), leaf(2, 2, 3, 3)),
    "BatchNorm2d": lambda: (nn.BatchNorm2d(3), leaf(4, 3, 2, 2)),
    "BatchNorm2d eval": lambda: (nn.BatchNorm2d(3).eval(), leaf(4, 3, 2, 2)),
    "LayerNorm": lambda: (nn.LayerNorm(6), leaf(4, 6)),
    "GroupNorm": lambda: (nn.GroupNorm(2, 4), leaf(3, 4, 2, 2)),
    "InstanceNorm2d": lambda: (nn.InstanceNorm2d(3, affine=True), leaf(3, 3, 3, 2)),
    "RMSNorm": lambda: (nn.RMSNorm(6), leaf(4, 6)),
    "LocalResponseNorm": lambda: (nn.LocalResponseNorm(2), leaf(2, 4, 3, 3)),
    "Softmax": lambda: (nn.Softmax(-1), leaf(4, 6)),
    "LogSoftmax": lambda: (nn.LogSoftmax(-1), leaf(4, 6)),
    "GELU": lambda: (nn.GELU(), leaf(4, 6)),
    "ReLU": lambda: (nn.ReLU(), leaf(4, 6)),
    "ReLU inplace": lambda: (nn.ReLU(inplace=True), leaf(4, 6)),
    "PReLU": lambda: (nn.PReLU(), leaf(4, 6)),
    "Hardswish": lambda: (nn.Hardswish(), leaf(4, 6)),
    "RReLU": lambda: (nn.RReLU(), leaf(4, 6)),
    "Dropout": lambda: (nn.Dropout(0.3), leaf(4, 6)),
    "MaxPool2d": lambda: (nn.MaxPool2d(2), leaf(2, 2, 4, 4)),
    "AdaptiveAvgPool2d": lambda: (nn.AdaptiveAvgPool2d(3), leaf(2, 2, 4, 5)),
    "Upsample": lambda: (nn.Upsample(scale_factor=2, mode="bicubic"), leaf(1, 2, 3, 3)),
    "Embedding": lambda: (nn.Embedding(5, 3), torch.tensor([1, 2, 2])),
    "Embedding sparse": lambda: (nn.Embedding(5, 3, sparse=True), torch.tensor([1, 2, 2])),
    "LSTM": lambda: (nn.LSTM(3, 4), leaf(5, 2, 3), (leaf(1, 2, 4), leaf(1, 2, 4))),
    "GRU": lambda: (nn.GRU(3, 4, bidirectional=True), leaf(5, 2, 3)),
    "MultiheadAttention": lambda: (nn.MultiheadAttention(4, 2), *(leaf(3, 2, 4) for _ in "qkv")),
    "TransformerEncoderLayer": lambda: (nn.TransformerEncoderLayer(4, 2, 8), leaf(3, 2, 4)),
    "CrossEntropyLoss": lambda: (nn.CrossEntropyLoss(), leaf(4, 5), torch.tensor([1, 0, 3, 2])),
    "BCEWithLogitsLoss": lambda: (nn.BCEWithLogitsLoss(), leaf(4, 5), torch.rand(4, 5)),
    "MSELoss": lambda: (nn.MSELoss(), leaf(4, 5), leaf(4, 5)),
    "HuberLoss": lambda: (nn.HuberLoss(), leaf(4, 5), leaf(4, 5)),
    "CosineSimilarity": lambda: (nn.CosineSimilarity(), leaf(4, 5), leaf(4, 5)),
    "weight_norm": lambda: (
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
        leaf(3, 4),
    ),
    "channels_last": lambda: (
        nn.Conv2d(3, 4, 3),
        torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last).requires_grad_(),
    ),
    "fft": lambda: (torch.fft.fft, leaf(4, dtype=torch.complex64)),
    "our BatchNorm2d": lambda: (scratch_layers.BatchNorm2d(3), leaf(4, 3, 2, 2)),
    "our BatchNorm2d eval": lambda: (scratch_layers.BatchNorm2d(3).eval(), leaf(4, 3, 2, 2)),
    "our Dropout": lambda: (scratch_layers.Dropout(0.3), leaf(4, 6)),
    "our AlphaDropout": lambda: (scratch_layers.AlphaDropout(0.3), leaf(4, 6)),
    "network": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 6, 3),
            scratch_layers.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 20),
            nn.ReLU(),
            scratch_layers.Dropout(),
            nn.Linear(20, 5),
        ),
        leaf(5, 3, 6, 6),
    ),
}


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT)
def test_no_false_alarm(make):
    for seed in range(2):
        torch.manual_seed(seed)
        function, *inputs = make()
        report = check_gradients(function, *inputs, seed=seed, entries=8, directions=1)
        report.check()
        assert report
        assert all(row.verdict == "right" for row in report.rows)


@pytest.mark.slow
def test_no_false_alarm_in_a_deep_network_full_of_kinks():
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    report = check_gradients(model, leaf(2, 3, 32, 32), entries=2, directions=1)
    report.check()
    assert len(report.rows) == len(list(model.parameters())) + 1
    assert sum(len(row.undecided) for row in report.rows) <= 5


# ------------------------------------------------------------------------ mistakes


def wrong(forward, backward):
    """A function of x (and more) with a backward of one's own: backward(d_y, *inputs)."""

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return forward(*inputs)

        @staticmethod
        def backward(ctx, d_y):
            return backward(d_y, *ctx.saved_tensors)

    return Wrong.apply


def normalize(x, gamma, eps=1e-5):
    return gamma * (x - x.mean(0)) * (x.var(0, correction=0) + eps).rsqrt()


def normalize_backward(d_y, x, gamma, keep_mean=1.0, keep_var=1.0, s=None):
    s = (x.var(0, correction=0) + 1e-5).rsqrt() if s is None else s(x)
    x_hat = (x - x.mean(0)) * s
    d = d_y * gamma
    d_x = s * (d - keep_mean * d.mean(0) - keep_var * x_hat * (d * x_hat).mean(0))
    return d_x, (d_y * x_hat).sum(0)


def cdf(x):
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def density(x):
    return torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def gelu(x):
    return x * cdf(x)


def scaled(d_y, x, channel, factor):
    d_x = 3 * x * x * d_y
    d_x[:, channel] *= factor
    return d_x


MISTAKES = {
    # published: "the statistics are constants"
    "batch norm without mean and variance": (
        wrong(normalize, lambda d_y, *i: normalize_backward(d_y, *i, keep_mean=0, keep_var=0)),
        lambda: (leaf(6, 3), leaf(3)),
        ["input 0"],
    ),
    "batch norm without the mean": (
        wrong(normalize, lambda d_y, *i: normalize_backward(d_y, *i, keep_mean=0)),
        lambda: (leaf(6, 3), leaf(3)),
        ["input 0"],
    ),
    "batch norm without the variance": (
        wrong(normalize, lambda d_y, *i: normalize_backward(d_y, *i, keep_var=0)),
        lambda: (leaf(6, 3), leaf(3)),
        ["input 0"],
    ),
    "epsilon added to the deviation": (
        wrong(
            normalize,
            lambda d_y, *i: normalize_backward(
                d_y, *i, s=lambda x: 1 / (x.var(0, correction=0).sqrt() + 1e-5)
            ),
        ),
        lambda: (leaf(6, 3), leaf(3)),
        ["input 0", "input 1"],
    ),
    "unbiased variance": (
        wrong(
            normalize,
            lambda d_y, *i: normalize_backward(d_y, *i, s=lambda x: (x.var(0) + 1e-5).rsqrt()),
        ),
        lambda: (leaf(6, 3), leaf(3)),
        ["input 0", "input 1"],
    ),
    # published: "the derivative of GELU is the CDF"
    "GELU's derivative is the CDF": (
        wrong(gelu, lambda d_y, x: d_y * cdf(x)),
        lambda: (leaf(4, 5),),
        ["input 0"],
    ),
    "a sign": (
        wrong(gelu, lambda d_y, x: d_y * (cdf(x) - x * density(x))),
        lambda: (leaf(4, 5),),
        ["input 0"],
    ),
    "a factor in one channel only": (
        wrong(lambda x: x**3, lambda d_y, x: scaled(d_y, x, 5, 0.5)),
        lambda: (leaf(2, 8, 4, 4),),
        ["input 0"],
    ),
    "a transposed weight": (
        wrong(lambda x, w: x @ w, lambda d_y, x, w: (d_y @ w, x.T @ d_y)),
        lambda: (leaf(4, 3), leaf(3, 3)),
        ["input 0"],
    ),
    "a mean for a sum": (
        wrong(lambda x, b: x + b, lambda d_y, x, b: (d_y, d_y.mean(0))),
        lambda: (leaf(4, 3), leaf(3)),
        ["input 1"],
    ),
    "an error of one in a hundred thousand": (
        wrong(torch.exp, lambda d_y, x: d_y * x.exp() * (1 + 1e-5)),
        lambda: (leaf(4, 3),),
        ["input 0"],
    ),
}


@pytest.mark.parametrize(("function", "make", "where"), MISTAKES.values(), ids=MISTAKES)
def test_finds_the_mistake_and_the_tensor_that_it_is_in(function, make, where):
    for seed in range(2):
        torch.manual_seed(seed)
        report = check_gradients(function, *make(), seed=seed, entries=30)
        assert not report
        assert [row.name for row in report.rows if not row] == where
        for row in report.rows:
            assert row.verdict.startswith("right" if row else "WRONG")
        with pytest.raises(AssertionError, match=r"not every gradient is right(.|\n)*WRONG"):
            report.check()


def test_the_right_forms_of_the_mistakes_pass():
    torch.manual_seed(0)
    for function, inputs in (
        (wrong(normalize, normalize_backward), (leaf(6, 3), leaf(3))),
        (wrong(gelu, lambda d_y, x: d_y * (cdf(x) + x * density(x))), (leaf(4, 5),)),
        (wrong(lambda x: x**3, lambda d_y, x: scaled(d_y, x, 5, 1)), (leaf(2, 8, 4, 4),)),
    ):
        check_gradients(function, *inputs).check()


def test_says_where_and_by_how_much():
    torch.manual_seed(0)
    x = leaf(2, 8, 4, 4)
    report = check_gradients(wrong(lambda x: x**3, lambda d_y, x: scaled(d_y, x, 5, 0.5)), x)
    (row,) = report.rows
    assert all(c.index[1] == 5 for c in row.wrong if c.index is not None)
    assert row.worst.index[1] == 5
    assert row.worst.analytic / row.worst.numeric == pytest.approx(0.5)
    assert row.worst.error == pytest.approx(0.5)
    (row,) = check_gradients(wrong(torch.sin, lambda d_y, x: -2 * d_y * x.cos()), leaf(3)).rows
    assert row.verdict == "WRONG in 3 of 3, -2 times what it should be"


@pytest.mark.parametrize("place", [0, 4711, 29_999])
def test_one_wrong_entry_among_many_is_seen_and_found(place):
    def backward(d_y, x):
        d_x = d_y * x.cos()
        d_x.view(-1)[place] += 1
        return d_x

    torch.manual_seed(0)
    (row,) = check_gradients(wrong(torch.sin, backward), leaf(100, 3, 100), entries=10).rows
    assert not row
    assert row.worst.index == np.unravel_index(place, (100, 3, 100))
    assert row.worst.analytic - row.worst.numeric == pytest.approx(1, rel=1e-5)


def test_no_gradient_is_told_from_no_influence():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.cut, self.unused = (nn.Parameter(torch.ones(2)) for _ in range(3))

        def forward(self, x):
            return x * self.used + self.cut.detach()

    report = check_gradients(Cut(), leaf(3, 2))
    assert {row.name: row.verdict for row in report.rows} == {
        "used": "right",
        "cut": "WRONG: no gradient reached it",
        "unused": "right: it has no influence",
        "input 0": "right",
    }
    assert not check_gradients(lambda x: x.detach() * 2, leaf(3))


def test_a_gradient_that_is_nan_is_wrong_even_if_it_is_one_of_many():
    # the classic: where() hides the nan of the branch not taken from y, but not from its gradient
    x = torch.ones(1000)
    x[567] = 0
    report = check_gradients(
        lambda x: torch.where(x > 0.5, (x - 0.5).abs().sqrt() / (x - 0.0), x.square()),
        x.requires_grad_(),
        entries=5,
    )
    assert not report
    assert report.rows[0].verdict == "WRONG: autograd has nan"
    assert report.rows[0].worst.index == (567,)
    assert report.rows[0].worst.numeric == pytest.approx(0, abs=1e-9)


def test_a_gradient_that_is_zero_is_right_although_differences_are_rounding():
    """A bias before a normalization: the error relative to rounding would be 1."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    report = check_gradients(model, leaf(16, 3))
    bias = {row.name: row for row in report.rows}["0.bias"]
    assert bias
    assert abs(bias.worst.analytic) < 1e-12


def test_torchs_own_wrong_gradients_are_found():
    torch.manual_seed(0)
    # by log-probabilities, CTCLoss gives the gradient that is right after log_softmax only
    loss, rest = nn.CTCLoss(), (torch.tensor([[1, 2], [2, 3]]), *torch.tensor([[6, 6], [2, 2]]))
    logits = leaf(6, 2, 5)
    check_gradients(lambda x: loss(x.log_softmax(-1), *rest), logits).check()
    assert not check_gradients(lambda x: loss(x, *rest), logits.log_softmax(-1))


# ------------------------------------------------------------------------ kinks


def test_a_kink_is_named_and_not_called_wrong():
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    report = check_gradients(nn.ReLU(), x)
    assert report
    assert report.rows[0].verdict == "right, 1 undecided (kink or noise at (1,))"
    assert [c.index for c in report.rows[0].undecided] == [(1,)]
    # the mean of the slopes to the left and to the right
    half = check_gradients(lambda x: x / 2, x).rows[0].comparisons[1]
    assert report.rows[0].undecided[0].numeric == pytest.approx(half.analytic)


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_at_a_kink_any_slope_in_between_is_left_undecided(slope):
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    relu = wrong(torch.relu, lambda d_y, x: d_y * ((x > 0) + slope * (x == 0)))
    assert check_gradients(relu, x)


@pytest.mark.parametrize("slope", [-0.2, 1.2, 7.0])
def test_at_a_kink_a_slope_outside_is_wrong(slope):
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    relu = wrong(torch.relu, lambda d_y, x: d_y * ((x > 0) + slope * (x == 0)))
    report = check_gradients(relu, x)
    assert not report
    assert report.rows[0].worst.index == (1,)


def test_nothing_but_kinks_decides_nothing():
    report = check_gradients(nn.ReLU(), torch.zeros(3, requires_grad=True))
    assert not report
    assert report.rows[0].verdict.startswith("UNDECIDED")


@pytest.mark.parametrize("distance", [1e-7, -1e-7, 3e-6, -3e-6])
def test_a_kink_near_by_is_no_obstacle(distance):
    x = torch.tensor([-1.0, distance, 2.0], requires_grad=True)
    report = check_gradients(nn.ReLU(), x)
    assert report.rows[0].verdict == "right"
    wrong_beside = wrong(torch.relu, lambda d_y, x: d_y * (x <= 0))
    assert not check_gradients(wrong_beside, x)


def test_a_function_that_bends_quickly_and_only_in_the_third_order_is_no_false_alarm():
    """Here B is 0 for every h, and the first h is too large by (1e3 h)²/6 = 6e-6."""
    check_gradients(lambda x: torch.sin(1e3 * x), torch.zeros(3, requires_grad=True)).check()


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_float32_inside_is_judged_as_well_as_its_rounding_allows(factor):
    """As some normalizations do: below its last bit nothing moves, which is no derivative of 0."""
    torch.manual_seed(0)
    sine = wrong(torch.sin, lambda d_y, x: factor * d_y * x.cos())
    (row,) = check_gradients(lambda x: sine(x.float()).double(), leaf(20)).rows
    if factor == 1:
        assert not row.wrong
        assert row.undecided
    else:
        assert len(row.wrong) >= 10


# ------------------------------------------------------------------------ what it is run on


def test_nothing_of_the_caller_changes():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.calls = nn.BatchNorm1d(4), 0
            self.register_buffer("last", None)

        def forward(self, x):
            self.calls += 1
            self.last = x.detach()
            return self.norm(x) * self.calls

    model, x = Stateful().eval(), leaf(5, 4)
    model.norm.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    value = x.detach().clone()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with torch.no_grad():  # and not of the mode either
        check_gradients(model, x, entries=3).check()
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.calls, model.last, model.training, model.norm.training) == (0, None, False, True)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(x, value)
    assert (x.dtype, x.grad) == (torch.float32, None)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_random_layer_draws_the_same_numbers_each_time_and_others_with_another_seed():
    x = torch.ones(20, requires_grad=True)
    gradients = []
    for seed in (0, 0, 1):
        (row,) = check_gradients(nn.Dropout(), x, seed=seed).rows
        gradients.append([c.analytic == 0 for c in row.comparisons])
    assert gradients[0] == gradients[1] != gradients[2]


def test_inputs_modified_in_place_are_noted():
    def function(x, y):
        return x.mul_(2).exp() + y

    report = check_gradients(function, leaf(3), leaf(3))
    assert report
    assert report.notes == ["input 0 is modified in place: it was handed a copy"]


def test_names_inputs_by_position_and_notes_those_left_out():
    function = lambda pair, table, k: pair[0] * pair[1] * table["c"] * k  # noqa: E731
    pair, table = [leaf(2), torch.ones(2)], {"c": leaf(2)}
    report = check_gradients(function, pair, table, 3)
    assert [row.name for row in report.rows] == ["input 0[0]", "input 1['c']"]
    assert report.notes == ["input 0[1] requires no grad: not checked"]
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    report = check_gradients(layer, torch.ones(1, 2))
    assert [row.name for row in report.rows] == ["weight"]
    assert report.notes == [
        "bias requires no grad: not checked",
        "input 0 requires no grad: not checked",
    ]


def test_all_outputs_count():
    twin = wrong(lambda x: x.sin(), lambda d_y, x: 2 * d_y * x.cos())
    assert not check_gradients(lambda x: (x.exp(), {"second": [twin(x)]}), leaf(3))
    assert check_gradients(lambda x: (x.exp(), {"second": [x.argmax()]}), leaf(3))


def test_tied_parameters_are_one_row():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    report = check_gradients(model, leaf(2, 3))
    assert report
    assert [row.name for row in report.rows] == ["0.weight", "0.bias", "2.bias", "input 0"]


def test_empty_tensors_are_right():
    assert check_gradients(lambda x, y: x.sum() + y, leaf(0), leaf(2))


counter = iter(range(1_000_000))
REFUSED = {
    "nothing": (nn.ReLU(), torch.ones(2), "nothing to check: no parameter and no input requires"),
    "nan": (torch.sqrt, -torch.ones(2, requires_grad=True), "the output holds nan or infinity"),
    "float32": (lambda x: x.float(), leaf(2), "the output is torch.float32, though"),
    "integers": (lambda x: x.argmax(), leaf(2), "the output has no floating point tensor"),
    "no output": (lambda x: x[:0], leaf(2), "the output has no floating point tensor"),
    "changing": (lambda x: x * next(counter), leaf(2), "another one at the second call"),
}


@pytest.mark.parametrize(("function", "x", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_what_cannot_be_checked(function, x, message):
    with pytest.raises(ValueError, match=message):
        check_gradients(function, x)


# ------------------------------------------------------------------------ the report


def test_printed_it_is_a_table():
    torch.manual_seed(0)
    report = check_gradients(nn.Linear(3, 2), leaf(200, 3))
    lines = repr(report).splitlines()
    assert isinstance(report, GradientReport)
    assert lines[0].split() == ["tensor", "shape", "checked", "error", "at", "analytic", "numeric"]
    assert [line.split("  ")[0].strip() for line in lines[1:]] == ["weight", "bias", "input 0"]
    assert all(line.endswith("right") for line in lines[1:])
    assert "100 + 3 directions" in lines[3]
    assert max(map(len, lines)) < 120


def test_the_step_is_where_truncation_and_rounding_meet():
    """Its error is below that of steps 30 times larger (truncation) or smaller (rounding)."""
    x = torch.linspace(0.5, 1.5, 1001, dtype=torch.float64)

    def error(h):
        return (((x + h).exp() - (x - h).exp()) / (2 * h) - x.exp()).square().mean().sqrt()

    assert error(STEP) < error(30 * STEP) / 3
    assert error(STEP) < error(STEP / 30) / 3
    # ε^(2/3) |φ| / s, within an order of magnitude
    assert 0.1 < error(STEP) / (STEP**2 * x.exp().mean()) < 10
