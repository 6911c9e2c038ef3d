"""The benchmarks are no part of the package: make them importable from a checkout."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
