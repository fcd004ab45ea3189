"""A look into a network in training: its weights, what its layers give out, how it is wired.

Nothing here waits for the device: what is counted stays there, to be read in one go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

BINS = 64  # of a distribution
NORMALIZATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


def distribution(x: Tensor) -> Tensor:
    """How the values of a tensor are distributed.

    Returns:
        float64 (4 + BINS,): the lowest, the highest, their sum, the sum of their squares; and how
        many lie in each of ``BINS`` equal parts of the range between the first two, or, where these
        are the same value v, of the range from v - 1/2 to v + 1/2.
    """
    x = x.detach().float().flatten()
    low, high = x.aminmax()
    varies = high > low
    first, width = torch.where(varies, low, low - 0.5), torch.where(varies, high - low, 1.0)
    # Not histc, which waits for the device to learn the range. What is not a number is counted in
    # the first part here; a run that has such weights is ended when they are saved.
    part = ((x - first) * (BINS / width)).nan_to_num_(0).clamp_(0, BINS - 1).long()
    one = torch.ones((), dtype=torch.int64, device=x.device)
    counts = torch.zeros(BINS, dtype=torch.int64, device=x.device)
    counts.scatter_add_(0, part, one.expand_as(part))
    facts = [low, high, x.sum(dtype=torch.float64), x.square().sum(dtype=torch.float64)]
    return torch.cat([torch.stack([fact.double() for fact in facts]), counts.double()])


def weights_and_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Distributions of every parameter and every running statistic, by tag."""
    tensors: dict[str, Tensor] = {f"weights/{name}": p for name, p in model.named_parameters()}
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and buffer.dim() > 0:
            tensors[f"statistics/{name}"] = buffer
    return {tag: distribution(x) for tag, x in tensors.items()}


def activations(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Distributions of what each normalization and each activation gives out, by tag.

    Args:
        model: the network. What ``Module.compile`` made of it, which knows no hooks, is not used.
        images: (N, C, H, W), as the network gets them.

    Returns:
        ``activations/NAME``; for a layer that is called again ``activations/NAME.2`` and so on.
    """
    found: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, given: Any, output: Tensor) -> None:
            calls[name] += 1
            again = f".{calls[name]}" if calls[name] > 1 else ""
            found[f"activations/{name}{again}"] = distribution(output)

        return hook

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, NORMALIZATIONS) or _is_activation(module):
                hooks.enter_context(module.register_forward_hook(note(name)))
        model.forward(images)
    return found


def features(model: nn.Module, images: Tensor) -> Tensor:
    """What the last linear layer is given, float32 (N, D).

    Args:
        model: as for :func:`activations`, with a linear layer.
        images: (N, C, H, W), as the network gets them.
    """
    found: list[Tensor] = []
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    with last.register_forward_pre_hook(lambda module, given: found.append(given[0])):
        model.forward(images)
    return found[0].float()


def lengths(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of each of N, (N,) float32."""
    return torch.stack(torch._foreach_norm(tensors)).float()


def lengths_of_layers(
    model: nn.Module, slopes: Tensor, before: list[Tensor], after: list[Tensor]
) -> dict[str, Tensor]:
    """Lengths of the gradient, of the weight, and of its change by that of it, by tag.

    The last of the three is there for all parameters together too; all three are there for every
    weight: a parameter of two dimensions or more.

    Args:
        model: its parameters with gradients are those that the other arguments are about.
        slopes: lengths of the gradients.
        before: the parameters before the step.
        after: and after it.
    """
    given = [(name, p) for name, p in model.named_parameters() if p.grad is not None]
    weights, changes = lengths(before), lengths(list(torch._foreach_sub(after, before)))
    ratios = changes / weights
    found = {"update_to_weight_ratio": changes.norm() / weights.norm()}
    for (name, p), slope, weight, ratio in zip(given, slopes, weights, ratios, strict=True):
        if p.dim() > 1:
            found[f"layer_gradient_norm/{name}"] = slope
            found[f"layer_weight_norm/{name}"] = weight
            found[f"layer_update_to_weight_ratio/{name}"] = ratio
    return found


def memory(device: torch.device) -> dict[str, float]:
    """GiB of a CUDA device: of tensors, at present and at most, and what torch holds, by tag."""
    found = {
        "allocated": torch.cuda.memory_allocated(device),
        "most_allocated": torch.cuda.max_memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
    }
    return {f"memory/{name}": count / 2**30 for name, count in found.items()}


class Node(NamedTuple):
    """An operation of a network."""

    name: str
    """Its path, with slashes: where it is in the network, and what it is there."""
    kind: str
    inputs: list[str]
    """Names."""
    settings: str


class _Wiring(fx.Tracer):
    """Takes layers as they are, whatever computes them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not list(m.children())


def wiring(model: nn.Module) -> list[Node]:
    """The operations of a network, each after those whose results it takes."""
    names: dict[fx.Node, str] = {}
    found = []
    calls: Counter[str] = Counter()
    for node in _Wiring().trace(model).nodes:
        settings = ""
        if node.op == "call_module":
            layer = model.get_submodule(node.target)
            path, kind, settings = node.target, type(layer).__name__, layer.extra_repr()
        else:
            kind = node.target if isinstance(node.target, str) else node.target.__name__
            scope = list(node.meta.get("nn_module_stack", ()))
            path = ".".join([*scope[-1:], kind])
        calls[path] += 1
        again = f"_{calls[path]}" if calls[path] > 1 else ""
        names[node] = path.replace(".", "/") + again
        inputs = [names[before] for before in node.all_input_nodes]
        found.append(Node(names[node], kind, inputs, settings))
    return found


def _is_activation(module: nn.Module) -> bool:
    return any(c.__module__ == nn.modules.activation.__name__ for c in type(module).__mro__)
