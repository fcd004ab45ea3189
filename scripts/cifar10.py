"""Train a residual network on CIFAR-10 or on scikit-learn's digits.

    python scripts/cifar10.py
    python scripts/cifar10.py --dataset cifar10 --data-dir DIR --model resnet18 --amp bf16
    python scripts/cifar10.py --resume runs/NAME
    torchrun --nproc-per-node 2 scripts/cifar10.py --preset air94

``--help`` lists the options; ``training/options.py`` says what they default to.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from training.distributed import World, world
from training.errors import DivergedError, InterruptedRunError, UsageError
from training.loop import train
from training.options import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; print the result. Returns the exit code."""
    with world() as processes:
        return _run(argv, processes)


def _run(argv: Sequence[str] | None, processes: World) -> int:
    def say(line: str) -> None:
        if processes.first:
            print(f"cifar10.py: {line}", file=sys.stderr)

    try:
        # one of the processes looks at the files, and names the folder by the time
        config = processes.same(lambda: parse(argv))
        result = train(config, world=processes)
    except UsageError as error:
        say(f"error: {error}")
        return 2
    except DivergedError as error:
        say(str(error))
        return 1
    except InterruptedRunError as error:
        say(str(error))
        return 130
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    if not processes.first:
        return 0
    views = result.test_accuracy_tta
    by_views = "" if views is None else f" ({views:.2%} by six views)"
    print(
        f"test accuracy {result.test_accuracy:.2%}{by_views} after {result.epochs} epochs, "
        f"{result.train_seconds:.1f} s of training, {result.images_per_second:,.0f} images/s "
        f"({result.total_seconds:.1f} s in all)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
