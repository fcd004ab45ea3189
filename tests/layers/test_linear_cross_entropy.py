"""What is particular to the linear map and its cross entropy in one: chunks, options, memory."""

import dataclasses
import itertools
import math
import subprocess
import sys
import weakref

import pytest
import torch
import torch.nn.functional as native
from layer_case import caught
from native_kernels import NoNativeKernel
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import accuracy
import scratch_layers
from scratch_layers.functional import linear_cross_entropy
from scratch_layers.linear_cross_entropy import LinearCrossEntropyOptions as Options
from scratch_layers.linear_cross_entropy import rows_of_chunk

N, F, C = 10, 6, 5
AGAIN = Options(batch_chunk_size=3, allow_retain_graph=True)
WAYS = {
    "whole": None,
    "auto": Options(),
    "ahead by 3": Options(batch_chunk_size=3),  # 10 = 3 + 3 + 3 + 1
    "again by 3": AGAIN,
    "by 1": Options(batch_chunk_size=1),
    "by 100": Options(batch_chunk_size=100, allow_retain_graph=True),
    "in thirds": Options(chunking_method="aspect_ratio:3"),
}
CHUNKED = {name: options for name, options in WAYS.items() if options is not None}
every_way = pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
in_chunks = pytest.mark.parametrize("options", CHUNKED.values(), ids=CHUNKED)
torch_has_it = pytest.mark.skipif(
    not hasattr(nn, "LinearCrossEntropyLoss"), reason="torch has it since 2.13"
)
in_the_words_of_today = pytest.mark.skipif(
    not hasattr(getattr(nn.modules, "linear_cross_entropy_options", None), "_auto_acc_policy"),
    reason="chunks of another size and errors of other words in torch 2.13",
)


def draw(kind="index", places=(), dtype=torch.float64, seed=0):
    """x, V, target, b and weights of the classes; two rows of an index are ignored."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)

    x, v, b = normal(N, F), normal(C, *places, F), normal(C, *places)
    if kind == "index":
        target = torch.randint(C, (N, *places), generator=generator)
        target[1:3] = -100
    else:
        target = normal(N, C, *places).softmax(1)
    return x, v, target, b, normal(C).abs() + 0.1


def separate(x, v, target, *, linear_bias=None, **options):
    """The definition: the linear map, and then cross entropy."""
    z = x @ v.flatten(0, -2).T
    z = z if linear_bias is None else z + linear_bias.flatten()
    return native.cross_entropy(z.reshape(*x.shape[:-1], *v.shape[:-1]), target, **options)


def with_gradients(function, x, v, target, *, linear_bias=None, d_y=None, **options):
    """The loss and its gradients by x, V and b."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, v, linear_bias) if t is not None]
    bias = None if linear_bias is None else leaves[2]
    y = function(leaves[0], leaves[1], target, linear_bias=bias, **options)
    d_y = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y.detach(), *torch.autograd.grad(y, leaves, d_y)]


@every_way
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", ["index", "distribution"])
def test_every_option_gives_the_linear_map_and_then_cross_entropy(kind, reduction, options):
    for places, bias, weighted, epsilon in itertools.product(
        ((), (2, 3)), (False, True), (False, True), (0.0, 0.2)
    ):
        x, v, target, b, w = draw(kind, places)
        more = {
            "linear_bias": b if bias else None,
            "weight": w if weighted else None,
            "reduction": reduction,
            "label_smoothing": epsilon,
        }
        expected = with_gradients(separate, x, v, target, **more)
        actual = with_gradients(linear_cross_entropy, x, v, target, options=options, **more)
        for a, e in zip(actual, expected, strict=True):
            # sums of up to N C products of numbers of about 1
            bound = torch.finfo(torch.float64).eps * N * C * max(1.0, float(e.abs().max()))
            torch.testing.assert_close(a, e, rtol=0, atol=bound)


@every_way
def test_one_row_without_a_batch_is_a_batch_of_one(options):
    for kind in ("index", "distribution"):
        x, v, target, b, w = draw(kind)
        for reduction in ("mean", "sum", "none"):
            more = {"linear_bias": b, "weight": w, "reduction": reduction, "options": options}
            one = linear_cross_entropy(x[0], v, target[0], **more)
            batch = linear_cross_entropy(x[:1], v, target[:1], **more)
            assert one.shape == ()
            torch.testing.assert_close(one, batch.squeeze(), rtol=0, atol=0)


