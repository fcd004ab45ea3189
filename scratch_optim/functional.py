"""A step of an optimizer as a function of lists, for those who keep the state themselves.

Names and signatures are those of ``torch.optim.functional``. An argument means the same in every
function::

    params                          what to update, in place; any tensors of floating point
    grads, d_p_list                 their gradients, which stay as they are
    exp_avgs, prevs, ...            their state: for each parameter the tensor that the optimizer
                                    keeps under that name (``exp_avg``), updated in place. A list
                                    that the options make no use of may be empty. Where it holds
                                    None this step is taken for the first, and its state put there
    state_steps, mus, etas, ...     likewise, as 0-dim tensors; ``state_steps`` counts the steps
                                    before this one, and is counted up
    lr, beta1, eps, ...             the options of the optimizer; their ranges are not checked
    foreach, fused, capturable,     how to run: as the options of these names. The default of
    differentiable                  ``foreach`` is lists, which give the bits of the for-loop
    grad_scale                      0-dim tensor or None: the gradients are divided by it first
    found_inf                       0-dim tensor or None: unless 0, everything stays as it is
    has_complex, has_sparse_grad    of no effect: this is looked up in ``params`` and ``grads``

Agrees with ``torch.optim.functional``: bit for bit with its for-loop; the caller chooses whether
autograd looks on (``torch.no_grad``). Differs in that ``grad_scale`` and ``found_inf`` are heeded
however the step is run, not with ``fused`` alone, and that gradients are not overwritten by
``grad_scale``.

Raises of every function:
    RuntimeError: ``state_steps`` holds something else than tensors; a sparse gradient where the
        optimizer takes none.
    ValueError: a list has more or fewer entries than ``params``.
"""

from typing import Any

import torch
from torch import Tensor

from .adadelta import Adadelta
from .adafactor import Adafactor
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .adamax import Adamax
from .asgd import ASGD
from .muon import Muon
from .nadam import NAdam
from .optimizer import Group, Optimizer, _eager_only
from .radam import RAdam
from .rmsprop import RMSprop
from .rprop import Rprop
from .sgd import SGD
from .sparse_adam import SparseAdam

__all__ = [
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "asgd",
    "muon",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
    "sparse_adam",
]

# Lists among the arguments, and what of the state of a parameter they hold.
_STATE = {
    "acc_deltas": "acc_delta",
    "axs": "ax",
    "col_vars": "col_var",
    "etas": "eta",
    "exp_avg_sqs": "exp_avg_sq",
    "exp_avgs": "exp_avg",
    "exp_infs": "exp_inf",
    "grad_avgs": "grad_avg",
    "max_exp_avg_sqs": "max_exp_avg_sq",
    "momentum_buffer_list": "momentum_buffer",
    "mu_products": "mu_product",
    "muon_momentum_bufs": "momentum_buffer",
    "mus": "mu",
    "prevs": "prev",
    "row_vars": "row_var",
    "square_avgs": "square_avg",
    "state_steps": "step",
    "state_sums": "sum",
    "step_sizes": "step_size",
    "variances": "variance",
}

# Options that are a pair, and the arguments that are its parts.
_PAIRS = {
    "betas": ("beta1", "beta2"),
    "eps": ("eps1", "eps2"),
    "etas": ("etaminus", "etaplus"),
    "step_sizes": ("step_size_min", "step_size_max"),
}


