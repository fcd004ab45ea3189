"""Whom the conformance kits are run over: torch's classes, this project's, and those of peers.

A peer's class is compared with a class of the same mathematics where there is one. What belongs
together, under which options, and why, is the data below; as is what a peer documents to be
otherwise than the kit expects, which is no failure of it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scratch_layers.testing import Case, normal
from scratch_layers.testing import Subject as LayerSubject
from scratch_layers.testing.cases import FAMILIES
from scratch_optim.testing import Subject
from scratch_optim.testing.kit import named
from scratch_optim.testing.options import SWITCHES, Options, derived, parameters_of


@dataclass(frozen=True)
class Package:
    """Where classes are.

    Attributes:
        module: what they are imported from.
        distribution: what pip installs it by.
        parts: modules beneath it that have classes too.
    """

    module: str
    distribution: str
    parts: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether it can be imported."""
        return importlib.util.find_spec(self.module.split(".")[0]) is not None

    @property
    def version(self) -> str:
        """The version that is installed."""
        return importlib.metadata.version(self.distribution)

    def load(self) -> list[ModuleType]:
        """The modules, imported without their warnings."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [importlib.import_module(name) for name in (self.module, *self.parts)]

    def classes(self, base: type) -> list[str]:
        """``module:Name`` of its own public classes that inherit from ``base``, each once."""
        own = self.module.split(".")[0]
        found: dict[type, str] = {}
        for module in self.load():
            for name in sorted(vars(module)):
                value = getattr(module, name)
                if (
                    inspect.isclass(value)
                    and issubclass(value, base)
                    and value.__module__.split(".")[0] == own
                    and not name.startswith("_")
                ):
                    found.setdefault(value, f"{module.__name__}:{name}")
        return list(found.values())


OPTIM = (
    Package("torch.optim", "torch"),
    Package("scratch_optim", "scratch-torch"),
    Package("timm.optim", "timm"),
    Package("pytorch_optimizer", "pytorch_optimizer"),
    Package("torchao.optim", "torchao"),
)


@dataclass(frozen=True)
class Match:
    """What a class is compared with.

    Attributes:
        reference: ``module:Name`` of the class of the same mathematics.
        why: why they are the same, or what is left out.
        always: options of the class in all combinations; the reference takes those that it has.
        like: options of the reference alone.
        renamed: options of the class under the names of the reference.
    """

    reference: str
    why: str
    always: Options = field(default_factory=dict)
    like: Options = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)


LOOPS = {"foreach": False}

MATCHES: dict[str, Match] = {
    "timm.optim:AdamWLegacy": Match(
        "torch.optim:AdamW", "deprecated in favour of it, as its docstring says"
    ),
    "timm.optim:NAdamLegacy": Match(
        "torch.optim:NAdam",
        "deprecated in favour of it, as its docstring says",
        renamed={"schedule_decay": "momentum_decay"},
    ),
    "timm.optim:RAdamLegacy": Match(
        "torch.optim:RAdam",
        "deprecated in favour of it, as its file says; its weight decay is decoupled",
        like={"decoupled_weight_decay": True},
    ),
    "timm.optim:SGDW": Match(
        "torch.optim:SGD",
        "without weight decay, which is decoupled here and part of the gradient there",
        always={"weight_decay": 0.0},
    ),
    "timm.optim:Lion": Match("scratch_optim:Lion", "torch has none"),
    "timm.optim:Lars": Match(
        "scratch_optim:LARS",
        "torch has none; every parameter adapted, as long as the learning rate stays",
        always={"always_adapt": True, "eps": 0.0},
        like={"exclude": False},
        renamed={"trust_coeff": "trust_coefficient", "trust_clip": "clip"},
    ),
    "timm.optim:Lamb": Match(
        "scratch_optim:LAMB",
        "torch has none; every parameter adapted, gradients not clipped",
        always={"always_adapt": True, "max_grad_norm": None},
        like={"exclude": False},
    ),
    "pytorch_optimizer:AdaDelta": Match("torch.optim:Adadelta", "the same paper"),
    "pytorch_optimizer:AdaMax": Match("torch.optim:Adamax", "the same paper"),
    "pytorch_optimizer:RAdam": Match(
        "torch.optim:RAdam",
        "the same paper, with steps before the rectification as torch takes them",
        always={"degenerated_to_sgd": True},
        like={"decoupled_weight_decay": True},
    ),
    "pytorch_optimizer:SGDW": Match(
        "torch.optim:SGD", "with its weight decay coupled", always={"weight_decouple": False}
    ),
    "pytorch_optimizer:QHAdam": Match(
        "torch.optim:Adam", "Adam where nus=(1, 1), its default", always={"nus": (1.0, 1.0)}
    ),
    "pytorch_optimizer:Lion": Match("scratch_optim:Lion", "torch has none"),
    "pytorch_optimizer:LARS": Match(
        "scratch_optim:LARS",
        "torch has none; without weight decay, from which it does not exclude the same parameters",
        always={"weight_decay": 0.0},
    ),
    **{
        f"torchao.optim:Adam{w}{bits}": Match(
            f"torch.optim:Adam{w}", "small tensors, whose state is not quantized", {}, LOOPS
        )
        for w in ("", "W")
        for bits in ("4bit", "8bit", "Fp8")
    },
}
"""By ``module:Name`` of a peer's class."""

