"""Shares the processor among the processes of pytest-xdist."""

import os

import torch

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # threads that wait for each other and for a processor take several times as long
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))