@every_way
def test_rows_that_are_all_ignored_have_no_gradient(options):
    x, v, _, b, _ = draw()
    for index in (-100, 2):
        target = torch.full((N,), index)
        for reduction in ("mean", "sum", "none"):
            more = {"reduction": reduction, "ignore_index": index, "options": options}
            y, *gradients = with_gradients(
                linear_cross_entropy, x, v, target, linear_bias=b, **more
            )
            assert (y.isnan() if reduction == "mean" else y == 0).all(), "0 / 0, as native"
            for d in gradients:
                assert (d == 0).all()


@every_way
def test_no_rows_at_all(options):
    x, v, target, b, _ = draw()
    for reduction in ("mean", "sum", "none"):
        more = {"linear_bias": b, "reduction": reduction}
        expected = with_gradients(separate, x[:0], v, target[:0], **more)
        actual = with_gradients(linear_cross_entropy, x[:0], v, target[:0], options=options, **more)
        torch.testing.assert_close(actual[0], expected[0], equal_nan=True)
        assert [d.shape for d in actual[1:]] == [(0, F), (C, F), (C,)]
        assert all((d == 0).all() for d in actual[1:])


@in_chunks
def test_only_the_gradients_that_are_asked_for(options):
    x, v, target, b, _ = draw()
    _, *expected = with_gradients(separate, x, v, target, linear_bias=b)
    for wanted in itertools.product((False, True), repeat=3):
        leaves = [t.clone().requires_grad_(w) for t, w in zip((x, v, b), wanted, strict=True)]
        y = linear_cross_entropy(
            leaves[0], leaves[1], target, linear_bias=leaves[2], options=options
        )
        assert y.requires_grad == any(wanted)
        if not any(wanted):
            continue
        y.backward(torch.full_like(y, 0.5))  # as the mean is given in with_gradients
        for leaf, need, d in zip(leaves, wanted, expected, strict=True):
            assert (leaf.grad is not None) == need
            if need:
                torch.testing.assert_close(leaf.grad, d)


# Derivatives of every kind


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", ["index", "distribution"])
def test_a_graph_that_may_be_retained_has_all_derivatives(kind, reduction):
    x, v, target, b, w = draw(kind)
    leaves = [t.requires_grad_() for t in (x, v, b)]

    def f(x, v, b):
        return linear_cross_entropy(
            x, v, target, linear_bias=b, weight=w, reduction=reduction, options=AGAIN
        )

    assert gradcheck(f, leaves, check_forward_ad=True)
    assert gradgradcheck(f, leaves)
    y = f(*leaves)
    first, second = (
        torch.autograd.grad(y.sum(), leaves, retain_graph=again) for again in (True, False)
    )
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@torch_has_it
def test_gradients_computed_ahead_are_used_once_and_never_differentiated():
    x, v, target, _, _ = draw()
    errors = []
    for function, options in (
        (linear_cross_entropy, Options()),
        (native.linear_cross_entropy, nn.LinearCrossEntropyOptions()),
    ):
        y = function(x.requires_grad_(), v, target, options=options)
        y.backward(retain_graph=True)
        errors.append(caught(y.backward))
    assert errors[0] == errors[1]
    assert errors[0][0] is RuntimeError

    y = linear_cross_entropy(x, v, target, options=Options())
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    (plain,) = torch.autograd.grad(linear_cross_entropy(x, v, target), x)
    torch.testing.assert_close(first, plain)
    with pytest.raises(RuntimeError, match=r"pass options=.*allow_retain_graph=True"):
        torch.autograd.grad(first.sum(), x)


@every_way
def test_transforms_see_through_the_chunks(options):
    x, v, target, b, _ = draw()

    def f(x, v, b):
        return linear_cross_entropy(x, v, target, linear_bias=b, options=options)

    def g(x, v, b):
        return separate(x, v, target, linear_bias=b)

    by_row = torch.func.vmap(torch.func.grad(lambda x, t: linear_cross_entropy(
        x, v, t, options=options)), (0, 0))  # fmt: skip
    valid = target.clamp(min=0)
    expected = torch.func.vmap(torch.func.grad(lambda x, t: separate(x, v, t)), (0, 0))
    torch.testing.assert_close(by_row(x, valid), expected(x, valid))
    for transform in (torch.func.grad, torch.func.hessian, torch.func.jacfwd):
        torch.testing.assert_close(transform(f, 1)(x, v, b), transform(g, 1)(x, v, b))


@every_way
def test_target_and_weights_of_the_classes_may_require_a_gradient(options):
    x, v, q, b, w = draw("distribution")
    leaves = [t.requires_grad_() for t in (x, v, q, b, w)]

    def f(x, v, q, b, w):
        return linear_cross_entropy(x, v, q, linear_bias=b, weight=w, options=options)

    assert gradcheck(f, leaves)


