"""Train a network on CIFAR-10 or on scikit-learn's digits.

    python scripts/cifar10.py
    python scripts/cifar10.py --dataset cifar10 --data-dir DIR --model resnet18 --amp bf16
    python scripts/cifar10.py --model mlp --dropout 0.2 --augment none
    python scripts/cifar10.py --resume runs/NAME
    python scripts/cifar10.py --seeds 10 --target 0.98 --log-dir runs/NAME --resume auto
    torchrun --nproc-per-node 2 scripts/cifar10.py --preset air94

``--help`` lists the options; ``training/options.py`` says what they default to.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training import result, series
from training.distributed import World, is_lost, world
from training.errors import DivergedError, InterruptedRunError, UsageError
from training.loop import train
from training.options import Config, make_config, parser
from training.series import Series


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; print the result. Returns the exit code."""
    with world() as processes:
        return _run(argv, processes)


def _run(argv: Sequence[str] | None, processes: World) -> int:
    def say(text: str, file: Any = None) -> None:
        if processes.first:
            print(text, file=file or sys.stderr)

    try:
        # one of the processes looks at the files, and names the folder by the time
        asked = processes.same(lambda: _asked(argv))
        if isinstance(asked, Series):
            outcome = series.run(asked, lambda record: say(line(record), sys.stdout), processes)
            say(outcome.table(), sys.stdout)
            return 1 if outcome.diverged else 0
        if isinstance(asked, str):
            say(asked, sys.stdout)
        else:
            say(line(dataclasses.asdict(train(asked, world=processes))), sys.stdout)
    except UsageError as error:
        say(f"cifar10.py: error: {error}")
        return 2
    except DivergedError as error:
        say(f"cifar10.py: {error}")
        return 1
    except InterruptedRunError as error:
        say(f"cifar10.py: {error}")
        return 128 + error.number
    except KeyboardInterrupt:
        say("cifar10.py: interrupted")
        return 130
    except RuntimeError as error:
        if processes.size == 1 or not is_lost(error):
            raise
        # from each that is left: the first may be the one that has gone
        print(
            "cifar10.py: another process has ended, whose own messages say why. What was written "
            "before is whole: go on with --resume.",
            file=sys.stderr,
        )
        return 1
    return 0


def _asked(argv: Sequence[str] | None) -> Series | Config | str:
    """A series, a run, or what to say of one that is finished."""
    given = vars(parser().parse_args(argv))
    several = series.plan(given)
    if several is not None:
        return several
    auto = given.get("resume") == "auto"
    config = make_config(**given)
    done = result.load(Path(config.log_dir)) if auto and config.resume else None
    if done is not None:
        return f"{config.log_dir} holds a finished run, which stays as it is: {line(done)}"
    return config


def line(record: dict[str, Any]) -> str:
    """The last line of a run, of what ``result.json`` holds."""
    views = record["test_accuracy_tta"]
    by_views = "" if views is None else f" ({views:.2%} by six views)"
    error, error_views = (record[f"test_calibration_error{end}"] for end in ("", "_tta"))
    error_by_views = "" if error_views is None else f" ({error_views:.2%})"
    return (
        f"test accuracy {record['test_accuracy']:.2%}{by_views}, calibration error {error:.2%}"
        f"{error_by_views}, after {record['epochs']} epochs, "
        f"{record['train_seconds']:.1f} s of training, {record['images_per_second']:,.0f} images/s "
        f"({record['total_seconds']:.1f} s in all)"
    )


if __name__ == "__main__":
    sys.exit(main())