UNMATCHED: dict[str, str] = {
    "timm.optim:Adafactor": "other defaults, other rules of what is factored than torch's",
    "timm.optim:AdafactorBigVision": "the variant of Zhai et al., not that of torch",
    "timm.optim:RMSpropTF": "eps inside the root, a mean square that begins at one, and the "
    "learning rate in the momentum, as its docstring says",
    "timm.optim:NAdamW": "the simplified form of Table 1 in Choi et al. (2019), not Dozat's",
    "timm.optim:Muon": "other coefficients, and another optimizer for what is no matrix",
    "pytorch_optimizer:ASGD": "not averaged SGD, but one that estimates the smoothness",
    "pytorch_optimizer:AdaFactor": "the variant of Zhai et al., not that of torch",
    "pytorch_optimizer:Lamb": "without bias correction, with decay before the norm, and clipped",
    "pytorch_optimizer:Muon": "other coefficients, and another optimizer for what is no matrix",
}
"""Why a class is not compared with one that bears its name."""

OWN_LOOP = ("ASGD", "NAdam", "RAdam", "Adagrad", "Adafactor", "Muon")
"""Those whose for-loop and lists differ from each other in torch: the for-loop is compared with."""

MADE_OTHERWISE = {
    "scratch_optim:Optimizer": "the base class",
    "torch.optim:Optimizer": "the base class",
    "torchao.optim:CPUOffloadOptimizer": "moves state between a GPU and the CPU",
}
"""Classes that the kit cannot ask anything, with the reason, beside those that :func:`unasked`
finds by their signature."""

_FLOAT32 = {"equals_reference_in_float64": "computes in float32, as a comment in its step says"}

_CHANGED = (
    *("groups_may_be_reordered_swapped_and_dropped", "options_changed_in_mid_run_are_read_anew"),
    *("options_switched_on_in_mid_run_count_from_then_on", "all_of_it_at_random"),
    "the_learning_rate_may_change_at_every_step",
)
"""Checks that change the learning rate, before which it is the same to multiply the velocity by it
or the gradient."""

DOCUMENTED: dict[str, dict[str, str]] = {
    **{
        f"torchao.optim.Adam{w}{bits}": _FLOAT32
        for w in ("", "W")
        for bits in ("4bit", "8bit", "Fp8")
    },
    "timm.optim.RAdamLegacy": {
        "equals_reference_in_float64": "computes in float32, as a comment in load_state_dict says"
    },
    "timm.optim.SGDW": dict.fromkeys(
        (
            *("decays_weights_as_its_equation_says", "all_of_it_at_random"),
            "groups_may_be_reordered_swapped_and_dropped",
        ),
        "its weight decay is decoupled, as its file says",
    ),
    **{
        title: dict.fromkeys(_CHANGED, "multiplies the velocity by the learning rate, as apex does")
        for title in ("timm.optim.Lars", "pytorch_optimizer.LARS")
    },
}
"""By the title of a class and the name of a check: what it documents, which is no failure of it."""


REFERENCE_IS_OFF: dict[str, dict[str, str]] = {
    "timm.optim.NAdamLegacy": {
        "equals_reference_in_float64": "torch.optim.NAdam keeps the product of its mu in float32, "
        "this class in float64; with torch.set_default_dtype(torch.float64) they are equal"
    },
    "timm.layers.HardSigmoid": {
        "equals_the_reference_in_float64": "the slope of torch.nn.Hardsigmoid in float64 is 1/6 in "
        "the digits of float32"
    },
}
"""Likewise, where it is the reference that is further from the equation."""


OWN_ERRORS = (
    *("NoSparseGradientError", "NegativeLRError", "NegativeStepError", "NoClosureError"),
    *("ZeroParameterSizeError", "NoComplexParameterError"),
)
"""Exceptions that pytorch_optimizer defines on ``Exception`` itself to refuse something: what the
kit, which knows those of Python and torch, takes for a crash."""

