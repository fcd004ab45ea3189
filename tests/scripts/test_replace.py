"""The names of torch stand for what is written by hand, everywhere, and afterwards for torch's."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import sys
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks

import scratch_layers
import scratch_optim
from accuracy import results
from layer_samples import FAMILIES
from training import replace
from training.replace import replaced, stand_ins

ALL = stand_ins()


def a_name(stand_in: Any) -> str:
    return f"{stand_in.family}.{stand_in.name}"


def held() -> dict[tuple[str, str], int]:
    """What every name of every module is bound to, but for hypothesis, which keeps time."""
    modules = [m for m in sys.modules.values() if issubclass(type(m), ModuleType)]
    modules = [m for m in modules if m.__name__.partition(".")[0] != "hypothesis"]
    return {(m.__name__, name): id(x) for m in modules for name, x in list(vars(m).items())}


# ------------------------------------------------------------------ which


def test_every_public_name_that_both_have_has_a_stand_in_or_a_reason():
    faces = {
        torch.optim: scratch_optim,
        torch.optim.lr_scheduler: scratch_optim.lr_scheduler,
        torch.optim.swa_utils: scratch_optim.swa_utils,
        nn.utils: scratch_optim.clip_grad,
        nn: scratch_layers,
        F: scratch_layers.functional,
        nn.init: scratch_layers.init,
    }
    if hasattr(torch.optim, "functional"):  # since torch 2.15
        faces[torch.optim.functional] = scratch_optim.functional
    both = {
        (theirs.__name__, name)
        for theirs, ours in faces.items()
        for name in set(dir(theirs)) & set(ours.__all__)
        if callable(getattr(theirs, name))
    }
    found = {(s.family, s.name) for s in ALL}
    assert {name for _, name in both - found} == set(replace.KEPT)
    assert found < both
    assert len(found) == len(ALL) > 200


def test_no_object_of_torch_has_two_stand_ins():
    assert len({id(s.theirs) for s in ALL}) == len(ALL)


def test_one_library_alone():
    families = {only: {s.family for s in stand_ins(only)} for only in replace.CHOICES}
    assert "torch.optim.swa_utils" in families["optim"]
    assert "torch.nn.init" in families["layers"]
    assert not families["optim"] & families["layers"]
    assert families["nothing"] == set()


def test_another_choice_is_refused_and_nothing_is_changed():
    before = held()
    with (
        pytest.raises(ValueError, match="'layer' is none of optim, layers, nothing"),
        replaced("layer"),
    ):
        pass
    assert held() == before


# ------------------------------------------------------------------ where


def test_no_module_is_left_with_an_object_that_has_a_stand_in():
    natives = {id(s.theirs): a_name(s) for s in ALL}
    with replaced():
        left = {place: natives[x] for place, x in held().items() if x in natives}
    ours = {place for place in left if place[0].startswith("scratch_")}  # their bases
    operators = {place for place in left if place[0] in ("torch", "torch._C._nn", "torch._VF")}
    assert {left[place].rpartition(".")[0] for place in operators} == {"torch.nn.functional"}
    assert left.keys() == ours | operators


def test_no_function_is_left_with_a_default_that_has_a_stand_in():
    natives = {id(s.theirs) for s in ALL}

    def defaults() -> list[Any]:
        functions = [f for f in gc.get_objects() if type(f) is FunctionType]
        each = [(*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values()) for f in functions]
        return [x for of_one in each for x in of_one if id(x) in natives]

    assert defaults()
    with replaced():
        assert not defaults()
    assert defaults()


def test_afterwards_everything_is_as_it_was():
    classes = [s.ours for s in ALL if isinstance(s.ours, type)]

    def state() -> list[Any]:
        return [
            held(),
            [(vars(c).get("__init__"), c.__module__, c.__qualname__) for c in classes],
            nn.TransformerEncoderLayer.__init__.__defaults__,
            torch.jit._state._enabled.enabled,
            torch._functorch.config.enable_autograd_cache,
            len(_global_optimizer_post_hooks),
        ]

    before = state()
    replacement = replaced(kernels=True, fused=True)
    replacement.__enter__()
    within = state()
    error = ZeroDivisionError()
    assert not replacement.__exit__(type(error), error, None), "errors pass through"
    assert within != before
    assert state() == before


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("from torch.optim import Adam as x", scratch_optim.Adam),
        ("from torch.optim.adam import Adam as x", scratch_optim.Adam),
        ("import torch.optim as optim; x = optim.Adam", scratch_optim.Adam),
        ("import torch; x = torch.optim.lr_scheduler.StepLR", scratch_optim.lr_scheduler.StepLR),
        ("from torch.optim.swa_utils import SWALR as x", scratch_optim.swa_utils.SWALR),
        ("import torch; x = torch.nn.BatchNorm2d", scratch_layers.BatchNorm2d),
        ("from torch import nn; x = nn.modules.BatchNorm2d", scratch_layers.BatchNorm2d),
        ("from torch.nn.modules.batchnorm import BatchNorm2d as x", scratch_layers.BatchNorm2d),
        ("from torch.nn import functional as F; x = F.relu", scratch_layers.functional.relu),
        ("from torch.nn.functional import gelu as x", scratch_layers.functional.gelu),
        (
            "import torch.nn.functional; x = torch.nn.functional.gelu",
            scratch_layers.functional.gelu,
        ),
        ("from torch.nn import init; x = init.normal_", scratch_layers.init.normal_),
        (
            "from torch.nn.utils import clip_grad_norm_ as x",
            scratch_optim.clip_grad.clip_grad_norm_,
        ),
        (
            "from torch.nn.utils.clip_grad import _get_total_norm as x",
            scratch_optim.clip_grad.get_total_norm,
        ),
    ],
)
def test_every_way_to_import_leads_to_the_stand_in(statement, expected):
    names: dict[str, Any] = {}
    with replaced():
        exec(statement, names)
        assert inspect.unwrap(names["x"], stop=lambda f: f is expected) is expected


def test_libraries_that_were_imported_before_make_their_models_of_the_stand_ins():
    misc = pytest.importorskip("torchvision.ops.misc")
    with replaced():
        excitation = misc.SqueezeExcitation(4, 2)  # activation=torch.nn.ReLU, by default
        block = misc.Conv2dNormActivation(3, 4)  # norm_layer=torch.nn.BatchNorm2d
    assert type(excitation.activation) is scratch_layers.ReLU
    assert [type(layer) for layer in block][1:] == [scratch_layers.BatchNorm2d, scratch_layers.ReLU]


# ------------------------------------------------------------------ what


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_of_torch_nn_is_the_one_by_hand_bit_for_bit(family):
    def run(library: Any, sample: Any) -> tuple[nn.Module, list[torch.Tensor]]:
        shape = (2, *sample.shapes[0][1:2], *[2 for _ in sample.shapes[0][2:]])
        torch.manual_seed(0)
        given = [x.float() if x.is_floating_point() else x for x in sample.inputs(shape)]
        layer = sample.make(library, shape)
        return layer, results(layer, given)

    samples = [sample for sample in FAMILIES[family] if hasattr(nn, sample.layer)]
    expected = [run(scratch_layers, sample) for sample in samples]
    with replaced() as used:
        found = [run(nn, sample) for sample in samples]
    assert sum(used.counts["torch.nn", name] for name in {s.layer for s in samples}) == len(samples)
    for (layer, tensors), (of_library, others) in zip(found, expected, strict=True):
        assert type(layer) is type(of_library)
        for a, b in zip(tensors, others, strict=True):
            assert torch.equal(a, b), layer


def small_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3), nn.GELU()
    )


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    hidden = F.dropout(F.leaky_relu(model(x), inplace=True), 0.0, model.training)
    return F.cross_entropy(hidden, y, label_smoothing=0.1)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_torch_compile_takes_the_stand_ins_into_one_graph(backend):
    x, y = torch.randn(2, 2, 4, 4), torch.tensor([0, 2])
    torch.compiler.reset()  # Dynamo looks torch's functions up once
    with replaced() as used:
        torch.manual_seed(0)
        eager = small_model()
        compiled = copy.deepcopy(eager)
        loss = loss_of(eager, x, y)
        loss.backward()
        before = used.counts.copy()
        found = torch.compile(loss_of, backend=backend, fullgraph=True)(compiled, x, y)
        found.backward()
    torch.compiler.reset()
    assert used.counts == before
    assert {name for _, name in used.compiled} == {"dropout", "leaky_relu", "cross_entropy"}
    torch.testing.assert_close(found, loss)
    for a, b in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def every_kind_of_function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of each kind of code some: formulas, in place, drawing, along a dimension, with a target."""
    probability, target = x.sigmoid(), (x.detach() > 0).to(x.dtype)
    weight = torch.arange(1.0, 5.0)
    terms = [
        *(f(x) for f in (F.relu, F.elu, F.selu, F.gelu, F.silu, F.mish, F.hardswish, F.softplus)),
        *(f(x) for f in (F.logsigmoid, F.softsign, F.tanhshrink, F.hardshrink, F.softshrink)),
        F.threshold(x, 0.1, 2.0), F.glu(x), F.rrelu(x), F.relu_(x * 1), F.elu(x * 1, inplace=True),
        *(f(x, 1) for f in (F.softmax, F.log_softmax, F.softmin)),
        F.dropout(x, 0.0), F.alpha_dropout(x, 0.0, True), F.layer_norm(x, (4,), weight),
        F.rms_norm(x, (4,)), F.group_norm(x, 2, weight), F.batch_norm(x, None, None, training=True),
        F.instance_norm(x[None]), F.local_response_norm(x[None], 2),
        *(f(x, target) for f in (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)),
        F.binary_cross_entropy(probability, target),
        F.binary_cross_entropy_with_logits(x, target, pos_weight=weight),
        F.kl_div(x, target, reduction="batchmean"), F.poisson_nll_loss(x, target),
        F.gaussian_nll_loss(x, target, probability), F.hinge_embedding_loss(x, 2 * target - 1),
        F.soft_margin_loss(x, 2 * target - 1), F.multilabel_soft_margin_loss(x, target),
        F.nll_loss(x, y, weight), F.cross_entropy(x, y, weight), F.multi_margin_loss(x, y),
        F.triplet_margin_loss(x, x + target, 2 * x), F.cosine_embedding_loss(x, 2 * x + 1, y - 1),
    ]  # fmt: skip
    return torch.stack([term.square().mean() for term in terms])