@_eager_only
def _step(kind: type[Optimizer], arguments: dict[str, Any]) -> None:
    """Take a step of an optimizer of this kind, with the arguments of its function."""
    params, grads, *_ = arguments.values()
    lists = {name: arguments.pop(name) for name in [*arguments] if name in _STATE}
    grad_scale, found_inf = (arguments.pop(name, None) for name in ("grad_scale", "found_inf"))
    if found_inf is not None and found_inf.is_cpu:
        if found_inf.item():
            return
        found_inf = None
    group: Group = {**kind.older_options, **arguments, "params": params}
    for option, parts in _PAIRS.items():
        if arguments.keys() >= set(parts):
            group[option] = tuple([arguments[part] for part in parts])

    # An optimizer for this step alone. Its __init__ would check the options, start states, and
    # refuse to update what is no leaf.
    optimizer = kind.__new__(kind)
    state: dict[Tensor, dict[str, Any]] = {p: {} for p in params}
    vars(optimizer).update(param_groups=[group], state=state, grad_scale=grad_scale)
    numbers = optimizer.scalar_state(group).keys()
    if "step" in numbers and not all([isinstance(t, Tensor) for t in lists["state_steps"]]):
        raise RuntimeError(
            "API has changed, `state_steps` argument must contain a list of singleton tensors"
        )
    used = {*numbers, *[name for p in params for name in optimizer.state_names(group, p)]}
    for name, values in {"grads": grads, **lists}.items():
        may_be_empty = name in lists and _STATE[name] not in used
        if len(values) != len(params) and (values or not may_be_empty):
            raise ValueError(f"{name} has {len(values)} entries for {len(params)} parameters")
    for name, values in lists.items():
        for p, value in zip(params, values, strict=bool(values)):
            state[p][_STATE[name]] = value

    optimizer._carry_out(optimizer._new_plan(group, grads), grads, group, found_inf)

    for name, values in lists.items():
        after: list[Any] = [state[p].get(_STATE[name]) for p in params]
        if _STATE[name] in numbers:  # which the plan has moved into one vector
            torch._foreach_copy_(values, after)
        elif any([value is None for value in values]):
            values[:] = after