CONSEQUENCES: dict[str, tuple[str, ...]] = {
    "leaves_gradients_as_they_are": (
        "a_subclass_may_have_a_step_of_its_own",
        "gradients_accumulated_in_place_are_read_anew",
        "reads_gradients_accumulated_in_place",
        "parameters_and_gradients_may_have_any_strides",
        "two_optimizers_may_share_parameters",
        "options_changed_in_mid_run_are_read_anew",
        "options_switched_on_in_mid_run_count_from_then_on",
        "all_of_it_at_random",
    ),
    "counts_the_steps_of_each_parameter": (
        "gradients_that_come_and_go_are_followed_as_by_the_reference",
        "parameters_come_into_a_group_and_leave_it",
        "states_may_be_reset",
        "equals_its_reference_in_drawn_cases",
        "all_of_it_at_random",
    ),
}
"""Checks that fail where the first one does, for the same cause."""


def unasked(place: str) -> str | None:
    """Why an optimizer's class is left out, or None: it is not made of parameters alone."""
    if place in MADE_OTHERWISE:
        return MADE_OTHERWISE[place]
    first, *others = inspect.signature(named(place)).parameters.values()
    if first.name != "params":
        return f"is made of a {first.name}, not of parameters"
    required = [
        p.name
        for p in others
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    return f"cannot be made without {', '.join(required)}" if required else None


def optimizers(package: Package) -> list[str]:
    """``module:Name`` of the optimizers of a package, those too that are left out."""
    return package.classes(torch.optim.Optimizer)


def _standing_in(cls: type, match: Match) -> type:
    """The reference under the names of a peer's options: it takes those, and passes on its own."""
    base = named(match.reference)
    other_way = {theirs: mine for mine, theirs in match.renamed.items()}
    signature = inspect.signature(base)
    known = [
        p.replace(name=other_way.get(p.name, p.name), kind=p.KEYWORD_ONLY)
        for p in list(signature.parameters.values())[1:]
    ]
    names = {p.name for p in known}
    ignored = match.always.keys() - names

    def begin(self: Any, params: Any, **options: Any) -> None:
        mine = {match.renamed.get(n, n): x for n, x in options.items() if n not in ignored}
        base.__init__(self, params, **mine)

    made = type(base.__name__, (base,), {"__init__": begin})
    made.__module__, made.__qualname__ = match.reference.split(":")
    made.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[next(iter(signature.parameters.values())), *known]
    )
    return made


@dataclass(frozen=True)
class Peer(Subject):
    """A peer's optimizer that is compared with a class whose defaults are others.

    Attributes:
        said: options that both are told if they are not told otherwise: where defaults differ.
        always: options that both are told in any case.
    """

    said: Options = field(default_factory=dict)
    always: Options = field(default_factory=dict)

    def make(self, params: Any, **options: Any) -> torch.optim.Optimizer:
        """An optimizer of the class."""
        return super().make(params, **self.said | options | self.always)

    def make_reference(self, params: Any, **options: Any) -> torch.optim.Optimizer:
        """The reference, as an optimizer of the same options."""
        return super().make_reference(params, **self.said | options | self.always)


def _peer(cls: type, match: Match) -> Peer:
    reference = _standing_in(cls, match)
    mine, theirs = parameters_of(cls), parameters_of(reference)
    said = {
        name: mine[name].default
        for name in sorted(mine.keys() & theirs.keys() - set(SWITCHES))
        if mine[name].default != theirs[name].default
    }
    bare = Peer(cls, reference, like=match.like, said=said, always=match.always)

    def both(params: Any, **options: Any) -> None:
        for make in bare.makes:
            make(params, **options)

    both.__signature__ = inspect.signature(cls)  # type: ignore[attr-defined]
    given: list[Options] = []
    for options in derived(both, reference):
        whole = said | options | match.always
        if whole not in given:
            given.append(whole)
    return replace(bare, given=tuple(given))


def optimizer(place: str) -> Subject:
    """The optimizer at ``module:Name`` as the kit takes it, with its reference if there is one."""
    module, name = place.split(":")
    cls = named(place)
    if module == "scratch_optim" and hasattr(torch.optim, name):
        like = LOOPS if name in OWN_LOOP else {}
        return Subject(cls, getattr(torch.optim, name), ulps=0, drop_in=True, like=like)
    match = MATCHES.get(place)
    if match is None:
        return Subject(cls)
    return _peer(cls, match)


def why(place: str) -> str:
    """Why a class is compared with its reference, or with none."""
    match = MATCHES.get(place)
    return match.why if match else UNMATCHED.get(place, "")