@pytest.mark.slow
def test_torch_compile_takes_functions_of_every_kind_into_one_graph_with_their_derivatives():
    x, y = torch.randn(4, 4), torch.tensor([0, 2, 0, 2])
    torch.compiler.reset()
    with replaced() as used:
        found = []
        for f in (
            every_kind_of_function,
            torch.compile(every_kind_of_function, backend="aot_eager", fullgraph=True),
        ):
            torch.manual_seed(0)
            x.grad = None
            terms = f(x.requires_grad_(), y)
            terms.sum().backward()
            found.append((terms, x.grad))
    torch.compiler.reset()
    assert used.counts.keys() == used.compiled
    assert len(used.compiled) > 40
    torch.testing.assert_close(found[1], found[0])


def test_attention_takes_softmax_and_dropout_by_hand():
    with replaced() as used:
        attention = nn.MultiheadAttention(8, 2, dropout=0.5)
        x = torch.randn(3, 2, 8)
        attention(x, x, x)
    assert used.counts["torch.nn.functional", "softmax"] == 1
    assert used.counts["torch.nn.functional", "dropout"] == 1


def test_a_default_activation_is_the_function_that_is_asked_for():
    with replaced() as used:
        layer = nn.TransformerEncoderLayer(8, 2, 8)
        assert layer.activation is F.relu
        assert layer.activation_relu_or_gelu == 1  # so the fast path is taken as ever
        layer(torch.randn(3, 2, 8))
    assert used.counts["torch.nn.functional", "relu"] == 1