@pytest.mark.parametrize("options", [Options(batch_chunk_size=6), AGAIN], ids=["ahead", "again"])
def test_compiles_as_one_graph(options):
    x, v, target, b, _ = draw()
    torch._dynamo.reset()
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    for reduction in ("mean", "none"):
        more = {"linear_bias": b, "reduction": reduction, "options": options}
        eager = with_gradients(linear_cross_entropy, x, v, target, **more)
        torch.testing.assert_close(with_gradients(compiled, x, v, target, **more), eager)


@pytest.mark.slow
def test_compiled_kernels_equal_eager_in_chunks():
    for kind, options in itertools.product(("index", "distribution"), (Options(), AGAIN)):
        x, v, target, b, w = draw(kind)
        more = {"linear_bias": b, "weight": w, "label_smoothing": 0.1, "options": options}
        eager = with_gradients(linear_cross_entropy, x, v, target, **more)
        with scratch_layers.compile_kernels():
            compiled = with_gradients(linear_cross_entropy, x, v, target, **more)
        torch.testing.assert_close(compiled, eager)


# Dtypes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@torch_has_it
def test_half_precision_in_chunks_is_no_further_from_float64_than_native(reduction, dtype):
    for options in (Options(batch_chunk_size=3), AGAIN, Options(acc_policy="accurate")):
        x, v, target, b, w = draw(dtype=dtype)
        more = {"linear_bias": b, "weight": w, "reduction": reduction}
        wide = {k: t.double() if isinstance(t, torch.Tensor) else t for k, t in more.items()}
        exact = with_gradients(separate, x.double(), v.double(), target, **wide)
        moved = [
            with_gradients(separate, *accuracy.nudged([x.double(), v.double()], dtype, n), target,
                           **wide)
            for n in range(accuracy.NUDGES)
        ]  # fmt: skip
        ours, theirs = (
            with_gradients(f, x, v, target, options=options, **more)
            for f in (linear_cross_entropy, native.linear_cross_entropy)
        )
        for a, n, e, *m in zip(ours, theirs, exact, *moved, strict=True):
            assert a.dtype == n.dtype == dtype
            allowed = max(accuracy.error(n, e), accuracy.granted(e, m, dtype))
            assert accuracy.error(a, e) <= allowed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_half_precision_in_chunks_is_float32_rounded_once(reduction, dtype):
    x, v, target, b, w = draw(dtype=dtype)
    results = [
        with_gradients(
            linear_cross_entropy,
            x.to(d),
            v.to(d),
            target,
            linear_bias=b.to(d),
            weight=w.to(d),
            reduction=reduction,
            options=AGAIN,
        )
        for d in (dtype, torch.float32)
    ]
    # with ∂y as that of the float32 loss, which half precision has in fewer digits for "none"
    count = 4 if reduction == "mean" else 1
    for half, wide in list(zip(*results, strict=True))[:count]:
        assert torch.equal(half, wide.to(dtype))


@every_way
def test_autocast_rounds_the_factors_and_returns_float32(options):
    x, v, target, b, _ = draw(dtype=torch.float32)
    rounded = [t.bfloat16().double() for t in (x, v, b)]
    exact = with_gradients(separate, rounded[0], rounded[1], target, linear_bias=rounded[2])
    with torch.autocast("cpu", torch.bfloat16):
        y, *gradients = with_gradients(
            linear_cross_entropy, x, v, target, linear_bias=b, options=options
        )
    assert y.dtype == torch.float32
    # bfloat16 for gradients, for logits only where they are kept
    eps = torch.finfo(torch.bfloat16 if options is None else torch.float32).eps
    assert abs(y.double() / exact[0] - 1) < 8 * eps
    for d, e in zip(gradients, exact[1:], strict=True):
        assert d.dtype == torch.float32
        # each is a sum of C or N products, rounded to bfloat16 one or two times
        torch.testing.assert_close(d.double(), e, rtol=0, atol=4 * 2**-8 * float(e.abs().max()))


# Memory


