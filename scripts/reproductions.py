"""What a class fails, as a few lines of plain torch: a program that raises where it is wrong.

A template is filled in with the class and with the options under which the check failed. Whether
the program does raise, :func:`raises` tells: only then is it worth printing.
"""

from __future__ import annotations

import re

_HEAD = "import torch\nfrom {module} import {name}\n\n"
_TWO = "p, q = (torch.nn.Parameter(torch.ones(5, 3)) for _ in range(2))\n"
_ONE = "p = torch.nn.Parameter(torch.ones(5, 3))\noptimizer = {name}([p]{options})\n"

TEMPLATES: dict[str, str] = {
    "leaves_gradients_as_they_are": _ONE
    + """for g in torch.randn(3, 5, 3):
    p.grad = g.clone()
    optimizer.step()
    assert p.grad is not None and torch.equal(p.grad, g), (p.grad, g)
""",
    "complex_parameters_are_two_real_ones": """torch.manual_seed(0)
z = torch.nn.Parameter(torch.ones(5, 3, dtype=torch.complex64))
x = torch.nn.Parameter(torch.view_as_real(z.detach()).clone())
optimizers = [{name}([p]{options}) for p in (z, x)]
for g in torch.randn(3, 5, 3, dtype=torch.complex64):
    z.grad, x.grad = g.clone(), torch.view_as_real(g).clone()
    for optimizer in optimizers:
        optimizer.step()
torch.testing.assert_close(torch.view_as_real(z.detach()), x.detach())
""",
    "lists_equal_the_loop": """torch.manual_seed(0)
p, q = (torch.nn.Parameter(torch.ones(5, 3, dtype=torch.float64)) for _ in range(2))
loop = {name}([p]{options}, foreach=False)
lists = {name}([q]{options}, foreach=True)
for g in torch.randn(10, 5, 3, dtype=torch.float64):
    p.grad, q.grad = g.clone(), g.clone()
    loop.step()
    lists.step()
torch.testing.assert_close(q, p, rtol=1e-12, atol=1e-12)
""",
    "takes_every_shape": """for shape in ((5, 3), (4, 3, 3, 2), (7,), (), (0, 3), (33,), (1, 1)):
    p = torch.nn.Parameter(torch.ones(shape))
    try:
        optimizer = {name}([p]{options})
    except ValueError:
        continue
    p.grad = torch.ones(shape)
    optimizer.step()
""",
    "refuses_options_that_are_not_finite": """p = torch.nn.Parameter(torch.ones(5, 3))
for lr in (float("nan"), float("inf")):
    try:
        {name}([p], lr=lr)
    except (ValueError, TypeError, RuntimeError):
        continue
    raise AssertionError(f"lr={{lr}} is taken")
""",
    "refuses_bad_options_of_a_group": """p = torch.nn.Parameter(torch.ones(5, 3))
try:
    {name}([{{"params": [p], "lr": -1.0}}])
except (ValueError, TypeError, RuntimeError):
    pass
else:
    raise AssertionError("a group with lr=-1.0 is taken")
""",
    "a_learning_rate_of_zero_moves_nothing": _ONE
    + """for group in optimizer.param_groups:
    group["lr"] = 0.0
for _ in range(3):
    p.grad = torch.ones(5, 3)
    optimizer.step()
assert torch.equal(p, torch.ones(5, 3)), p
""",
    "skips_parameters_without_gradient": _TWO
    + """optimizer = {name}([p, q]{options})
p.grad = torch.ones(5, 3)
optimizer.step()
assert torch.equal(q, torch.ones(5, 3)), q
""",
    "maximizes_by_the_negated_gradient": _TWO
    + """up = {name}([p], maximize=True)
down = {name}([q], maximize=False)
for g in torch.randn(3, 5, 3):
    p.grad, q.grad = g.clone(), -g
    up.step()
    down.step()
torch.testing.assert_close(p, q)
""",
    "continues_from_a_state_dict": """import copy

torch.manual_seed(0)
p, q = (torch.nn.Parameter(torch.ones(5, 3)) for _ in range(2))
first, second = {name}([p]{options}), {name}([q]{options})
gs = torch.randn(8, 5, 3)
for i, g in enumerate(gs):
    if i == 4:
        q.data.copy_(p)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
    for x, optimizer in ((p, first), (q, second)):
        if x is p or i >= 4:
            x.grad = g.clone()
            optimizer.step()
torch.testing.assert_close(q, p)
""",
    "continues_as_a_copy": """import copy

p = torch.nn.Parameter(torch.ones(5, 3))
optimizer = {name}([p]{options})
p.grad = torch.ones(5, 3)
optimizer.step()
copied = copy.deepcopy(optimizer)
(q,) = copied.param_groups[0]["params"]
for x, of in ((p, optimizer), (q, copied)):
    for _ in range(3):
        x.grad = torch.ones(5, 3)
        of.step()
torch.testing.assert_close(q, p)
""",
    "groups_equal_separate_optimizers": """torch.manual_seed(0)
p, q, r, s = (torch.nn.Parameter(torch.ones(5, 3)) for _ in range(4))
together = {name}([{{"params": [p]}}, {{"params": [q], "lr": 0.01}}], lr=0.1)
apart = [{name}([r], lr=0.1), {name}([s], lr=0.01)]
for g in torch.randn(3, 5, 3):
    p.grad, q.grad, r.grad, s.grad = (g.clone() for _ in range(4))
    for optimizer in (together, *apart):
        optimizer.step()
torch.testing.assert_close([p, q], [r, s])
""",
    "reads_options_at_every_step": _TWO
    + """changed, made = {name}([p], lr=0.1), {name}([q], lr=0.01)
changed.param_groups[0]["lr"] = 0.01
for x, optimizer in ((p, changed), (q, made)):
    x.grad = torch.ones(5, 3)
    optimizer.step()
torch.testing.assert_close(p, q)
""",
    "calls_the_closure_with_gradients_enabled": _ONE
    + """

def closure():
    assert torch.is_grad_enabled()
    optimizer.zero_grad()
    loss = p.square().sum()
    loss.backward()
    return loss


assert optimizer.step(closure) is not None
""",
    "a_learning_rate_may_be_a_tensor": _TWO
    + """for x, lr in ((p, 0.1), (q, torch.tensor(0.1))):
    optimizer = {name}([x], lr=lr)
    for _ in range(3):
        x.grad = torch.ones(5, 3)
        optimizer.step()
torch.testing.assert_close(p, q)
""",
    "a_step_without_any_gradient_changes_nothing": _ONE
    + """optimizer.step()
assert torch.equal(p, torch.ones(5, 3)), p
""",
    "takes_a_zero_gradient_as_a_step": _ONE
    + """for _ in range(3):
    p.grad = torch.zeros(5, 3)
    optimizer.step()
assert p.isfinite().all(), p
""",
    "stays_finite_for_tiny_and_huge_gradients": _ONE
    + """for step in range(100):
    p.grad = torch.ones(5, 3) * 10.0 ** (step * 7 % 33 - 16)
    optimizer.step()
    assert p.isfinite().all(), (step, p)
""",
    "repeats_itself": """results = []
for _ in range(2):
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.ones(5, 3))
    optimizer = {name}([p]{options})
    for _ in range(4):
        p.grad = torch.ones(5, 3)
        optimizer.step()
    results.append(p)
assert torch.equal(*results), results
""",
    "repr_shows_the_options": _ONE + "assert repr(optimizer).startswith('{name}'), optimizer\n",
}
"""By the name of a check: what shows it, with ``{name}`` and ``{{options}}`` to be filled in."""


def options_of(reason: str) -> str | None:
    """The options that a failure's circumstances name, as arguments of a call; None: not said.

    A check writes them as ``options = lr=0.1,amsgrad (for-loop)``.
    """
    for line in reason.split("\n"):
        if not line.startswith("options = "):
            continue
        said = line.removeprefix("options = ").split(", way = ")[0].split(", refusal = ")[0]
        said = said.split(", grad_mode")[0].split(" (")[0]
        if said == "defaults":
            return ""
        words = re.split(r",(?![^(]*\))", said)  # at the commas that are in no parentheses
        return ", ".join(word if "=" in word else f"{word}=True" for word in words)
    return None


def program(check: str, place: str, reason: str) -> str | None:
    """The program for a check that a class has failed, or None where there is no template."""
    template = TEMPLATES.get(check)
    if template is None:
        return None
    module, name = place.split(":")
    options = options_of(reason) or ""
    return (_HEAD + template).format(
        module=module, name=name, options=f", {options}" if options else ""
    )


def raises(code: str) -> bool:
    """Whether a program raises an error."""
    try:
        exec(compile(code, "<program>", "exec"), {"__name__": "program"})
    except Exception:  # whatever it is, it is what the program is to show
        return True
    return False