def test_isinstance_holds_whichever_class_it_asks_for():
    native = nn.BatchNorm2d
    batch_norms = nn.modules.batchnorm._BatchNorm
    with replaced():
        layer = nn.BatchNorm2d(3)
        assert isinstance(layer, nn.BatchNorm2d)
        assert isinstance(layer, native)
        assert isinstance(layer, batch_norms)
        assert isinstance(torch.optim.Adam([torch.ones(1)]), torch.optim.Optimizer)
        lazy = nn.LazyBatchNorm2d()
        lazy(torch.randn(2, 3, 2, 2))
        assert type(lazy) is nn.BatchNorm2d
        synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(layer))
        assert type(synchronized[0]) is nn.SyncBatchNorm is scratch_layers.SyncBatchNorm


def test_optimizers_and_schedules_of_others_inherit_from_torchs_bases():
    bases = torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler
    with replaced():
        assert bases == (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)

        class Sign(torch.optim.Optimizer):
            def __init__(self, params):
                super().__init__(params, {"lr": 0.5})

            def step(self, closure=None):
                for group in self.param_groups:
                    for p in group["params"]:
                        p.data -= group["lr"] * p.grad.sign()

        class Halved(torch.optim.lr_scheduler.LRScheduler):
            def get_lr(self):
                return [base * 0.5**self.last_epoch for base in self.base_lrs]

        p = nn.Parameter(torch.zeros(1))
        p.grad = torch.ones(1)
        optimizer = Sign([p])
        schedule = torch.optim.lr_scheduler.ChainedScheduler([Halved(optimizer)])
        for _ in range(2):
            optimizer.step()
            schedule.step()
        assert p.item() == -0.75


