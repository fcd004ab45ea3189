"""Runs trainings, each in a process of its own that need not import anything any more.

Reads lines of JSON, a list of arguments of scripts/cifar10.py and a file for what it prints;
answers with the process id, and at its end with the exit code, negative for a signal. No thread has
been started when it forks. The network is a ResNet of 8 layers, so that an epoch takes a moment.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial

import sklearn.datasets
import sklearn.model_selection  # noqa: F401
import torch

import cifar10
from scratch_layers.resnet import ResNet
from training import options, tensorboard  # noqa: F401

torch.set_num_threads(1)
options.MODELS["resnet8"] = partial(ResNet, blocks=(1, 1, 1), widths=(16, 32, 64), option="A")


def child(argv: list[str], output: str) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code = 1  # of an exception, whose traceback is printed
    try:
        code = cifar10.main(argv)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(*json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
