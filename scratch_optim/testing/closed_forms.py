"""Checks by hand: what an update equation gives where it can be solved, and its symmetries.

An optimizer belongs to a family if its name, or that of its reference, or that of a class whose
step it inherits, is the name of one: ``Adam`` from anywhere is Adam. What is asked of the family
then follows from its equation and from nothing else, so that it needs no other implementation.

In the derivations theta is the parameter, g its gradient, n the number of steps, s = sign(g).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from .compare import assert_same_bits, epsilons
from .kit import check, circumstances, skip
from .options import Options, accepted, describe, parameters_of, required
from .subject import Subject, gradients, parameters

ROUNDINGS = 2.0**16
"""How many epsilons of float64 a result may be from its closed form: a difference such as
1 - beta2**t, of two numbers near 1, has lost up to four digits, see :attr:`Pair.allowed`."""

STEPS = 10
SHAPE = (3, 2)
RATE = 0.125

Form = Callable[[Options, int, Tensor, Tensor], Tensor]
"""``form(options, n, theta, g)``: the parameter after n steps from ``theta`` with gradient g."""


# ------------------------------------------------------------------ a constant gradient


def sgd(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """b_1 = g and b_k = mu b_(k-1) + (1 - tau) g, so b_k / g is mu^(k-1) + (1 - tau) times the
    geometric sum 1 + ... + mu^(k-2). The step is b_k, with Nesterov's momentum g + mu b_k."""
    mu, tau = o.get("momentum", 0), o.get("dampening", 0)
    b = [1 if mu == 0 else mu ** (k - 1) + (1 - tau) * _geometric(mu, k - 1) for k in _to(n)]
    return theta - o["lr"] * g * sum(1 + mu * x if o.get("nesterov") else x for x in b)


