"""What is checked: a layer, what it is compared with, and the cases it is made and called in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scratch_layers.testing.case import Case
from scratch_layers.testing.cases import kin
from scratch_layers.testing.rounding import sums
from scratch_optim.testing.compare import assert_same, copied, epsilons
from scratch_optim.testing.kit import Check, NotApplicable, check, circumstances, public_name, skip

Reference = type[nn.Module] | Callable[..., Tensor]


class Equation(nn.Module):
    """A function in the place of a layer, with copies of that layer's parameters and buffers.

    Args:
        function: called with the inputs, and by name with those of the parameters, buffers,
            arguments of the constructor and ``training`` that it has arguments for.
        layer: the layer.
        arguments: those that the layer was made with, by name.
    """

    def __init__(
        self, function: Callable[..., Tensor], layer: nn.Module, arguments: dict[str, Any]
    ) -> None:
        super().__init__()
        self.function, self.arguments = function, arguments
        taken = inspect.signature(function).parameters
        self.everything = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        self.taken = set(taken)
        for name, parameter in layer.named_parameters():
            name = name.replace(".", "_")
            if name not in taken and not self.everything:
                raise ValueError(f"{function.__name__} has no argument for the parameter {name!r}")
            self.register_parameter(name, nn.Parameter(parameter.detach().clone()))
        for name, buffer in layer.named_buffers():
            self.register_buffer(name.replace(".", "_"), buffer.detach().clone())

    def forward(self, *inputs: Tensor) -> Tensor:
        """The value of the function."""
        state = dict(self.named_parameters()) | dict(self.named_buffers())
        by_name = {**self.arguments, **state, "training": self.training}
        if not self.everything:
            by_name = {name: value for name, value in by_name.items() if name in self.taken}
        return self.function(*inputs, **by_name)


def own(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Parameters and buffers by name, those too that no state_dict has."""
    yield from module.named_parameters()
    yield from module.named_buffers()


@torch.no_grad()
def give_state(source: nn.Module, target: nn.Module) -> None:
    """Copy all parameters and buffers, by name, or in order where the names differ.

    Raises:
        AssertionError: the one has others than the other.
    """
    theirs, mine = dict(own(source)), dict(own(target))
    if theirs.keys() != mine.keys():
        shapes = [[tuple(x.shape) for x in state.values()] for state in (mine, theirs)]
        assert shapes[0] == shapes[1], (
            f"it has the parameters and buffers {list(mine)} of shapes {shapes[0]}, "
            f"the reference {list(theirs)} of shapes {shapes[1]}"
        )
    for x, y in zip(mine.values(), theirs.values(), strict=True):
        x.copy_(y)


def draw(case: Case, dtype: torch.dtype = torch.float32, seed: int = 1) -> list[Tensor]:
    """The inputs of a case."""
    torch.manual_seed(seed)
    return list(case.inputs(dtype))


