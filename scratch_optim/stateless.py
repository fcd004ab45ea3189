"""Let an optimizer work on other tensors for a while: what tracing a step needs.

``torch.optim._stateless`` in torch 2.15; here for every version.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .optimizer import Group, Optimizer

__all__ = ["swap_in_optimizer_params_and_state"]


@contextmanager
def swap_in_optimizer_params_and_state(
    optimizer: torch.optim.Optimizer,
    swapin_parameters: dict[str, Tensor],
    swapin_optim_state: dict[str, Any],
) -> Iterator[None]:
    """Give an optimizer other parameters, state and options for the time of a ``with``.

    Inside, ``step`` and hooks see the tensors handed in, and what they change of them in place is
    seen by the caller. Afterwards the optimizer is as it was, also after an error. What is
    assigned inside (a new state tensor, an option) is forgotten.

    Agrees with torch: the same conditions and messages. Works with torch's optimizers as well.

    With FakeTensors, to trace a step (``make_fx``) without touching the optimizer, the step must
    not need the value of a number that a FakeTensor has not: an optimizer that counts steps needs
    ``capturable=True``, as torch's do.

    Args:
        optimizer: any that has taken a step, so that its state is there.
        swapin_parameters: by any names, as many as the optimizer has, in its order.
        swapin_optim_state: as ``optimizer.state_dict()`` returns it, with any tensors.

    Raises:
        RuntimeError: the optimizer has no state yet, or what is handed in has another form, other
            groups or another number of parameters. Nothing has been swapped then.
    """
    swapped, keys = _swapped(optimizer, swapin_parameters, swapin_optim_state)
    given: dict[Tensor, dict[str, Any]] = {}
    for group, group_keys in zip(swapped, keys, strict=True):
        for p, key in zip(group["params"], group_keys, strict=True):
            given[p] = swapin_optim_state["state"].get(key, {})

    own_state, own_groups = optimizer.state, [dict(group) for group in optimizer.param_groups]
    try:
        _fill(optimizer.param_groups, swapped)
        optimizer.state = defaultdict(dict, {p: dict(state) for p, state in given.items()})
        yield
    finally:
        if isinstance(optimizer, Optimizer):
            _hand_back_numbers(optimizer, given)
        _fill(optimizer.param_groups, own_groups)
        optimizer.state = own_state


def _swapped(
    optimizer: torch.optim.Optimizer, parameters: dict[str, Tensor], state_dict: dict[str, Any]
) -> tuple[list[Group], list[list[int]]]:
    """Return the groups to swap in, and the keys of the states of their parameters."""
    _require(optimizer.state, "initialized optimizer state.")
    _require(isinstance(state_dict, dict), "a DCP-style optimizer state_dict.")
    state, saved_groups = state_dict.get("state"), state_dict.get("param_groups")
    if not isinstance(state, dict):
        raise _refusal(
            "swapin_optim_state['state'] to be a dict mapping packed parameter ids to per-param "
            f"state dicts, got {type(state).__name__}."
        )
    _require(
        not any(isinstance(key, Tensor) for key in state),
        "optimizer.state_dict()-style state keyed by packed parameter ids.",
    )
    _require(
        all(isinstance(own, dict) for key, own in state.items() if isinstance(key, int)),
        "per-parameter optimizer state entries to be dictionaries.",
    )
    if not isinstance(saved_groups, list):
        raise _refusal(
            "swapin_optim_state['param_groups'] to be a list of param-group dicts, "
            f"got {type(saved_groups).__name__}."
        )
    if len(optimizer.param_groups) != len(saved_groups):
        raise RuntimeError(
            "swapin_optim_state has a different number of parameter groups than the live optimizer."
        )

    swapped, keys = [], []
    left = list(parameters.values())
    for number, (group, saved) in enumerate(zip(optimizer.param_groups, saved_groups, strict=True)):
        _require(isinstance(saved, dict), "each optimizer param group to be a dictionary.")
        group_keys = saved.get("params")
        if not isinstance(group_keys, list) or not all(isinstance(key, int) for key in group_keys):
            raise _refusal(
                "optimizer.state_dict()-style param_groups[*]['params'] entries keyed by packed "
                "parameter ids."
            )
        if len(group["params"]) != len(group_keys):
            raise RuntimeError(
                f"swapin_optim_state param group {number} has a different number of params than "
                "the live optimizer param group."
            )
        _require(
            group.keys() == saved.keys(),
            "optimizer.state_dict()-style param group keys to exactly match the live optimizer "
            f"group keys for group {number}. "
            f"Keys only in swap-in: {[key for key in saved if key not in group]}. "
            f"Keys only in live: {[key for key in group if key not in saved]}.",
        )
        _require(
            len(group_keys) <= len(left),
            "the explicit parameter state to match optimizer.param_groups ordering.",
        )
        params, left = left[: len(group_keys)], left[len(group_keys) :]
        swapped.append({**saved, "params": params})
        keys.append(group_keys)
    extra = state.keys() - {key for group_keys in keys for key in group_keys}
    _require(
        not extra,
        "swapin_optim_state['state'] to be keyed only by packed parameter ids from "
        f"param_groups[*]['params']; got extra keys {[key for key in state if key in extra]!r}.",
    )
    return swapped, keys


def _require(condition: Any, what: str) -> None:
    if not condition:
        raise _refusal(what)


def _refusal(what: str) -> RuntimeError:
    return RuntimeError(f"swap_in_optimizer_params_and_state requires {what}")


def _fill(groups: list[Group], contents: list[Group]) -> None:
    """Give the groups, which stay the same objects, other contents."""
    for group, content in zip(groups, contents, strict=True):
        group.clear()
        group.update(content)


def _hand_back_numbers(optimizer: Optimizer, given: dict[Tensor, dict[str, Any]]) -> None:
    """Copy the step counts and the like, which a step moves into one vector, where they were."""
    for group in optimizer.param_groups:
        for name in optimizer.scalar_state(group):
            for p in group["params"]:
                before, now = given[p].get(name), optimizer.state[p].get(name)
                if before is not None and now is not before:
                    before.copy_(now)
