"""What a step frees, the next finds: without asking the kernel for zeroed pages again."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

FAULTS = """
import resource, sys
import torch
from training.allocator import keep_freed_memory

kept = sys.argv[1] == "keep" and keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(32):
    before = faults()
    torch.ones(2**26, dtype=torch.uint8)
    last = faults() - before
print(int(kept), last)
"""


def run(how):
    """Whether memory is kept, and the page faults of the last of 32 tensors of 64 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = map(int, done.stdout.split())
    return bool(kept), faults


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be told to keep memory"
)
def test_memory_that_was_freed_is_there_without_a_page_fault():
    kept, faults = run("keep")
    assert kept
    _, before = run("leave")
    # 64 MiB are 16,384 pages, or 32 huge ones; kept, only what Python touches meanwhile. The first
    # tensors, seven at most in tries, lie one after the other: what alignment leaves over is too
    # small for the next.
    assert faults < 16 < 32 <= before
