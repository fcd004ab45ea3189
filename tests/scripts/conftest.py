"""What the tests of the scripts share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test leaves in the working folder is its own."""
    monkeypatch.chdir(tmp_path)