class Largest(TorchDispatchMode):
    """Sees how many values the largest new tensor has."""

    def __init__(self):
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        new = [t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]
        sizes = [t.untyped_storage().nbytes() // t.element_size() for t in new]
        self.values = max([self.values, *sizes])
        return result


@pytest.mark.parametrize("retain", [False, True], ids=["ahead", "again"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kind", ["index", "distribution"])
def test_in_chunks_there_are_never_more_logits_than_of_one_chunk(kind, reduction, retain):
    x, v, target, b, w = draw(kind)
    v, b, w = (torch.cat([t] * 8) for t in (v, b, w))  # 40 classes: 400 logits
    target = torch.cat([target] * 8, 1) / 8 if kind == "distribution" else target
    more = {"linear_bias": b, "weight": w, "reduction": reduction, "label_smoothing": 0.1}
    for rows in (1, 3):
        options = Options(batch_chunk_size=rows, allow_retain_graph=retain)
        with Largest() as mode, NoNativeKernel():
            with_gradients(linear_cross_entropy, x, v, target, options=options, **more)
        given = max(t.numel() for t in (x, v, target))
        assert mode.values == given
    with Largest() as mode:
        with_gradients(linear_cross_entropy, x, v, target, **more)
    assert mode.values == N * len(v) > v.numel()


def memory(step):
    """The most bytes that a step takes, and those that it still holds when it returns."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = step()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = list(itertools.accumulate(change for _, change in changes))
    del result
    return max(held), held[-1]


@in_the_words_of_today
@pytest.mark.parametrize("retain", [False, True], ids=["ahead", "again"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_in_chunks_takes_and_keeps_no_more_memory_than_native(reduction, retain):
    rows, features, classes = 1024, 1024, 2048
    x = torch.randn(rows, features, requires_grad=True)
    target = torch.randint(classes, (rows,))
    found = {}
    for library in (nn, scratch_layers):
        options = library.LinearCrossEntropyOptions(allow_retain_graph=retain)
        layer = library.LinearCrossEntropyLoss(
            features, classes, bias=True, reduction=reduction, options=options
        )

        def step(layer=layer):
            y = layer(x, target)
            return torch.autograd.grad(y.sum(), [x, *layer.parameters()])

        step()  # what is made once, on the first call
        _, kept = memory(lambda layer=layer: layer(x, target))
        found[library] = (*memory(step), kept)
    most, _, kept = found[scratch_layers]
    assert most <= found[nn][0]
    assert kept <= found[nn][2]


def test_an_input_whose_gradient_was_computed_ahead_is_not_kept():
    x, v, target, _, _ = draw()
    for options, kept in ((Options(), False), (AGAIN, True)):
        features = x.clone().requires_grad_() * 1
        alive = weakref.ref(features)
        y = linear_cross_entropy(features, v, target, options=options)
        del features
        assert y.requires_grad
        assert (alive() is not None) == kept


# Options and errors


@torch_has_it
def test_the_options_of_torch_will_do_too():
    x, v, target, b, _ = draw()
    for more in ({}, {"batch_chunk_size": 3}, {"allow_retain_graph": True}):
        ours, theirs = Options(**more), nn.LinearCrossEntropyOptions(**more)
        assert isinstance(ours, nn.LinearCrossEntropyOptions)
        assert repr(ours) == repr(theirs)
        results = [
            with_gradients(linear_cross_entropy, x, v, target, linear_bias=b, options=options)
            for options in (ours, theirs)
        ]
        for a, b_ in zip(*results, strict=True):
            assert torch.equal(a, b_)


@in_the_words_of_today
def test_options_are_torchs_with_their_defaults_and_errors():
    fields = [
        [(f.name, f.default) for f in dataclasses.fields(cls)]
        for cls in (Options, nn.LinearCrossEntropyOptions)
    ]
    assert fields[0] == fields[1]
    for bad in (
        {"batch_chunk_size": 0},
        {"batch_chunk_size": 2.0},
        {"chunking_method": "halves"},
        {"chunking_method": "aspect_ratio:0"},
        {"chunking_method": "aspect_ratio:"},
        {"chunking_method": "halves:2"},
        {"acc_policy": "exact"},
        {"acc_dtype": torch.int64},
    ):
        mine, theirs = (
            caught(lambda cls=cls: cls(**bad))  # noqa: B023
            for cls in (Options, nn.LinearCrossEntropyOptions)
        )
        assert mine is not None
        assert mine == theirs
    for good in ({"chunking_method": "aspect_ratio:12"}, {"acc_dtype": torch.float32}):
        assert Options(**good) != Options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().batch_chunk_size = 3


@in_the_words_of_today
def test_chunks_are_as_large_as_torchs():
    seen = set()
    for n, f, c in itertools.product((1, 2, 7, 64, 100, 1000), (1, 5, 64), (1, 3, 64, 1000, 50000)):
        for method, size, policy, dtype, of_index in itertools.product(
            ("auto", "aspect_ratio", "aspect_ratio:3", None),
            (None, 1, 16),
            ("auto", "accurate", "compact"),
            (torch.float32, torch.bfloat16),
            (True, False),
        ):
            options = Options(chunking_method=method, batch_chunk_size=size, acc_policy=policy)
            x = torch.empty(n, f, dtype=dtype, device="meta")

            def theirs(options=options, x=x, c=c, of_index=of_index):
                adjusted = options._adjust(*x.shape, c, x.dtype, x.device, not of_index)
                return adjusted.batch_chunk_size

            def mine(options=options, x=x, c=c, of_index=of_index):
                return rows_of_chunk(options, x, c, of_index)

            expected = caught(theirs)
            assert caught(mine) == expected
            if expected is None:
                assert mine() == theirs()
            seen.add(type(expected))
    assert len(seen) == 2, "sizes, and options at odds"


ERRORS = [
    ({"input": torch.randn(())}, {}),
    ({"input": torch.randn(2, 3, F)}, {}),
    ({"input": torch.randn(N, F + 1)}, {}),
    ({"linear_weight": torch.randn(F)}, {}),
    ({"linear_bias": torch.randn(C + 1)}, {}),
    ({"input": torch.randn(F), "linear_weight": torch.randn(C, 2, F)}, {}),
    ({"target": torch.randn(N, C)}, {"ignore_index": 1}),
    ({"target": torch.randint(C, (N + 1,))}, {}),
    ({"target": torch.full((N,), C)}, {}),
    ({"target": torch.ones(N)}, {}),
    ({"linear_weight": torch.randn(C, F, dtype=torch.float64)}, {}),
    ({}, {"reduction": "foo"}),
    ({}, {"label_smoothing": 1.5}),
    ({}, {"weight": torch.ones(C + 1)}),
]


@torch_has_it
@pytest.mark.parametrize("i", range(len(ERRORS)))
def test_bad_input_is_refused_in_the_words_of_native(i):
    bad, more = ERRORS[i]
    given = {"input": torch.randn(N, F), "linear_weight": torch.randn(C, F),
             "target": torch.randint(C, (N,)), **bad}  # fmt: skip
    theirs = caught(lambda: native.linear_cross_entropy(**given, **more))
    assert theirs is not None
    assert caught(lambda: linear_cross_entropy(**given, **more)) == theirs
    # in chunks too, where native goes on or names the row of a gather
    assert caught(lambda: linear_cross_entropy(**given, **more, options=AGAIN)) == theirs


@torch_has_it
def test_a_dtype_to_add_up_in_is_checked_in_the_words_of_native():
    x, v, target, _, _ = draw(dtype=torch.float32)
    for dtype in (torch.float64, torch.bfloat16):
        options = Options(acc_dtype=dtype)
        mine, theirs = (
            caught(lambda f=f: f(x, v, target, options=options))  # noqa: B023
            for f in (linear_cross_entropy, native.linear_cross_entropy)
        )
        assert mine is not None
        assert mine == theirs


@torch_has_it
def test_the_module_refuses_in_the_words_of_native():
    for bad in (
        {"weight": torch.ones(C + 1)},
        {"label_smoothing": 1.5},
        {"label_smoothing": -0.5},
    ):
        mine, theirs = (
            caught(lambda library=library: library.LinearCrossEntropyLoss(F, C, **bad))  # noqa: B023
            for library in (scratch_layers, nn)
        )
        assert mine is not None
        assert mine == theirs


def test_where_torch_has_no_such_class_the_layer_is_a_loss_all_the_same():
    program = """
import torch
from torch import nn

for name in ("LinearCrossEntropyLoss", "LinearCrossEntropyOptions"):
    if hasattr(nn, name):
        delattr(nn, name)
import scratch_layers

options = scratch_layers.LinearCrossEntropyOptions(batch_chunk_size=3)
layer = scratch_layers.LinearCrossEntropyLoss(6, 5, options=options)
assert type(layer).__mro__[2:4] == (scratch_layers.criterion._Loss, nn.modules.loss._WeightedLoss)
x, target = torch.randn(10, 6), torch.randint(5, (10,))
y = layer(x, target)
y.backward()
torch.testing.assert_close(y, nn.functional.cross_entropy(layer.linear(x), target))
assert not scratch_layers.convert(nn.Sequential(layer), back=True).exchanged
print("done")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr


def test_a_loss_of_two_classes_is_that_of_one_logit():
    # log(1 + exp(-s)) of the difference s of the two logits
    x, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0], [0.5, 1.5]])
    y = linear_cross_entropy(x, v, torch.tensor([0]), options=Options())
    assert y.item() == pytest.approx(math.log1p(math.exp(-(1.0 - 3.5))), rel=1e-6)