def sign_descent(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """Corrected for their start, the mean of the gradients is g, of their squares g^2, the largest
    of them |g|: each step is lr s."""
    return theta - n * o["lr"] * g.sign()


def nadam(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """mu_t = beta1 (1 - 0.96^(t psi) / 2) and P_t = mu_1 ... mu_t; the mean is (1 - beta1^t) g, its
    square's root |g|: the step is s (mu_(t+1) (1 - beta1^t) / (1 - P_(t+1)) + (1 - mu_t) / (1 -
    P_t))."""
    beta1 = o["betas"][0]
    mu = [beta1 * (1 - 0.5 * 0.96 ** (t * o["momentum_decay"])) for t in _to(n + 1)]
    p = [math.prod(mu[:t]) for t in _to(n + 1)]
    steps = [mu[t] * (1 - beta1**t) / (1 - p[t]) + (1 - mu[t - 1]) / (1 - p[t - 1]) for t in _to(n)]
    return theta - o["lr"] * sum(steps) * g.sign()


def radam(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """rho = 2 / (1 - beta2) - 1 and rho_t = rho - 2 t beta2^t / (1 - beta2^t). The step is g while
    rho_t <= 5, then s sqrt((rho_t - 4) (rho_t - 2) rho / ((rho - 4) (rho - 2) rho_t))."""
    beta2 = o["betas"][1]
    rho = 2 / (1 - beta2) - 1
    total = torch.zeros_like(g)
    for t in _to(n):
        r = rho - 2 * t * beta2**t / (1 - beta2**t)
        if r > 5:
            total += g.sign() * math.sqrt((r - 4) * (r - 2) * rho / ((rho - 4) * (rho - 2) * r))
        else:
            total += g
    return theta - o["lr"] * total


def rmsprop(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """v_k = (1 - alpha^k) g^2, and centered less ((1 - alpha^k) g)^2, so (1 - alpha^k) alpha^k g^2.
    What is added at step k, s / sqrt(v_k / g^2), counts 1 + mu + ... + mu^(n-k) times until n."""
    alpha, mu = o["alpha"], o.get("momentum", 0)
    v = [(1 - alpha**k) * (alpha**k if o.get("centered") else 1) for k in _to(n)]
    total = sum(_geometric(mu, n - k + 1) / math.sqrt(v[k - 1]) for k in _to(n))
    return theta - o["lr"] * total * g.sign()


def adagrad(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """The sum of squares is a + k g^2, the rate lr / (1 + (k - 1) decay)."""
    a, decay = o.get("initial_accumulator_value", 0), o.get("lr_decay", 0)
    steps = [g / (a + k * g * g).sqrt() / (1 + (k - 1) * decay) for k in _to(n)]
    return theta - o["lr"] * torch.stack(steps).sum(0)


def adadelta_without_memory(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """With rho = 0: d_k^2 = (d_(k-1)^2 + eps) r with r = g^2 / (g^2 + eps) and d_0 = 0, so d_k^2 =
    eps (r + ... + r^k) = g^2 (1 - r^k)."""
    r = g * g / (g * g + o["eps"])
    return theta - o["lr"] * torch.stack([g * (1 - r**k).sqrt() for k in _to(n)]).sum(0)


def asgd(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """With alpha = 1 the rate of step k is lr / D_k with D_k = 1 + c (k - 1) and c = lambda lr.
    theta_k = (1 - c / D_k) theta_(k-1) - lr g / D_k, times D_k: D_k theta_k = D_(k-1) theta_(k-1) -
    lr g, a sum. D_0 is 1 - c."""
    c = o["lambd"] * o["lr"]
    return ((1 - c) * theta - n * o["lr"] * g) / (1 + c * (n - 1))


def rprop(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """The step size is lr, within its bounds, and grows by eta from step to step up to the upper
    one."""
    (_, eta), (low, high) = o["etas"], o["step_sizes"]
    total = sum(min(max(o["lr"], low) * eta ** (k - 1), high) for k in _to(n))
    return theta - total * g.sign()


def lars(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """The step is lr eta |theta| g / |g|, which is lr eta theta if theta is g times a positive
    number, and remains it: a geometric sequence."""
    eta = o.get("trust_coefficient", o.get("trust_coeff"))
    return theta * (1 - o["lr"] * eta) ** n


def lamb(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """Adam's step s, scaled to the length of theta, is theta if theta is s times a positive number,
    and remains it."""
    return theta * (1 - o["lr"]) ** n


def adafactor(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """Where all |g| are equal the factored means are g^2, the step is s, whose mean square is 1,
    times lr and the root of the mean square of theta: theta if that is s times a positive number.
    The rate is at most 1 / sqrt(k)."""
    return theta * math.prod(1 - min(o["lr"], 1 / math.sqrt(k)) for k in _to(n))


# ------------------------------------------------------------------ one gradient, and then zeros


def sgd_impulse(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """b_k = mu^(k-1) g; with Nesterov's momentum the step is mu b_k, and g more at the first."""
    mu = o.get("momentum", 0)
    b = [mu ** (k - 1) for k in _to(n)]
    return theta - o["lr"] * g * (1 + mu * sum(b) if o.get("nesterov") else sum(b))


def adam_impulse(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """The mean is (1 - beta1) beta1^(k-1) g, of the squares (1 - beta2) beta2^(k-1) g^2, each over
    1 - beta^k. What AMSGrad keeps of the squares is (1 - beta2) g^2 from the first step on."""
    beta1, beta2 = o["betas"]
    total = 0.0
    for k in _to(n):
        mean = (1 - beta1) * beta1 ** (k - 1) / (1 - beta1**k)
        kept = 1 if o.get("amsgrad") else beta2 ** (k - 1)
        total += mean / math.sqrt((1 - beta2) * kept / (1 - beta2**k))
    return theta - o["lr"] * total * g.sign()


def adamax_impulse(o: Options, n: int, theta: Tensor, g: Tensor) -> Tensor:
    """The mean as of Adam, the largest beta2^(k-1) |g|."""
    beta1, beta2 = o["betas"]
    steps = [(1 - beta1) * (beta1 / beta2) ** (k - 1) / (1 - beta1**k) for k in _to(n)]
    return theta - o["lr"] * sum(steps) * g.sign()


def _to(n: int) -> Iterable[int]:
    return range(1, n + 1)


def _geometric(q: float, terms: int) -> float:
    """1 + q + ... + q^(terms-1)."""
    return terms if q == 1 else (1 - q**terms) / (1 - q)


# ------------------------------------------------------------------ the families


Start = Literal["anywhere", "along the gradient", "along its sign", "of equal magnitudes"]


@dataclass(frozen=True)
class Family:
    """What follows from an update equation without weight decay, and with the smallest eps."""

    form: Form | None = None
    options: tuple[Options, ...] = ({},)
    """Options under which the form holds; those that the class has not are left out."""
    start: Start = "anywhere"
    """Where theta begins, and what g is, for the form."""
    scale: int | None = 0
    """The power of a factor of the gradients that the way of theta has; None: none at all."""
    translates: bool = True
    """Whether the way does not depend on where theta begins."""
    linear: bool = True
    """Whether the way is proportional to the learning rate."""
    elementwise: bool = True
    """Whether each entry moves on its own."""
    decay: Literal["coupled", "decoupled"] | None = "coupled"
    """What weight decay is, if the option ``decoupled_weight_decay`` does not say."""
    impulse: Form | None = None
    """Where theta is after n steps, the first with gradient g, the others with zeros."""
    fixed: Options = field(default_factory=dict)
    """Options that must be so for all of this, if the class has them."""


_BETAS: tuple[Options, ...] = ({}, {"betas": (0.5, 0.6)}, {"betas": (0.0, 0.0)})
_MOMENTA: tuple[Options, ...] = (
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
)
_ADAM = Family(sign_descent, (*_BETAS, {"amsgrad": True}), impulse=adam_impulse)
_LAYERWISE = {"translates": False, "linear": False, "elementwise": False, "decay": None}

FAMILIES: dict[str, Family] = {
    "sgd": Family(sgd, _MOMENTA, scale=1, impulse=sgd_impulse),
    "momentum": Family(sgd, _MOMENTA, scale=1, impulse=sgd_impulse),
    "adam": _ADAM,
    "sparseadam": replace(_ADAM, impulse=None),  # to which a gradient of zero names no entries
    "adamax": Family(sign_descent, _BETAS, impulse=adamax_impulse),
    "adamw": Family(sign_descent, _ADAM.options, decay="decoupled", impulse=adam_impulse),
    "nadam": Family(nadam, (*_BETAS, {"momentum_decay": 0.1})),
    "radam": Family(radam, ({}, {"betas": (0.5, 0.95)}, {"betas": (0.5, 0.6)}), scale=1),
    "rmsprop": Family(
        rmsprop,
        ({}, {"alpha": 0.5}, {"momentum": 0.9}, {"centered": True, "alpha": 0.9, "momentum": 0.5}),
    ),
    "adagrad": Family(adagrad, ({}, {"initial_accumulator_value": 0.5}, {"lr_decay": 0.1})),
    "adadelta": Family(
        adadelta_without_memory,
        ({"rho": 0.0, "eps": 1e-6}, {"rho": 0.0, "eps": 0.5}),
        scale=None,
        fixed={"eps": 1e-6},
    ),
    "asgd": Family(
        asgd,
        ({"alpha": 1.0, "lambd": 0.0}, {"alpha": 1.0, "lambd": 0.1}),
        scale=1,
        fixed={"lambd": 0.0},
    ),
    "rprop": Family(
        rprop,
        ({}, {"etas": (0.4, 1.3)}, {"step_sizes": (0.2, 0.3)}),
        linear=False,
        decay=None,
    ),
    "lion": Family(sign_descent, ({}, {"betas": (0.5, 0.6)}), decay="decoupled"),
    "lars": Family(
        lars,
        ({"momentum": 0.0},),
        "along the gradient",
        fixed={"always_adapt": True, "exclude": False},
        **_LAYERWISE,  # type: ignore[arg-type]
    ),
    "lamb": Family(
        lamb,
        (*_BETAS, {"bias_correction": False}),
        "along its sign",
        fixed={"always_adapt": True, "exclude": False, "max_grad_norm": None},
        **_LAYERWISE,  # type: ignore[arg-type]
    ),
    "adafactor": Family(
        adafactor,
        ({"beta2_decay": -0.8},),  # which tells the paper's equation from its many variants
        "of equal magnitudes",
        **_LAYERWISE,  # type: ignore[arg-type]
    ),
    "muon": Family(elementwise=False, decay="decoupled"),
}
"""By the name of the class in lower case."""


def family_of(subject: Subject) -> Family:
    """The family of a subject.

    Raises:
        NotApplicable: it has none.
    """
    cls = subject.cls
    inherited = [base.__name__ for base in cls.__mro__[1:] if _computes_like(cls, base)]
    reference = getattr(subject.reference, "__name__", "")
    for name in (cls.__name__, reference, *inherited):
        if name.lower() in FAMILIES:
            return FAMILIES[name.lower()]
    skip(f"is of no family whose equation is known here, which are {', '.join(FAMILIES)}")


def _computes_like(cls: type, base: type) -> bool:
    """Whether a class inherits what it computes from a base class."""
    pairs = [[getattr(x, name, None) for x in (cls, base)] for name in ("step", "update")]
    return pairs[0][1] is not None and all(
        a is b or (a and b and inspect.unwrap(a) is inspect.unwrap(b)) for a, b in pairs
    )


# ------------------------------------------------------------------ to run them


def _settings(subject: Subject, family: Family, *changes: Options) -> Options:
    """Options without decay and with the smallest eps, for which ``changes`` are made."""
    bare: Options = {"lr": RATE, "weight_decay": 0.0, "eps": _least_eps(subject)}
    options = required(subject.cls)
    for more in (bare, family.fixed, *changes):
        options |= {n: x for n, x in more.items() if subject.has(n) and x is not _KEEP}
    return options


_KEEP = object()


def _least_eps(subject: Subject) -> Any:
    """The smallest eps that the class takes; what it has if that is no number."""
    known = parameters_of(subject.cls).get("eps")
    if known is None or not isinstance(known.default, float):
        return _KEEP
    return next((e for e in (0.0, 1e-200, 1e-30) if accepted(subject.cls, {"eps": e})), _KEEP)


def _each_way(subject: Subject, options: Options) -> Iterator[Options]:
    for switch in subject.ways.values():
        yield options | switch


def _way(
    subject: Subject, options: Options, start: Tensor, grads: Iterable[Tensor] | Callable[..., Any]
) -> Iterator[tuple[Options, Tensor]]:
    """Where theta is after each step, and the options of its group.

    ``grads`` are the gradients, or the gradient as a function of theta, for :data:`STEPS` steps.
    """
    theta = Parameter(start.clone())
    optimizer = subject.make([theta], **options)
    function = callable(grads)
    for g in [None] * STEPS if callable(grads) else grads:
        row: Any = grads(theta.detach()) if function else g  # type: ignore[operator]
        subject.take_step(optimizer, [theta], [subject.as_given(theta, row)])
        yield optimizer.param_groups[0], theta.detach().clone()


def _end(subject: Subject, options: Options, start: Tensor, grads: Any) -> Tensor:
    *_, (_, theta) = _way(subject, options, start, grads)
    return theta


def _ready(subject: Subject) -> Family:
    family = family_of(subject)
    if subject.needs_closure:
        skip("takes several steps in one")
    if subject.step_error(subject.make, SHAPE, torch.float64, subject.sparse) is not None:
        skip(f"does not take a float64 parameter of shape {SHAPE}")
    # In which the numbers are kept that belong to no entry, such as a product of momenta.
    torch.set_default_dtype(torch.float64)
    return family


def _numbers(subject: Subject) -> tuple[Tensor, list[Tensor]]:
    """Theta and five gradients, none of them zero: as many as RAdam takes like SGD."""
    (theta,) = parameters((SHAPE,), torch.float64, subject.device)
    return theta.detach(), [row[0] for row in gradients((SHAPE,), torch.float64)[:5]]


def _check_near(theta: Tensor, expected: Tensor, what: str) -> None:
    apart = epsilons(theta, expected)
    assert apart <= ROUNDINGS, (
        f"{what}: {theta.flatten().tolist()} where {expected.flatten().tolist()} is expected, "
        f"{apart:.3g} epsilons apart"
    )


# ------------------------------------------------------------------ the checks


@check
def a_constant_gradient_leads_where_the_equation_says(subject: Subject) -> None:
    """With the same gradient at every step, and eps as small as the class takes, the parameter goes
    where the equation, solved by hand, says."""
    family = _ready(subject)
    if family.form is None:
        skip("has no closed form")
    g = torch.tensor([[0.5, -2.0], [3.0, -0.25], [1.0, -8.0]], dtype=torch.float64)
    theta = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.0, 7.0]], dtype=torch.float64)
    if family.start == "of equal magnitudes":
        g = 0.75 * g.sign()
    if family.start != "anywhere":
        theta = 1.5 * (g if family.start == "along the gradient" else g.sign())
    g, theta = g.to(subject.device), theta.to(subject.device)
    _check_form(subject, family, family.form, theta, [g] * STEPS)


def _check_form(
    subject: Subject, family: Family, form: Form, theta: Tensor, grads: list[Tensor]
) -> None:
    """Compare with a form after every step, for all options of the family that the class has."""
    checked = False
    for change in family.options:
        options = _settings(subject, family, change)
        if not all(subject.has(n) for n in change) or not accepted(subject.cls, options):
            continue
        for whole in _each_way(subject, options):
            with circumstances(options=describe(whole)):
                for n, (group, x) in enumerate(_way(subject, whole, theta, grads), start=1):
                    _check_near(x, form(group, n, theta, grads[0]), f"after {n} steps")
        checked = True
    if not checked:
        skip("has not the options for which there is a closed form")


@check
def an_impulse_fades_as_the_equation_says(subject: Subject) -> None:
    """After one gradient, and zeros from then on, the memory of it carries the parameter on as the
    equation says: here each decay rate shows by itself."""
    family = _ready(subject)
    if family.impulse is None:
        skip("has no closed form")
    g = torch.tensor([[0.5, -2.0], [3.0, -0.25], [1.0, -8.0]], dtype=torch.float64)
    theta, zero = torch.ones_like(g), torch.zeros_like(g)
    grads = [x.to(subject.device) for x in (g, *[zero] * (STEPS - 1))]
    some = tuple([x for x in family.options if 0.0 not in x.get("betas", ())])  # which divide by 0
    _check_form(
        subject, replace(family, options=some), family.impulse, theta.to(subject.device), grads
    )


@check
def follows_its_roots_on_a_quadratic(subject: Subject) -> None:
    """On lambda theta^2 / 2 gradient descent is (1 - lr lambda)^n, and with momentum, heavy ball or
    Nesterov's, a sum of powers of the roots of its recurrence."""
    family = _ready(subject)
    if family.form is not sgd:
        skip("is no gradient descent")
    start = torch.full(SHAPE, 2.0, dtype=torch.float64, device=subject.device)
    for change in _MOMENTA:
        options = _settings(subject, family, change)
        if change.get("dampening") or not accepted(subject.cls, options):
            continue
        for curvature in (0.5, 3.0, 7.0):
            for whole in _each_way(subject, options):
                with circumstances(options=describe(whole), curvature=curvature):
                    ways = _way(subject, whole, start, lambda x, c=curvature: c * x)
                    for n, (group, theta) in enumerate(ways, start=1):
                        expected = start * _on_a_quadratic(group, curvature, n)
                        _check_near(theta, expected, f"after {n} steps")


def _on_a_quadratic(o: Options, curvature: float, n: int) -> float:
    """theta_n / theta_0.

    With h = lr lambda, heavy ball is theta_(k+1) = (1 + mu - h) theta_k - mu theta_(k-1), after a
    first step by 1 - h. Nesterov's theta is where the gradient is taken, so that theta_(k+1) =
    (1 - h) ((1 + mu) theta_k - mu theta_(k-1)), after a first step by 1 - (1 + mu) h. Either has
    the solution A x^n + B y^n with the roots x, y of its characteristic polynomial.
    """
    mu, h = o.get("momentum", 0), o["lr"] * curvature
    if o.get("nesterov"):
        a, b, first = (1 - h) * (1 + mu), (1 - h) * mu, 1 - (1 + mu) * h
    else:
        a, b, first = 1 + mu - h, mu, 1 - h
    root = complex(a * a - 4 * b) ** 0.5
    x, y = (a + root) / 2, (a - root) / 2
    A = (first - y) / (x - y)
    return (A * x**n + (1 - A) * y**n).real


@check
def decays_weights_as_its_equation_says(subject: Subject) -> None:
    """Weight decay is that of the family: by a factor of 1 - lr wd each step where it is decoupled,
    as if wd theta were added to the gradient where it is not."""
    family = _ready(subject)
    subject.need("weight_decay")
    if family.decay is None:
        skip("has a weight decay whose effect depends on more than the equation of its family")
    start, row = _numbers(subject)
    for switch in ({}, {"decoupled_weight_decay": True}):
        if switch and not subject.has("decoupled_weight_decay"):
            continue
        decoupled = bool(switch) or family.decay == "decoupled"
        # As it is made: eps must not be zero where the gradient is.
        options = required(subject.cls) | {"lr": RATE, "weight_decay": 0.25} | switch
        for whole in _each_way(subject, options):
            with circumstances(options=describe(whole)):
                if decoupled:
                    zeros = [torch.zeros_like(start)] * STEPS
                    expected = start * (1 - RATE * 0.25) ** STEPS
                    _check_near(_end(subject, whole, start, zeros), expected, "by no gradient")
                else:
                    _check_coupled(subject, whole, start, row)


def _check_coupled(subject: Subject, options: Options, start: Tensor, row: list[Tensor]) -> None:
    decay, bare = options["weight_decay"], options | {"weight_decay": 0.0}
    theta, other = Parameter(start.clone()), Parameter(start.clone())
    decayed, plain = subject.make([theta], **options), subject.make([other], **bare)
    for g in row:
        subject.take_step(decayed, [theta], [subject.as_given(theta, g)])
        total = g + decay * other.detach()
        subject.take_step(plain, [other], [subject.as_given(other, total)])
    _check_near(theta.detach(), other.detach(), "beside wd theta added to the gradient")


@check
def scales_with_the_gradients(subject: Subject) -> None:
    """All gradients times a power of two: the way is the same, or longer by that factor, as the
    equation says, to the bit."""
    family = _ready(subject)
    if family.scale is None:
        skip("has an equation that no factor of the gradients leaves alone")
    start, row = _numbers(subject)
    if family.scale:
        start = torch.zeros_like(start)  # so that theta is nothing but the way
    for options in _each_way(subject, _settings(subject, family)):
        expected = _end(subject, options, start, row)
        for factor in (2.0**-7, 2.0**9):
            with circumstances(options=describe(options), factor=factor):
                theta = _end(subject, options, start, [g * factor for g in row])
                what = f"gradients times {factor}"
                assert_same_bits(theta, expected * factor**family.scale, what)


@check
def is_odd(subject: Subject) -> None:
    """Negated gradients and parameters give negated parameters, to the bit."""
    family = _ready(subject)
    start, row = _numbers(subject)
    for change in ({}, {"weight_decay": 0.25}):
        for options in _each_way(subject, _settings(subject, family, change)):
            with circumstances(options=describe(options)):
                expected = -_end(subject, options, start, row)
                theta = _end(subject, options, -start, [-g for g in row])
                assert_same_bits(theta, expected, "parameters and gradients negated")


@check
def goes_the_same_way_from_anywhere(subject: Subject) -> None:
    """Without weight decay the way that a parameter goes does not depend on where it begins."""
    family = _ready(subject)
    if not family.translates:
        skip("has steps that depend on the size of the parameter")
    start, row = _numbers(subject)
    shift = 64.0
    for options in _each_way(subject, _settings(subject, family)):
        with circumstances(options=describe(options)):
            here = _end(subject, options, start, row)
            there = _end(subject, options, start + shift, row) - shift
            largest = shift + here.abs().max().item()
            apart = epsilons(there, here, largest)
            # Each step rounds the sum by half an epsilon in either run, and the shift twice.
            assert apart <= len(row) + 2, (
                f"a parameter that begins {shift} further on ends {apart:.3g} epsilons from {shift}"
                " further on"
            )


@check
def goes_as_far_as_its_learning_rate(subject: Subject) -> None:
    """Twice the learning rate, from zero and without weight decay, goes twice as far, to the
    bit."""
    family = _ready(subject)
    subject.need("lr")
    if not family.linear:
        skip("is not linear in its learning rate")
    start, row = _numbers(subject)
    start = torch.zeros_like(start)
    for options in _each_way(subject, _settings(subject, family)):
        with circumstances(options=describe(options)):
            once = _end(subject, options, start, row)
            twice = _end(subject, options | {"lr": 2 * RATE}, start, row)
            assert_same_bits(twice, 2 * once, "with twice the learning rate")


@check
def moves_each_entry_on_its_own(subject: Subject) -> None:
    """The entries of a parameter in another order move as they did."""
    family = _ready(subject)
    if not family.elementwise:
        skip("has steps that depend on whole parameters")
    start, row = _numbers(subject)
    order = torch.tensor([3, 0, 5, 1, 4, 2])

    def moved(x: Tensor) -> Tensor:
        return x.flatten()[order].reshape(x.shape)

    for options in _each_way(subject, _settings(subject, family)):
        with circumstances(options=describe(options)):
            expected = moved(_end(subject, options, start, row))
            theta = _end(subject, options, moved(start), [moved(g) for g in row])
            _check_near(theta, expected, "entries in another order")


@check
def newtons_step_ends_at_the_minimum_of_a_ball(subject: Subject) -> None:
    """L-BFGS with a learning rate of 1 is at the minimum of lambda |theta - c|^2 / 2 after its
    second iteration: the first shows it the curvature, which is the same everywhere."""
    if "lbfgs" not in [x.__name__.lower() for x in subject.cls.__mro__]:
        skip("is not L-BFGS")
    start, row = _numbers(subject)
    for curvature in (0.25, 1.0, 40.0):
        with circumstances(curvature=curvature):
            theta = Parameter(start.clone())
            optimizer = subject.make([theta], lr=1.0, max_iter=4)

            def closure(theta: Tensor = theta, curvature: float = curvature) -> float:
                theta.grad = curvature * (theta.detach() - row[1])
                return 0.5 * curvature * (theta.detach() - row[1]).square().sum().item()

            optimizer.step(closure)
            _check_near(theta.detach(), row[1], "after two iterations")
