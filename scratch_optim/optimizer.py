"""The base class: parameter groups, state, and the four ways to run one equation.

A subclass states three things: its options (``__init__``), what it remembers of each parameter
(:meth:`Optimizer.state_names`, and :meth:`Optimizer.scalar_state` if there are numbers beside the
step count) and its equation (:meth:`Optimizer.update`). The rest is here:

==============  ===================================================================================
for-loop        the equation on one parameter after the other; what every other way must equal
foreach         the equation on lists of parameters. On the CPU the lists are cut into blocks that
                stay in the cache from the first operation of the equation to the last
fused           the equation compiled into one kernel, see ``fused.py``
differentiable  the equation out of place, under autograd
==============  ===================================================================================

To capture a step in a CUDA graph, numbers that change from step to step (``lr``, the step count)
have to be tensors on the device, and nothing may read them. ``"capturable": True`` in a parameter
group asks for that, of every optimizer here, whether its class has an option of that name or not.

``foreach``, ``fused`` and ``differentiable`` mean what they mean in ``torch.optim``. Where neither
``foreach`` nor ``fused`` is given torch takes lists on CUDA and the loop on the CPU; here lists are
taken on both, since cut into blocks they are the faster and give the same bits.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from operator import attrgetter
from typing import Any, ClassVar, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim.optimizer import _get_capturable_supported_devices

from . import fused, pieces
from .pieces import Cut, Row, Share
from .tensors import Functional, Operand, Tape, TensorList

Group: TypeAlias = dict[str, Any]
ParamsT: TypeAlias = Iterable[Tensor] | Iterable[Group] | Iterable[tuple[str, Tensor]]
StateDict: TypeAlias = dict[str, Any]

# What to say of an option out of its range, and the range, by name: an option means the same in
# every optimizer.
_RANGES: dict[str, tuple[str, float, float]] = {
    "lr": ("Invalid learning rate: {}", 0, math.inf),
    "eps": ("Invalid epsilon value: {}", 0, math.inf),
    "weight_decay": ("Invalid weight_decay value: {}", 0, math.inf),
    "momentum": ("Invalid momentum value: {}", 0, math.inf),
    "dampening": ("Invalid dampening value: {}", -math.inf, math.inf),
    "alpha": ("Invalid alpha value: {}", 0, 1),
    "rho": ("Invalid rho value: {}", 0, 1),
    "lr_decay": ("Invalid lr_decay value: {}", 0, math.inf),
    "momentum_decay": ("Invalid momentum_decay value: {}", 0, math.inf),
    "initial_accumulator_value": ("Invalid initial_accumulator_value value: {}", 0, math.inf),
}

# Names that other libraries give to these options.
_OTHER_NAMES = {"learning_rate": "lr", "l2": "weight_decay", "wd": "weight_decay", "epsilon": "eps"}

# What torch.optim itself keeps torch.compile out with; torch.compiler.disable would import Dynamo.
_eager_only = torch._disable_dynamo  # type: ignore[attr-defined]

_DTYPE, _LAYOUT = attrgetter("dtype"), attrgetter("layout")

# Options that say how to run, not what to compute. A checkpoint without them (an older one, or one
# of a torch class that lacks the option) leaves them as they are.
_WAYS = ("foreach", "fused", "capturable", "differentiable")


@dataclass
class _Bucket:
    """Parameters that one call of the equation can update together.

    They belong to one group, share device and dtype and have taken the same number of steps. What
    does not change from step to step is prepared here; the gradients do.
    """

    indices: list[int]
    """Which parameters of the group they are."""
    run: Callable[..., None]
    """The way: a method of the optimizer, called with the bucket."""
    cut: Callable[[list[Tensor]], list[Tensor]]
    """Cuts tensors, one for each parameter, into pieces that are updated apart."""
    wrap: Callable[[list[Tensor]], Operand]
    """Makes pieces that are updated together into an operand."""
    blocks: list[tuple[slice, list[Tensor], list[list[Tensor]]]]
    """For each call: where its pieces stand among all, those of the parameters, of the states."""
    operands: list[tuple[slice, Operand, dict[str, Operand]]]
    """The same as operands of the equation."""
    scalars: dict[str, Tensor]
    """Their scalar states, such as the step count, as vectors: ``state["step"]`` is a view of an
    element. In a bucket all elements of a vector are equal."""
    by_address: bool
    """Whether views of parameters and states were taken, or their addresses are going to be."""
    first: bool
    """Whether this is their first step."""
    kind: Hashable
    """What the equation must know of all of them."""
    dtype: torch.dtype
    device: torch.device
    taken: float | None = None
    """The step count, as far as it is known without reading it from the device, and the version"""
    version: int = -1
    """of its vector for which that is so."""
    calls: dict[Any, list[Any]] = field(default_factory=dict)
    """Compiled kernels with their arguments, by what they compute."""


@dataclass
class _Plan:
    """The buckets of a group, the signs by which to see that they still hold, and what signs name.

    ``held`` keeps the objects alive whose addresses are among the signs.
    """

    signs: list[Any]
    buckets: list[_Bucket]
    held: list[Any]


class Optimizer(torch.optim.Optimizer):
    """Base class of the optimizers of this library.

    Agrees with ``torch.optim.Optimizer``: groups, hooks, state dicts, ``zero_grad``, messages.
    Differs in that a bad option is refused when the group is added and the message names the
    remedy, and that ``load_state_dict`` checks all before it changes anything and copies what it
    takes.

    Args:
        params: tensors, ``(name, tensor)`` pairs, or groups of either as dicts.
        defaults: the options and their values for groups that do not set them.

    Raises:
        ValueError: an option out of its range, or one misspelt in a group.
        TypeError: an option that is no number, or something to optimize that is no tensor.
    """

    older_options: ClassVar[dict[str, Any]] = {"maximize": False}
    """Options that older checkpoints lack, with what was done before there was the option."""

    ranges: ClassVar[dict[str, tuple[str, float, float]]] = {}
    """What to say of an option out of its range, and the range, where other optimizers with an
    option of that name differ or do not exist."""

    elementwise: ClassVar[bool] = True
    """Whether the equation may be computed on any piece of a parameter. If not, on whole ones."""

    late_state: ClassVar[bool] = False
    """Whether a saved state may lack tensors that a step would have made."""

    heavy: ClassVar[bool] = False
    """Whether the equation has so many operations, more than about eight, that small parameters are
    worth copying together, and so many temporaries that a small model is worth cutting."""

    lists_by_default: ClassVar[bool] = True
    """Whether lists are taken where neither ``foreach`` nor ``fused`` is given."""

    takes_lists: ClassVar[bool] = True
    """Whether the equation takes lists of parameters. If not, ``foreach`` changes nothing."""

    real_view: ClassVar[bool] = True
    """Whether a complex parameter is updated as a real one with a last dimension of 2."""

    sparse_message: ClassVar[str | None] = None
    """What to say to a sparse gradient; None where it is taken."""

    sparse_entries: ClassVar[bool] = False
    """Whether a sparse gradient updates the entries that it names, and leaves all others."""

    captures: ClassVar[bool] = True
    """Whether a step can be captured in a CUDA graph. If not, it reads numbers from the device."""

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._plans: dict[int, _Plan] = {}
        self.check_group(defaults)
        super().__init__(params, defaults)

    # ------------------------------------------------------------------ what a subclass states

    @staticmethod
    def update(*operands: Any, **options: Any) -> None:
        """Change ``theta`` and ``state`` in place by one step: the equation of the paper.

        A subclass declares it as ``update(theta, g, state, t, /, *, lr, ..., **_)``, where

        - ``theta`` is the parameter, an :data:`~scratch_optim.tensors.Operand`;
        - ``g`` is the gradient of what is to be minimized, likewise; not to be changed;
        - ``state`` maps what :meth:`state_names` lists to operands, and what :meth:`advance`
          returns to numbers;
        - ``t`` is the number of this step, from 1: a float, or a 0-dim float64 tensor under
          ``capturable``; where no steps are counted, 1 at the first and 2 after it;
        - ``lr`` and so on are the options of the parameter group that the equation uses, and
          ``kind`` is what :meth:`kind` returned.
        """
        raise NotImplementedError

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the names of the tensors that the equation keeps for ``p``, one of ``group``."""
        raise NotImplementedError

    def state_shape(self, name: str, p: Tensor) -> tuple[int, ...]:
        """Return the shape of one of these tensors."""
        return p.shape

    def new_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        """Return the state of a parameter before its first step: zeros of its shape and dtype."""
        return {
            name: torch.zeros_like(p, memory_format=torch.preserve_format)
            for name in self.state_names(group, p)
        }

    def kind(self, group: Group, p: Tensor) -> Hashable:
        """Return what the equation must know of ``p`` beyond its values, if anything.

        Parameters of different kinds are updated apart; :meth:`update` is told the kind.
        """
        return None

    def scalar_state(self, group: Group) -> dict[str, float | Tensor]:
        """Return the numbers kept for a parameter, as they are before its first step.

        They are kept as 0-dim tensors. The base class counts ``step``; the others change in
        :meth:`advance`.
        """
        return {"step": 0.0}

    @staticmethod
    def advance(*operands: Any, **options: Any) -> dict[str, Tensor]:
        """Change the scalar state, but for the step count, in place by one step.

        A subclass that keeps such state declares it as ``advance(scalars, t, /, *, lr, ..., **_)``,
        where ``scalars`` maps names to vectors, with an (equal) element for each of some
        parameters, and the rest is as in :meth:`update`.

        Returns:
            What :meth:`update` is to see: of each vector a 0-dim element, before or after.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ options

    def group_defaults(self, group: Group) -> Group:
        """Return the options that a group like ``group`` has, with their defaults."""
        return self.defaults

    def check_group(self, group: Group) -> None:
        """Raise if an option in ``group`` is not valid.

        Raises:
            ValueError: an option out of its range, or ``capturable`` where nothing captures.
            TypeError: an option that is no number.
            RuntimeError: ``fused`` together with ``differentiable`` or ``foreach``.
        """
        ranges = {**_RANGES, **self.ranges}
        for name, value in group.items():
            if name in ranges:
                _check_number(name, value, *ranges[name])
            elif name == "betas":
                _check_betas(value)
        if group.get("fused"):
            if group.get("differentiable"):
                raise RuntimeError("`fused` does not support `differentiable`")
            if group.get("foreach"):
                raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        if group.get("capturable") and not self.captures:
            raise ValueError(
                f"capturable=True: {type(self).__name__} reads numbers from the device in each "
                "step, which cannot be captured in a CUDA graph. Leave it out."
            )

    def check_gradient(self, group: Group, p: Tensor, g: Tensor) -> None:
        """Raise if ``p``, one of ``group``, cannot be updated with ``g``.

        Raises:
            RuntimeError: a sparse gradient where none is taken, or with weight decay, which would
                change the other entries too; ``fused`` with integers.
            AssertionError: ``capturable`` on a device that captures nothing.
        """
        if g.is_sparse and self.sparse_message:
            raise RuntimeError(self.sparse_message)
        if g.is_sparse and group.get("weight_decay", 0) != 0:
            raise RuntimeError("weight_decay option is not compatible with sparse gradients")
        if group.get("capturable") and not group.get("fused"):
            devices = _get_capturable_supported_devices()
            if p.device.type not in devices:
                raise AssertionError(
                    "If capturable=True, params and state_steps must be on supported devices: "
                    f"{devices}."
                )
        if group.get("fused") and not (p.is_floating_point() or p.is_complex()):
            raise RuntimeError(
                "`fused=True` requires all the params to be floating point Tensors of "
                f"supported devices: ['cpu', 'cuda'] but {p.dtype} and {p.device.type}"
            )

    @_eager_only
    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters with options of its own.

        Args:
            param_group: ``{"params": tensors or (name, tensor) pairs, option: value, ...}``.
                Keys that are no options are kept, unless they look like an option misspelt.

        Raises:
            ValueError: as the class says; the optimizer is then as it was.
            TypeError: likewise.
        """
        if isinstance(param_group, dict):
            defaults = self.group_defaults(param_group)
            for key in sorted(param_group.keys() - defaults.keys() - {"params"}):
                close = difflib.get_close_matches(key, defaults, n=1, cutoff=0.85)
                meant = _OTHER_NAMES.get(key) or (close[0] if close else None)
                if meant in defaults:
                    raise ValueError(
                        f"parameter group has an unknown option {key!r} (= {param_group[key]!r}); "
                        f"did you mean {meant!r}?"
                    )
            self.check_group({**defaults, **param_group})
        super().add_param_group(param_group)

    def _accelerator_graph_capture_health_check(self) -> None:
        # Torch's own asks all groups for an option that those of Muon's matrices have not.
        if all(["capturable" in group for group in self.param_groups]):
            super()._accelerator_graph_capture_health_check()
        elif torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            for number, group in enumerate(self.param_groups):
                if not group.get("capturable", True):
                    raise RuntimeError(
                        f"step() of {type(self).__name__} is captured in a CUDA graph, but "
                        f"parameter group {number} has capturable=False: its step count would "
                        "stand still. Set it to True before the first step."
                    )

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # Asked by torch.amp.GradScaler. Torch sets it in __init__, and loses it in a deepcopy.
        return any(group.get("fused") for group in self.param_groups)

    # ------------------------------------------------------------------ the step

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @_eager_only
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; the gradients stay as they are.

        Args:
            closure: evaluates the model anew, calls ``backward`` and returns the loss.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: a gradient of a kind that the optimizer does not take; nothing has been
                changed then.
        """
        if any(["capturable" in group for group in self.param_groups]):
            self._accelerator_graph_capture_health_check()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf: Tensor | None = getattr(self, "found_inf", None)  # set by GradScaler if fused
        if found_inf is not None and found_inf.is_cpu:
            if found_inf.item():
                return loss
            found_inf = None
        with torch.set_grad_enabled(bool(self.defaults.get("differentiable"))):
            plans = [self._plan(group) for group in self.param_groups]
            for group, (plan, grads) in zip(self.param_groups, plans, strict=True):
                self._carry_out(plan, grads, group, found_inf)
        return loss

    def _carry_out(
        self, plan: _Plan, grads: list[Any], group: Group, found_inf: Tensor | None
    ) -> None:
        """Update the parameters of a group, of which those with a gradient are in the plan."""
        options = {name: _scalar(value) for name, value in group.items()}
        for bucket in plan.buckets:
            options["kind"] = bucket.kind
            t, numbers = self._advance(bucket, options, found_inf)
            used = [grads[i] for i in bucket.indices]
            bucket.run(bucket, used, numbers, t, options, found_inf)
            bucket.first = False

    def _advance(
        self, bucket: _Bucket, options: Mapping[str, Any], found_inf: Tensor | None
    ) -> tuple[float | Tensor, dict[str, float | Tensor]]:
        """Count this step; return its number, and the other numbers that go with it."""
        t = self._count(bucket, options, found_inf)
        others = {name: x for name, x in bucket.scalars.items() if name != "step"}
        if not others:
            return t, {}
        with torch.no_grad():
            before = [] if found_inf is None else [x.clone() for x in others.values()]
            seen = self.advance(others, t, **options)
            if found_inf is not None:
                for x, old in zip(others.values(), before, strict=True):
                    x.copy_(torch.where(found_inf.bool(), old, x))
        known = not isinstance(t, Tensor)
        return t, {name: x.item() if known else x.double() for name, x in seen.items()}

    def _count(
        self, bucket: _Bucket, options: Mapping[str, Any], found_inf: Tensor | None
    ) -> float | Tensor:
        """Count this step and return its number."""
        steps = bucket.scalars.get("step")
        if steps is None:
            return 1 if bucket.first else 2
        if steps.is_cpu and not options.get("capturable"):
            steps += 1
            return steps[0].item()
        # On a device, reading the count would wait for it: where it can be known it is known here.
        known = bucket.taken if bucket.version == steps._version else None
        steps += 1 if found_inf is None else 1 - found_inf
        if options.get("capturable") or found_inf is not None:
            bucket.taken = None
            return steps[0].double()
        bucket.taken = steps[0].item() if known is None else known + 1
        bucket.version = steps._version
        return bucket.taken

    # ------------------------------------------------------------------ the four ways

    def _eager(
        self,
        bucket: _Bucket,
        grads: list[Tensor],
        numbers: dict[str, Any],
        t: Any,
        options: Group,
        found_inf: Tensor | None,
    ) -> None:
        """For-loop and foreach: they differ in what ``bucket.wrap`` makes of a block."""
        if found_inf is not None and found_inf.item():
            return
        betas = options.get("betas")
        if betas and isinstance(betas[0], Tensor) and betas[0].dtype != bucket.dtype:
            # lerp_ wants a weight of its own dtype (pytorch/pytorch#140601). Torch casts beta1,
            # and in bfloat16 0.999 becomes 1; as numbers they are exact.
            options = {**options, "betas": tuple(map(float, betas))}
        cut = bucket.cut(grads)
        grad_scale = getattr(self, "grad_scale", None)
        for at, theta, state in bucket.operands:
            if isinstance(theta, Row):
                row, rows = theta.read(), {name: x.read() for name, x in state.items()}
                g = Row(cut[at]).read()
                self._apply(row, g, {**rows, **numbers}, t, options, grad_scale)
                theta.write(row)
                for name, x in state.items():
                    x.write(rows[name])
            else:
                g = bucket.wrap(cut[at])
                self._apply(theta, g, {**state, **numbers}, t, options, grad_scale)

    def _sparse(
        self,
        bucket: _Bucket,
        grads: list[Tensor],
        numbers: dict[str, Any],
        t: Any,
        options: Group,
        _: Tensor | None,
    ) -> None:
        """The equation on the entries that the gradients name, gathered and put back."""
        for (_at, theta, state), g in zip(bucket.operands, grads, strict=True):
            named = g.coalesce()  # the equation is not linear, so an entry is to be named once
            if not named._nnz():
                continue
            where = tuple(named.indices())
            values = bucket.cut([named.values()])[0]
            entries = {name: x[where] for name, x in state.items()}
            theta_entries = theta[where]
            self._apply(theta_entries, values, {**entries, **numbers}, t, options, None)
            theta[where] = theta_entries
            for name, x in state.items():
                x[where] = entries[name]

    def _differentiable(
        self,
        bucket: _Bucket,
        grads: list[Tensor],
        numbers: dict[str, Any],
        t: Any,
        options: Group,
        _: Tensor | None,
    ) -> None:
        for at, theta, state in bucket.operands:
            # Of copies, lest the copy_ below overwrite what autograd has saved.
            new_theta = Functional(theta.clone())
            new_state = {name: Functional(x.clone()) for name, x in state.items()}
            g = Functional(bucket.cut(grads[at])[0])
            self._apply(new_theta, g, {**new_state, **numbers}, t, options, None)
            theta.copy_(new_theta.value)
            for name, x in state.items():
                x.copy_(new_state[name].value)

    def _fused(
        self,
        bucket: _Bucket,
        grads: list[Tensor],
        numbers: dict[str, Any],
        t: Any,
        options: Group,
        found_inf: Tensor | None,
    ) -> None:
        tape = Tape()
        theta, g = tape.operand(), tape.operand()
        state = {name: tape.operand() for name in bucket.operands[0][2]}
        grad_scale = getattr(self, "grad_scale", None)
        self._apply(theta, g, {**state, **numbers}, t, options, grad_scale)
        program = (tuple(tape.operations), found_inf is not None, torch.get_num_threads())
        if program not in bucket.calls:
            bucket.calls[program] = self._calls(bucket, len(tape.scalars), *program)
        scalars = _stack(tape.scalars, bucket.device)
        cut = bucket.cut(grads)
        for kernel, at, bound in bucket.calls[program]:
            arguments = bound.copy()
            arguments[:2] = scalars, found_inf
            first = 2 + kernel.width
            arguments[first : first + at.stop - at.start] = cut[at]
            kernel.call(arguments)
        for _, params, _ in bucket.blocks:
            # Or a graph that has saved them would go backward with what they are now.
            torch.autograd.graph.increment_version(params)

    def _calls(
        self,
        bucket: _Bucket,
        scalars: int,
        operations: fused.Operations,
        skippable: bool,
        threads: int,
    ) -> list[tuple[fused.Kernel, slice, list[Any]]]:
        """Return a kernel for each block, with which pieces it is for, and its arguments."""
        calls = []
        for at, params, states in bucket.blocks:
            small = params[0].numel() < fused.LARGE
            kernel = fused.kernel(
                operations,
                inputs=2 + len(states),
                scalars=scalars,
                dtype=params[0].dtype,
                device=bucket.device,
                width=fused.WIDTH if small else 1,
                skippable=skippable,
                threads=1 if small else threads,
            )
            calls.append((kernel, at, kernel.bind([params, *states])))
        return calls

    def _apply(
        self,
        theta: Operand,
        g: Operand,
        state: dict[str, Any],
        t: Any,
        options: Group,
        grad_scale: Tensor | None,
    ) -> None:
        if grad_scale is not None:
            g = g.div(grad_scale)
        if options.get("maximize"):
            g = g.neg()
        self.update(theta, g, state, t, **options)

    # ------------------------------------------------------------------ the plan

    def _plan(self, group: Group) -> tuple[_Plan, list[Any]]:
        """Return the plan by which to update ``group``, and the gradients of its parameters."""
        grads = [p.grad for p in group["params"]]
        plan = self._plans.get(id(group))
        if (
            plan is None
            or plan.signs != self._signs(group, grads, plan.signs[0])
            or not _in_step(plan)
        ):
            plan = self._new_plan(group, grads)
            groups = {id(group) for group in self.param_groups}
            self._plans = {key: value for key, value in self._plans.items() if key in groups}
            self._plans[id(group)] = plan
        return plan, grads

    def _signs(self, group: Group, grads: list[Any], by_address: bool) -> list[Any]:
        """Return all that a plan for ``group`` rests on, in a form that is quick to compare."""
        params = group["params"]
        addresses = list(map(Tensor.data_ptr, params))
        present = [g for g in grads if g is not None]
        layouts = list(map(_LAYOUT, present))
        dense = layouts.count(torch.strided) == len(layouts)
        # Where whole parameters are updated, what is kept of one may depend on its shape.
        asked = params[:1] if self.elementwise else params
        names = list(dict.fromkeys(name for p in asked for name in self.state_names(group, p)))
        states = [state for state in map(self.state.get, params) if state]
        signs = [
            by_address,
            *[group.get(way) for way in _WAYS],
            _has_tensors(group),
            names,
            *map(id, params),
            *addresses,
            *[g is None for g in grads],
            *([] if dense else layouts),
        ]
        if by_address:
            signs += map(_DTYPE, present)
            signs += map(Tensor.stride, present) if dense else map(pieces.stride_of, present)
        for name in (*names, *self.scalar_state(group)):
            tensors = [state.get(name) for state in states]
            signs += map(id, tensors)
            if by_address:
                signs += map(pieces.address_of, tensors)
        if 0 in addresses:  # a parameter that is empty or has no memory of its own, but a shard's
            values = [x for state in states for x in state.values()]
            signs += map(pieces.sign_of_shard, [*params, *present, *values])
        return signs

    def _new_plan(self, group: Group, grads: list[Any]) -> _Plan:
        params: list[Tensor] = group["params"]
        updated = [i for i, g in enumerate(grads) if g is not None]
        for i in updated:
            self.check_gradient(group, params[i], grads[i])
        distinct = {id(params[i]): params[i] for i in updated}
        started = {key: self._start(p, group) for key, p in distinct.items()}
        repeated = len(started) < len(updated)  # torch warns of it, and updates them in turn
        alike: dict[Any, list[int]] = defaultdict(list)
        for i in updated:
            p = params[i]
            state = self.state.get(p, {})
            names = self.state_names(group, p)
            scalars = [state[name] for name in self.scalar_state(group)]
            numbers = tuple([(x.device, x.dtype, _number(x)) for x in scalars])
            tensors = [p, grads[i], *[state[name] for name in names]]
            local = (
                self.elementwise and not group.get("differentiable") and pieces.are_shards(tensors)
            )
            layout = pieces.layout_of(pieces.shards(tensors) if local else tensors)
            sort = (p.device, p.dtype, self.kind(group, p), names, numbers)
            alike[layout, local, started[id(p)], sort, i if repeated else None].append(i)
        buckets = [
            self._bucket(group, indices, layout=kind[0], local=kind[1], first=kind[2])
            for kind, indices in alike.items()
        ]
        held = [params[:], [list(self.state.get(params[i], {}).values()) for i in updated]]
        by_address = any(bucket.by_address for bucket in buckets)
        return _Plan(self._signs(group, grads, by_address), buckets, held)

    def _start(self, p: Tensor, group: Group) -> bool:
        """Give a parameter what is missing of its state; return whether anything was."""
        state = self.state.get(p, {})
        for name, value in self.scalar_state(group).items():
            if name not in state:
                state[name] = _scalar_tensor(value, p, group)
        missing = [name for name in self.state_names(group, p) if state.get(name) is None]
        if missing:
            fresh = self.new_state(p, group)
            state.update({name: fresh[name] for name in missing})
        if state:
            self.state[p] = state
        return bool(missing)

    def _bucket(
        self, group: Group, indices: list[int], *, layout: str, local: bool, first: bool
    ) -> _Bucket:
        """Decide how to update ``group["params"][i] for i in indices``, and prepare it."""
        params: list[Tensor] = group["params"]
        on_cpu = params[indices[0]].is_cpu
        foreach = group.get("foreach")
        if foreach is None:
            # In half precision ATen's lists and loops round differently, and torch's default on
            # the CPU is the loop.
            half_on_cpu = on_cpu and pieces.is_half(params[indices[0]])
            foreach = self.lists_by_default and group.get("fused") is None and not half_on_cpu
        run: Callable[..., None] = self._eager
        cut: Cut = pieces.whole
        share_out: Share = pieces.each
        wrap: Callable[[list[Tensor]], Operand] = pieces.alone
        in_rows = False
        if group.get("differentiable"):
            run = self._differentiable
        elif layout == "sparse":
            run = self._sparse if self.sparse_entries else self._eager
        elif layout == "dense" and group.get("fused"):
            # Gradients need not be made flat: the kernel reads addresses.
            run, share_out = self._fused, pieces.by_kernel
        elif (
            self.takes_lists
            and layout
            and foreach
            and (group.get("capturable") or not _has_tensors(group))
        ):
            wrap, share_out = TensorList, pieces.all_together
            if on_cpu and layout == "dense":
                share_out = pieces.by_block
                # In half precision ATen rounds the last few elements of a loop otherwise than
                # the rest, so that where a tensor is cut would show in the bits.
                if self.elementwise and not pieces.is_half(params[indices[0]]):
                    cut, in_rows = pieces.split, self.heavy
                    share_out = pieces.by_row if in_rows else pieces.by_block
        elif group.get("capturable"):
            wrap = TensorList
        if params[indices[0]].is_complex() and (self.real_view or run == self._fused):
            cut = pieces.real(cut)
        if local:
            cut = pieces.local(cut)
        if in_rows or run == self._fused:  # small ones first
            indices = sorted(indices, key=lambda i: sum(x.numel() for x in cut([params[i]])))

        names = self.state_names(group, params[indices[0]])
        states = [self.state.get(params[i], {}) for i in indices]
        whole = [params[i] for i in indices]
        thetas = cut(whole)
        rows = [cut([state[name] for state in states]) for name in names]
        blocks = [
            (at, thetas[at], [row[at] for row in rows])
            for at in share_out([theta.numel() for theta in thetas])
        ]
        small = pieces.count_small([theta.numel() for theta in thetas]) if in_rows else 0
        operands = []
        for at, theta, state in blocks:
            make = Row if at.start < small else wrap
            operands.append(
                (at, make(theta), {n: make(x) for n, x in zip(names, state, strict=True)})
            )
        # One vector for the step counts of all: one operation counts, one look reads.
        scalars = {name: _vector(states, name) for name in self.scalar_state(group)}
        p = thetas[0]
        return _Bucket(
            indices,
            run,
            cut,
            wrap,
            blocks,
            operands,
            scalars,
            by_address=run == self._fused or small > 0 or thetas is not whole,
            first=first,
            kind=self.kind(group, params[indices[0]]),
            dtype=p.dtype,
            device=p.device,
        )

    # ------------------------------------------------------------------ checkpoints

    @_eager_only
    @torch.no_grad()
    def reset(self) -> None:
        """Go back to before the first step: the state is new, in the memory that it had.

        So a step that was captured in a CUDA graph can begin another training. Groups and their
        options stay as they are. Captured steps are none of the first: where the equation begins
        otherwise (SGD's dampening), that is not repeated. The state of an optimizer whose steps
        cannot be captured is forgotten instead.
        """
        if not self.captures:
            self.state.clear()
            self._plans = {}
            return
        for group in self.param_groups:
            for p in group["params"]:
                own = self.state.get(p, {})
                fresh = {**self.new_state(p, group), **self.scalar_state(group)} if own else {}
                for name, value in fresh.items():
                    if isinstance(value, Tensor):
                        own[name].copy_(value)
                    else:
                        own[name].fill_(value)
        for plan in self._plans.values():
            for bucket in plan.buckets:
                bucket.first, bucket.taken = True, None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what ``copy``, ``pickle`` or :meth:`load_state_dict` hand in."""
        declared = set({**vars(self), **state}["defaults"])
        super().__setstate__(state)
        if "differentiable" not in declared:  # which torch adds, though the class has it not
            del self.defaults["differentiable"]
        self._plans = {}
        for group in self.param_groups:
            for name, value in self.older_options.items():
                group.setdefault(name, value)
            for name in _WAYS:
                if name in self.defaults:
                    group.setdefault(name, self.defaults[name])
            for p in group["params"]:
                own = self.state.get(p, {})
                for name in self.scalar_state(group).keys() & own.keys():
                    if not isinstance(own[name], Tensor):
                        own[name] = _scalar_tensor(own[name], p, group)

    @_eager_only
    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over a state dict of this class, or of torch's class of the same name.

        Agrees with ``torch.optim``: parameters are matched by their order; floating point state
        is cast to the dtype and device of its parameter, ``step`` excepted; keys unknown here are
        kept. Differs in that everything is checked before anything is changed, that the tensors
        are copied (the optimizer shares no memory with ``state_dict``), and that other scalars
        than ``step`` keep their dtype too.

        Args:
            state_dict: what :meth:`state_dict` returned.

        Raises:
            ValueError: it has other groups, or a state of other names or shapes than this
                optimizer keeps. The optimizer is then as it was.
        """
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = pre_hook(self, state_dict) or state_dict

        groups, saved_groups = self.param_groups, state_dict["param_groups"]
        if len(groups) != len(saved_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(
            len(group["params"]) != len(saved["params"])
            for group, saved in zip(groups, saved_groups, strict=True)
        ):
            raise ValueError(
                "loaded state dict contains a parameter group "
                "that doesn't match the size of optimizer's group"
            )
        loaded: defaultdict[Any, Any] = defaultdict(dict)
        new_groups = []
        known = set()
        for number, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
            new_groups.append(self._loaded_group(number, group, saved))
            scalars = self.scalar_state(new_groups[-1])
            for key, p in zip(saved["params"], group["params"], strict=True):
                known.add(key)
                own = state_dict["state"].get(key)
                if own is not None:
                    self._check_state(key, p, new_groups[-1], own)
                    # Scalars are kept as torch keeps ``step``: cast to bfloat16, NAdam's product
                    # would be another number than before it was saved.
                    loaded[p] = {
                        name: _take_over(
                            value, p, key, saved_groups, "step" if name in scalars else name
                        )
                        for name, value in own.items()
                    }
        for key, value in state_dict["state"].items():
            if key not in known:
                loaded[key] = _take_over(value)
        self.__setstate__({"state": loaded, "param_groups": new_groups})

        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _loaded_group(self, number: int, group: Group, saved: Group) -> Group:
        """Return ``saved`` completed, with the parameters of ``group``."""
        needed = self.group_defaults(group).keys() - self.older_options.keys() - set(_WAYS)
        absent = needed - saved.keys()
        if absent:
            raise ValueError(
                f"parameter group {number} of the loaded state dict lacks {sorted(absent)}, which "
                f"{type(self).__name__} needs; it has {sorted(saved.keys() - {'params'})}. Was it "
                "saved by another optimizer?"
            )
        own = {name: group[name] for name in (*_WAYS, "param_names") if name in group}
        return {**self.older_options, **own, **copy.deepcopy(saved), "params": group["params"]}

    def _check_state(self, key: Any, p: Tensor, group: Group, saved: Mapping[str, Any]) -> None:
        """Raise if ``saved`` cannot be the state of ``p`` in ``group``."""
        if not saved:
            return
        names = self.state_names(group, p)
        needed = set() if self.late_state else {*names, *self.scalar_state(group)}
        if needed - saved.keys():
            raise ValueError(
                f"the loaded state of parameter {key} lacks {sorted(needed - saved.keys())}, which "
                f"{type(self).__name__} needs; it has {sorted(saved)}. Was it saved by another "
                "optimizer, or with other options?"
            )
        for name in names:
            value = saved.get(name)
            if value is None and name not in needed:
                continue
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"the loaded state {name!r} of parameter {key} is no tensor but {value!r}; "
                    "the state dict is damaged"
                )
            if value.shape != self.state_shape(name, p):
                raise ValueError(
                    f"the loaded state {name!r} of parameter {key} has the shape "
                    f"{tuple(value.shape)}, but the parameter has {tuple(p.shape)}. Were the "
                    "parameters given in another order, or is it another model?"
                )


def _check_number(name: str, value: Any, message: str, low: float, high: float) -> None:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element")
    elif not isinstance(value, Real):
        raise TypeError(f"{name} must be a number or a 1-element Tensor, but is {value!r}")
    if not (low <= value <= high and math.isfinite(value)):
        raise ValueError(message.format(value))


def _check_betas(betas: Any) -> None:
    if len(betas) != 2:
        raise ValueError(f"betas must be two numbers, but got {len(betas)}: {betas}")
    for i, beta in enumerate(betas):
        if isinstance(beta, Tensor) and beta.numel() != 1:
            raise ValueError(f"Tensor betas[{i}] must be 1-element")
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")


def _scalar(value: Any) -> Any:
    """Return a 1-element tensor, or each of a tuple, as a 0-dim one; anything else as it is."""
    if isinstance(value, tuple):
        return tuple([_scalar(x) for x in value])
    return value.squeeze() if isinstance(value, Tensor) else value


def _has_tensors(options: Group) -> bool:
    return any(
        [
            isinstance(value[0] if isinstance(value, tuple) and value else value, Tensor)
            for value in options.values()
        ]
    )


def _stack(scalars: list[float | Tensor], device: torch.device) -> Tensor:
    """Return the scalars as one float64 vector on ``device``."""
    if not any([isinstance(x, Tensor) for x in scalars]):
        return torch.tensor(scalars, dtype=torch.float64, device=device)
    # Made on the device: a copy to it could not be captured in a CUDA graph.
    return torch.stack(
        [
            x.to(device, torch.float64)
            if isinstance(x, Tensor)
            else torch.full((), x, dtype=torch.float64, device=device)
            for x in scalars
        ]
    )


def _scalar_tensor(value: float | Tensor, p: Tensor, group: Group) -> Tensor:
    """Return a scalar state, such as a step count, in the dtype and where torch keeps it."""
    fused_ = bool(group.get("fused"))
    double = torch.get_default_dtype() == torch.float64 and not fused_
    on_device = fused_ or group.get("capturable")
    return torch.tensor(
        float(value),
        dtype=torch.float64 if double else torch.float32,
        device=p.device if on_device else "cpu",
    )


def _vector(states: list[dict[str, Any]], name: str) -> Tensor:
    """Return a vector of a scalar of each state, and make the scalars views of its elements."""
    if len(states) == 1:
        return states[0][name].view(1)
    vector = torch.stack([state[name] for state in states])
    for state, element in zip(states, vector.unbind(), strict=True):
        state[name] = element
    return vector


def _in_step(plan: _Plan) -> bool:
    """Whether the numbers kept for the parameters of each bucket are still equal."""
    for bucket in plan.buckets:
        for vector in bucket.scalars.values():
            if vector.is_cpu and len(vector) > 1:
                numbers = vector.tolist()
                if min(numbers) != max(numbers):
                    return False
    return True


def _number(x: Tensor) -> Hashable:
    """Return what tells a number from others: its value, or itself where it has none to read."""
    return x.item() if type(x) is Tensor else id(x)


def _take_over(value: Any, p: Tensor | None = None, *place: Any) -> Any:
    """Return a copy of a value of a state dict, cast as torch casts it.

    Args:
        value: a tensor, or a dict, list, tuple ... of such, or anything else.
        p: the parameter whose state it is, or None if it is none's.
        place: the parameter's key, the saved groups, and the name of the value.
    """
    if isinstance(value, Tensor):
        cast = value
        if p is not None:
            cast = torch.optim.Optimizer._process_value_according_to_param_policy(p, value, *place)
        return cast.detach().clone() if cast.data_ptr() == value.data_ptr() else cast
    if isinstance(value, dict):
        return {k: _take_over(v, p, *place[:2], k) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(_take_over(v, p, *place[:2]) for v in value)
    return copy.deepcopy(value)
