"""Lets the tests of this folder import ``layer_case`` and the cases of the families."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