def leaves(case: Case, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The inputs anew, those differentiated by as leaves of a graph."""
    fresh = [x.detach().clone(memory_format=torch.preserve_format) for x in inputs]
    return [x.requires_grad_(i in case.wrt) for i, x in enumerate(fresh)]


def seeded(layer: nn.Module, *inputs: Tensor) -> Tensor:
    """The output, with random numbers from a seed.

    Raises:
        AssertionError: it is no tensor.
    """
    torch.manual_seed(2)
    y = layer(*inputs)
    assert isinstance(y, Tensor), f"forward returns {type(y).__name__}, where a tensor is expected"
    return y


def direction(y: Tensor) -> Tensor:
    """What to differentiate an output by: random numbers, the same in all dtypes, laid out as y."""
    generator = torch.Generator().manual_seed(3)
    return torch.empty_like(y).copy_(torch.randn(y.shape, generator=generator).bfloat16())


def step(case: Case, layer: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Output, gradients by inputs and parameters, and buffers after one call, by their names."""
    inputs = leaves(case, inputs)
    y = seeded(layer, *inputs)
    by = {f"the gradient by input {i}": inputs[i] for i in case.wrt}
    by |= {f"the gradient by {name}": p for name, p in layer.named_parameters()}
    found = {"the output": y.detach()}
    if by:
        assert y.requires_grad, "the output does not require a gradient"
        gradients = torch.autograd.grad(y, list(by.values()), direction(y), allow_unused=True)
        for (name, x), gradient in zip(by.items(), gradients, strict=True):
            assert gradient is not None, f"{name} is None: nothing connects it to the output"
            assert gradient.shape == x.shape, f"{name} has the shape {tuple(gradient.shape)}"
            found[name] = gradient
    return found | {f"the buffer {name}": b.clone() for name, b in layer.named_buffers()}


def outcome(f: Callable[..., Any], *args: Any) -> Any:
    """What a call returns, or the error that it raises, as (class, message)."""
    try:
        return f(*args)
    except Exception as error:
        return type(error), str(error)


def refused(result: Any) -> bool:
    """Whether an outcome is an error."""
    return isinstance(result, tuple) and isinstance(result[0], type)


class Subject:
    """A layer to check.

    Args:
        cls: its class.
        reference: what it is compared with: a class of torch's, or of anybody's, which takes the
            same arguments; or the equation, a function of the inputs and, by name, of those of
            parameters, buffers, arguments of the constructor and ``training`` that it asks for. It
            is differentiated by autograd.
        cases: how to make it and what to call it with; the kit has them for the layers of torch.nn
            that scratch_layers has too, and for what bears their name or inherits from them.
        ulps: how many epsilons (of the largest value) it may differ from the reference; 0 asks for
            equal bits, None for what roundings can make.
        drop_in: it takes the place of the reference: signature, attributes, state, words of errors,
            random numbers, bytes kept for the backward.
        device: where it runs.

    Attributes:
        family: of which of the kit's closed forms are checked: that of its cases in the kit.

    Raises:
        ValueError: it has no cases, and the kit has none for it; a drop-in has no class to replace.
        TypeError: ``cls`` is no class of modules.
    """

    def __init__(
        self,
        cls: type[nn.Module],
        reference: Reference | None = None,
        *,
        cases: Sequence[Case] | None = None,
        ulps: float | None = None,
        drop_in: bool = False,
        device: str = "cpu",
    ) -> None:
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise TypeError(f"expected a class that inherits from torch.nn.Module, got {cls!r}")
        if drop_in and not isinstance(reference, type):
            raise ValueError(f"drop_in=True needs a class as reference, but it is {reference!r}")
        if ulps is not None and not ulps >= 0:
            raise ValueError(f"ulps must be at least 0, but is {ulps}")
        self.cls, self.reference, self.ulps, self.drop_in = cls, reference, ulps, drop_in
        self.device = torch.device(device)
        self.name, self.family, known = kin(cls, reference)
        self.cases = list(known if cases is None else cases)
        if not self.cases:
            raise ValueError(
                f"nobody says how to make and call {cls.__name__}: pass cases=[Case(inputs, args, "
                "options)], or a reference whose cases the kit has, such as torch.nn.BatchNorm2d"
            )

    @property
    def title(self) -> str:
        """The name that the class is imported by."""
        return public_name(self.cls)

    @property
    def against(self) -> str | None:
        """The name that the reference is imported by."""
        return None if self.reference is None else public_name(self.reference)

    def arguments(self, case: Case) -> dict[str, Any]:
        """The arguments of the constructor by name, defaults too."""
        signature = inspect.signature(self.cls)
        bound = signature.bind(*case.args, **case.options)
        bound.apply_defaults()
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return {
            name: value
            for name, value in bound.arguments.items()
            if signature.parameters[name].kind not in variable
        }

    def accepts(self, argument: str) -> bool:
        """Whether the constructor has an argument of that name."""
        return argument in inspect.signature(self.cls).parameters

    def new(self, case: Case, cls: type[nn.Module] | None = None, **more: Any) -> nn.Module:
        """The layer as its constructor leaves it.

        Args:
            case: says how.
            cls: another class in its place.
            more: options instead of the case's, or besides.
        """
        options = {**case.options, **more}
        made: nn.Module = (cls or self.cls)(*copied(case.args), **copied(options))
        return made if "device" in more else made.to(self.device)

    def make(
        self,
        case: Case,
        dtype: torch.dtype = torch.float32,
        cls: type[nn.Module] | None = None,
        **more: Any,
    ) -> nn.Module:
        """As :meth:`new`, of a dtype, its parameters drawn with a fixed seed."""
        layer = self.new(case, cls, **more).to(dtype)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in layer.parameters():
                p.copy_(torch.empty(p.shape).uniform_(*case.parameters, generator=generator))
        return layer

    def pair(self, case: Case, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
        """The reference and the layer with the same parameters; a check without one is left."""
        if self.reference is None:
            skip("there is no reference")
        layer = self.make(case, dtype)
        if not isinstance(self.reference, type):
            return Equation(self.reference, layer, self.arguments(case)), layer
        theirs = self.make(case, dtype, self.reference)
        give_state(theirs, layer)
        return theirs, layer

    def draw(self, case: Case, dtype: torch.dtype = torch.float32, seed: int = 1) -> list[Tensor]:
        """The inputs of a case."""
        return [x.to(self.device) for x in draw(case, dtype, seed)]

    @property
    def same_draws(self) -> bool:
        """Whether it must draw the random numbers of the reference."""
        return self.drop_in or self.ulps == 0

    def agree(self, actual: Tensor, expected: Tensor, inputs: Sequence[Tensor], what: str) -> None:
        """Raise an AssertionError if a result is further from the reference's than allowed."""
        near(actual, expected, inputs, what, self.ulps)


def near(
    actual: Tensor,
    expected: Tensor,
    inputs: Sequence[Tensor],
    what: str,
    ulps: float | None = None,
) -> None:
    """Raise an AssertionError if two results differ by more than roundings can make.

    Args:
        actual: the one.
        expected: the other.
        inputs: what they were made of, see :func:`sums`.
        what: what they are.
        ulps: so many epsilons of the largest value instead; 0 for equal bits.
    """
    if ulps == 0 or not expected.is_floating_point():
        assert_same(actual.detach(), expected.detach(), what)
        return
    kinds = [f"{x.dtype} {tuple(x.shape)}" for x in (actual, expected)]
    assert kinds[0] == kinds[1], f"{what} is {kinds[0]}, where {kinds[1]} is expected"
    sizes = expected.detach().abs().double().nan_to_num(0, 0, 0)
    largest = float(sizes.max()) if sizes.numel() else 0.0
    if ulps is None:
        largest = max(largest, 1.0)
    allowed = sums(inputs) if ulps is None else ulps
    found = epsilons(actual, expected, largest)
    assert found <= allowed, (
        f"{what} is {found:.3g} epsilons of {largest:.3g} off, where {allowed:.3g} are allowed"
        + _first_difference(actual, expected)
    )


def _first_difference(actual: Tensor, expected: Tensor) -> str:
    differences = (actual.detach().double() - expected.detach().double()).abs()
    place = int(differences.nan_to_num(nan=torch.inf).argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), actual.shape))
    at = f"\nmost at {index}: " if index else "\n"
    return f"{at}{actual[index].item():.9g} where {expected[index].item():.9g} is expected"


# ------------------------------------------------------------------ checks that run over cases

Ask = Callable[[Subject, Case], None]


def _over_cases(ask: Ask, all_of_them: bool) -> Check:
    name = ask.__name__

    def over_cases(subject: Subject) -> None:
        reasons, asked = [], 0
        for case in subject.cases:
            if name in case.without:
                reasons.append(case.without[name])
                continue
            try:
                with circumstances(case=case):
                    ask(subject, case)
            except NotApplicable as why:
                reasons.append(str(why))
                continue
            asked += 1
            if not all_of_them:
                break
        if not asked:
            skip(reasons[0])

    over_cases.__name__, over_cases.__doc__ = name, ask.__doc__
    return check(over_cases)


def every_case(ask: Ask) -> Check:
    """Make a check of a question to the subject in each of its cases."""
    return _over_cases(ask, all_of_them=True)


def one_case(ask: Ask) -> Check:
    """Make a check of a question to the subject in the first of its cases that it applies to."""
    return _over_cases(ask, all_of_them=False)