def test_fx_does_not_look_inside_a_layer():
    with replaced():
        model = small_model()
        traced = torch.fx.symbolic_trace(model)
    assert [node.op for node in traced.graph.nodes][1:-1] == ["call_module"] * len(model)


def test_what_is_scripted_runs_as_python_and_by_hand():
    with replaced() as used:

        @torch.jit.script
        def f(x):
            return F.softplus(x)

        assert torch.equal(f(torch.ones(1)), scratch_layers.functional.softplus(torch.ones(1)))
    assert used.counts["torch.nn.functional", "softplus"] == 1


# ------------------------------------------------------------------ under which name


def test_a_stand_in_goes_by_the_name_that_it_stands_for_and_keeps_its_signature():
    signatures = [inspect.signature(s.ours) for s in ALL]
    with replaced():
        new = [getattr(sys.modules[s.family], s.name) for s in ALL]
        written = [pickle.dumps(x) for x in new]
        for s, x, text, signature in zip(ALL, new, written, signatures, strict=True):
            assert x.__name__ == s.name
            assert inspect.signature(x) == signature, s.name
            assert b"scratch" not in text, s.name
            assert pickle.loads(text) is x
    assert [pickle.loads(text) for text in written] == [s.theirs for s in ALL]


def test_a_model_saved_by_hand_is_loaded_where_there_is_no_such_library_and_back():
    with replaced():
        model = nn.Sequential(small_model(), nn.CrossEntropyLoss())
        model[0].activation = F.silu
        written = io.BytesIO()
        torch.save(model, written)
    assert b"scratch" not in written.getvalue()
    written.seek(0)
    native = torch.load(written, weights_only=False)
    assert type(native[0][1]) is nn.BatchNorm2d
    assert native[0].activation is F.silu
    written.seek(0)
    with replaced():
        by_hand = torch.load(written, weights_only=False)
        assert type(by_hand[0][1]) is scratch_layers.BatchNorm2d
        assert by_hand[0].activation is F.silu
    for a, b in zip(native.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(a, b)


# ------------------------------------------------------------------ counting, and the options


def test_a_class_that_inherits_from_another_counts_as_itself():
    with replaced() as used:

        class Own(nn.ReLU6, nn.Sequential):
            pass

        Own()
        nn.NLLLoss()
        torch.optim.AdamW([torch.ones(1)])  # is an Adam, and calls its constructor
    assert str(used) == "torch.nn: NLLLoss 1, ReLU6 1\ntorch.optim: AdamW 1"


def test_constructors_are_called_in_the_order_of_the_bases():
    class Mixin(nn.Module):
        def __init__(self):
            super().__init__()
            self.reached = True

    assert "__init__" not in vars(scratch_layers.Tanh)
    with replaced():

        class Own(nn.Tanh, Mixin):
            pass

        assert Own().reached


def test_steps_and_calls_are_counted_and_printed_by_module():
    with replaced() as used:
        p = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.AdamW([p])
        for _ in range(3):
            F.mse_loss(p, torch.zeros(2)).backward()
            nn.utils.clip_grad_norm_([p], 1.0)
            optimizer.step()
    assert str(used) == (
        "torch.nn.functional: mse_loss 3\n"
        "torch.nn.utils: clip_grad_norm_ 3\n"
        "torch.optim: AdamW 1, AdamW.step 3"
    )


def test_fused_is_the_way_of_optimizers_that_were_given_none():
    p = nn.Parameter(torch.ones(2))
    with replaced(fused=True):
        assert torch.optim.Adam([p]).defaults["fused"] is True
        assert torch.optim.Adam([p], foreach=False).defaults["fused"] is None
        assert torch.optim.Adam([p], fused=False).defaults["fused"] is False
        torch.optim.LBFGS([p])  # has no such way
    with replaced():
        assert torch.optim.Adam([p]).defaults["fused"] is None


def test_kernels_run_in_here_only():
    with replaced(kernels=True):
        assert scratch_layers.kernels._compiled
    assert not scratch_layers.kernels._compiled


def test_only_the_first_process_of_a_group_reports(capsys, monkeypatch):
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with replaced() as used:
            F.relu(torch.ones(1))
        replace.report(used)
    assert capsys.readouterr().err == "dropin: torch.nn.functional: relu 1\n"
