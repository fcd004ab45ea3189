"""Lets the tests of this folder import ``cases``; compiles small kernels for them."""

import sys
from pathlib import Path

import pytest

from scratch_optim import fused

sys.path.insert(0, str(Path(__file__).parent))

FULL_WIDTH = fused.WIDTH

# Of the tensors that a kernel updates in one call each takes 0.4 s to compile. Two show all that
# there is to show, several calls and empty places too.
fused.WIDTH = 2


@pytest.fixture
def full_width(monkeypatch):
    """Kernels as wide as they are for users."""
    monkeypatch.setattr(fused, "WIDTH", FULL_WIDTH)