def adadelta(
    params: list[Tensor],
    grads: list[Tensor],
    square_avgs: list[Tensor],
    acc_deltas: list[Tensor],
    state_steps: list[Tensor],
    capturable: bool = False,
    foreach: bool | None = None,
    differentiable: bool = False,
    has_complex: bool = False,
    *,
    lr: float | Tensor,
    rho: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    """Take a step of :class:`~scratch_optim.adadelta.Adadelta`; see above for the arguments."""
    _step(Adadelta, locals())


def adafactor(
    params: list[Tensor],
    grads: list[Tensor],
    row_vars: list[Tensor | None],
    col_vars: list[Tensor | None],
    variances: list[Tensor | None],
    state_steps: list[Tensor],
    foreach: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    has_complex: bool = False,
    *,
    d: float,
    lr: float | Tensor,
    beta2_decay: float,
    weight_decay: float,
    eps1: float,
    eps2: float,
    maximize: bool,
) -> None:
    """Take a step of :class:`~scratch_optim.adafactor.Adafactor`; see above for the arguments."""
    _step(Adafactor, locals())


def adagrad(
    params: list[Tensor],
    grads: list[Tensor],
    state_sums: list[Tensor],
    state_steps: list[Tensor],
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    has_sparse_grad: bool = False,
    foreach: bool | None = None,
    differentiable: bool = False,
    has_complex: bool = False,
    *,
    lr: float | Tensor,
    weight_decay: float,
    lr_decay: float,
    eps: float,
    maximize: bool,
) -> None:
    """Take a step of :class:`~scratch_optim.adagrad.Adagrad`; see above for the arguments."""
    _step(Adagrad, locals())


def adam(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    state_steps: list[Tensor],
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    has_complex: bool = False,
    decoupled_weight_decay: bool = False,
    *,
    amsgrad: bool,
    beta1: float | Tensor,
    beta2: float | Tensor,
    lr: float | Tensor,
    weight_decay: float,
    eps: float,
    maximize: bool,
) -> None:
    """Take a step of :class:`~scratch_optim.adam.Adam`; see above for the arguments."""
    _step(Adam, locals())


def adamax(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_infs: list[Tensor],
    state_steps: list[Tensor],
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
    capturable: bool = False,
    has_complex: bool = False,
    *,
    eps: float,
    beta1: float,
    beta2: float,
    lr: float | Tensor,
    weight_decay: float,
) -> None:
    """Take a step of :class:`~scratch_optim.adamax.Adamax`; see above for the arguments."""
    _step(Adamax, locals())


def adamw(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    state_steps: list[Tensor],
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    has_complex: bool = False,
    *,
    amsgrad: bool,
    beta1: float | Tensor,
    beta2: float | Tensor,
    lr: float | Tensor,
    weight_decay: float,
    eps: float,
    maximize: bool,
) -> None:
    """Take a step of :class:`~scratch_optim.adam.AdamW`; see above for the arguments."""
    _step(AdamW, {**locals(), "decoupled_weight_decay": True})


def asgd(
    params: list[Tensor],
    grads: list[Tensor],
    axs: list[Tensor],
    mus: list[Tensor],
    etas: list[Tensor],
    state_steps: list[Tensor],
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
    capturable: bool = False,
    has_complex: bool = False,
    *,
    lambd: float,
    lr: float | Tensor,
    t0: float,
    alpha: float,
    weight_decay: float,
) -> None:
    """Take a step of :class:`~scratch_optim.asgd.ASGD`; see above for the arguments."""
    _step(ASGD, locals())


def muon(
    params: list[Tensor],
    grads: list[Tensor],
    muon_momentum_bufs: list[Tensor],
    *,
    foreach: bool | None = None,
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    ns_coefficients: tuple[float, float, float],
    ns_steps: int,
    eps: float,
    adjust_lr_fn: str | None,
    has_complex: bool,
) -> None:
    """Take a step of :class:`~scratch_optim.muon.Muon`; see above for the arguments."""
    _step(Muon, locals())


def nadam(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    mu_products: list[Tensor],
    state_steps: list[Tensor],
    decoupled_weight_decay: bool = False,
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    has_complex: bool = False,
    maximize: bool = False,
    *,
    beta1: float,
    beta2: float,
    lr: float | Tensor,
    weight_decay: float,
    momentum_decay: float,
    eps: float,
) -> None:
    """Take a step of :class:`~scratch_optim.nadam.NAdam`; see above for the arguments."""
    _step(NAdam, locals())


def radam(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    state_steps: list[Tensor],
    decoupled_weight_decay: bool = False,
    foreach: bool | None = None,
    differentiable: bool = False,
    capturable: bool = False,
    has_complex: bool = False,
    maximize: bool = False,
    *,
    beta1: float,
    beta2: float,
    lr: float,
    weight_decay: float,
    eps: float,
) -> None:
    """Take a step of :class:`~scratch_optim.radam.RAdam`; see above for the arguments."""
    _step(RAdam, locals())


def rmsprop(
    params: list[Tensor],
    grads: list[Tensor],
    square_avgs: list[Tensor],
    grad_avgs: list[Tensor],
    momentum_buffer_list: list[Tensor],
    state_steps: list[Tensor],
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
    capturable: bool = False,
    has_complex: bool = False,
    *,
    lr: float | Tensor,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    centered: bool,
) -> None:
    """Take a step of :class:`~scratch_optim.rmsprop.RMSprop`; see above for the arguments."""
    _step(RMSprop, locals())


def rprop(
    params: list[Tensor],
    grads: list[Tensor],
    prevs: list[Tensor],
    step_sizes: list[Tensor],
    state_steps: list[Tensor],
    foreach: bool | None = None,
    capturable: bool = False,
    maximize: bool = False,
    differentiable: bool = False,
    has_complex: bool = False,
    *,
    step_size_min: float,
    step_size_max: float,
    etaminus: float,
    etaplus: float,
) -> None:
    """Take a step of :class:`~scratch_optim.rprop.Rprop`; see above for the arguments."""
    _step(Rprop, locals())


def sgd(
    params: list[Tensor],
    d_p_list: list[Tensor],
    momentum_buffer_list: list[Tensor | None],
    has_sparse_grad: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    *,
    weight_decay: float,
    momentum: float,
    lr: float | Tensor,
    dampening: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """Take a step of :class:`~scratch_optim.sgd.SGD`; see above for the arguments."""
    _step(SGD, locals())


def sparse_adam(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    state_steps: list[int],
    *,
    eps: float,
    beta1: float,
    beta2: float,
    lr: float,
    maximize: bool,
) -> None:
    """Take a step of :class:`~scratch_optim.sparse_adam.SparseAdam`; see above for the arguments.

    As in torch, ``state_steps`` are ints, count this step too, and are not counted up.
    """
    _step(SparseAdam, {**locals(), "state_steps": [t - 1 for t in state_steps]})