def expected(place: str, known: Sequence[Mapping[str, Mapping[str, str]]]) -> dict[str, str]:
    """Reasons by the names of checks: what is known or documented of a class.

    Args:
        place: ``module:Name`` of the class.
        known: tables by the name of a class, where it is imported from or where it is defined.
    """
    cls = named(place)
    names = {place.replace(":", "."), f"{cls.__module__}.{cls.__qualname__}"}
    return {
        check: reason
        for table in known
        for name in names
        for check, reason in table.get(name, {}).items()
    }


# ------------------------------------------------------------------ layers

LAYERS = (
    Package("torch.nn", "torch"),
    Package("scratch_layers", "scratch-torch"),
    Package("timm.layers", "timm", ("timm.loss",)),
    Package("torchvision.ops", "torchvision"),
)


@dataclass(frozen=True)
class LayerMatch:
    """What a layer is compared with, and in which cases."""

    reference: str | Callable[..., Tensor]
    """``module:Name`` of a class of the same arguments, or the equation."""
    why: str
    cases: tuple[Case, ...] | None = None
    """None: those that the kit has for the reference."""
    kin: bool = True
    """Whether it is made with the same arguments as the layer of torch.nn whose name it or its
    reference bears, so that the kit can make it for closed forms and drawn cases."""


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _hard_mish(x: Tensor) -> Tensor:
    return 0.5 * x * (x + 2).clamp(0, 2)


def _over_channels(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A normalization of the last dimension, of the channels of (N, C, H, W)."""

    def equation(x: Tensor, weight: Tensor, eps: float, bias: Tensor | None = None) -> Tensor:
        terms = (weight,) if bias is None else (weight, bias)
        return norm(x.permute(0, 2, 3, 1), weight.shape, *terms, eps=eps).permute(0, 3, 1, 2)

    return equation


def _one_group(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    return F.group_norm(x, 1, weight, bias, eps)


def _smoothed(x: Tensor, target: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(x, target, label_smoothing=smoothing)


def _soft_target(x: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(x, target)


def _frozen(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    eps: float,
) -> Tensor:
    return F.batch_norm(x, running_mean, running_var, weight, bias, eps=eps)


def _labels(dtype: torch.dtype) -> tuple[Tensor, ...]:
    return torch.randn(4, 5, dtype=torch.float64).to(dtype), torch.randint(5, (4,))


def _probabilities(dtype: torch.dtype) -> tuple[Tensor, ...]:
    x, y = torch.randn(2, 4, 5, dtype=torch.float64)
    return x.to(dtype), y.softmax(1).to(dtype)


_IMAGES = normal(4, 3, 5, 5)
_VALUES = (Case(normal(4, 3, 5, 2)),)
_ROWS = (Case(normal(6, 8), (8, 1e-5)), Case(normal(2, 3, 8), (8, 1e-3), label="3-D"))
_CHANNELS = (Case(_IMAGES, (3,)),)
_RANDOM = (Case(normal(6, 3, 4), (0.3,), random=True), Case(normal(6, 3), (0.0,), label="0"))

LAYER_MATCHES: dict[str, LayerMatch] = {
    **{
        f"timm.layers:{mine}": LayerMatch(f"torch.nn:{theirs}", "the same function", _VALUES)
        for mine, theirs in {
            "GELU": "GELU",
            "HardSigmoid": "Hardsigmoid",
            "HardSwish": "Hardswish",
            "Mish": "Mish",
            "Sigmoid": "Sigmoid",
            "Swish": "SiLU",
            "Tanh": "Tanh",
        }.items()
    },
    "timm.layers:PReLU": LayerMatch("torch.nn:PReLU", "inherits from it"),
    "timm.layers:GELUTanh": LayerMatch(_gelu_tanh, "GELU's approximation", _VALUES),
    "timm.layers:QuickGELU": LayerMatch(_quick_gelu, "its equation", _VALUES),
    "timm.layers:HardMish": LayerMatch(_hard_mish, "its equation", _VALUES),
    "timm.layers:LayerNorm": LayerMatch("torch.nn:LayerNorm", "inherits from it", _ROWS, kin=False),
    "timm.layers:LayerNormFp32": LayerMatch(
        "torch.nn:LayerNorm", "inherits from it", _ROWS, kin=False
    ),
    "timm.layers:RmsNorm": LayerMatch("torch.nn:RMSNorm", "the same paper", _ROWS, kin=False),
    "timm.layers:RmsNormFp32": LayerMatch("torch.nn:RMSNorm", "the same paper", _ROWS, kin=False),
    "timm.layers:LayerNorm2d": LayerMatch(
        _over_channels(F.layer_norm), "LayerNorm of the channels", _CHANNELS, kin=False
    ),
    "timm.layers:LayerNorm2dFp32": LayerMatch(
        _over_channels(F.layer_norm), "LayerNorm of the channels", _CHANNELS, kin=False
    ),
    "timm.layers:RmsNorm2d": LayerMatch(
        _over_channels(F.rms_norm), "RMSNorm of the channels", _CHANNELS, kin=False
    ),
    "timm.layers:GroupNorm": LayerMatch(
        "torch.nn:GroupNorm",
        "inherits from it",
        (Case(normal(2, 6, 3, 3), options={"num_channels": 6, "num_groups": 3}),),
        kin=False,
    ),
    "timm.layers:GroupNorm1": LayerMatch(_one_group, "a single group", _CHANNELS, kin=False),
    "timm.layers:BatchNormAct2d": LayerMatch(
        "scratch_layers:BatchNormReLU2d", "relu(bn(x)), its default", _CHANNELS, kin=False
    ),
    "timm.layers:DropPath": LayerMatch("scratch_layers:DropPath", "torch.nn has none", _RANDOM),
    "timm.loss:LabelSmoothingCrossEntropy": LayerMatch(
        _smoothed, "cross_entropy(label_smoothing)", (Case(_labels, (0.2,)),)
    ),
    "timm.loss:SoftTargetCrossEntropy": LayerMatch(
        _soft_target, "cross_entropy of probabilities", (Case(_probabilities),)
    ),
    "torchvision.ops:FrozenBatchNorm2d": LayerMatch(_frozen, "batch_norm in evaluation", _CHANNELS),
    "torchvision.ops:StochasticDepth": LayerMatch(
        "scratch_layers:DropPath",
        "torch.nn has none",
        (
            Case(normal(6, 3, 4), (0.3, "row"), random=True),
            Case(normal(6, 3, 4), (0.3, "batch"), random=True, label="batch", samples=False),
        ),
        kin=False,
    ),
    "scratch_layers:DropPath": LayerMatch(
        "torchvision.ops:StochasticDepth",
        "torch.nn has none",
        (Case(normal(6, 3, 4), (0.3, "row"), random=True),),
    ),
}
"""By ``module:Name`` of a layer that torch.nn has not."""

_IN_FLOAT32 = (
    *("equals_the_reference_in_float64", "gradients_are_right", "forward_derivatives_are_right"),
    *("second_derivatives_are_right", "works_under_torch_func"),
)

LAYER_DOCUMENTED: dict[str, dict[str, str]] = {
    f"timm.layers.{name}": dict.fromkeys(
        [*_IN_FLOAT32, *others], "computes in float32, as its name says"
    )
    for name, others in {
        "LayerNormFp32": ["takes_the_dtypes_that_the_reference_takes"],
        "LayerNorm2dFp32": [],
        "RmsNormFp32": ["the_upstream_gradient_is_kept_and_may_have_any_strides"],
    }.items()
}
"""As :data:`DOCUMENTED`."""


def layers(package: Package) -> list[str]:
    """``module:Name`` of the layers of a package, those too that are left out."""
    return package.classes(torch.nn.Module)


def unasked_layer(place: str) -> str | None:
    """Why a layer is left out, or None: nobody says how it is made and called."""
    module, name = place.split(":")
    if place in LAYER_MATCHES:
        return None
    of_torch = module in ("torch.nn", "scratch_layers") and any(
        name in x for x in FAMILIES.values()
    )
    return None if of_torch else "the kit has no cases for it"


def layer(place: str) -> LayerSubject:
    """The layer at ``module:Name`` as the kit takes it, with its reference if there is one."""
    module, name = place.split(":")
    cls = named(place)
    match = LAYER_MATCHES.get(place)
    if match is not None:
        at = match.reference
        reference = named(at) if isinstance(at, str) else at
        if match.kin:
            return LayerSubject(cls, reference, cases=match.cases)
        without = {"equals_the_reference_on_drawn_cases": "is made with other arguments"}
        cases = [replace(case, without=without) for case in match.cases or ()]
        subject = LayerSubject(cls, reference, cases=cases)
        subject.family = None
        return subject
    if module == "scratch_layers":
        return LayerSubject(cls, getattr(torch.nn, name), drop_in=True)
    return LayerSubject(cls)


def why_layer(place: str) -> str:
    """Why a layer is compared with its reference."""
    match = LAYER_MATCHES.get(place)
    return match.why if match else ""
