"""Cohortium: federated learning for digital health. Hospitals train together, records stay put.

    import cohortium as co

    result = co.simulate(study, sites={"a": (x, y), "b": (x2, y2)}, model=my_torch_module)

Names are imported when they are used: `import cohortium` alone loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cohortium.report.writing import write
    from cohortium.runtime.result import Result
    from cohortium.runtime.simulation import compare, simulate
    from cohortium.study.bundle import Bundle
    from cohortium.study.read import read
    from cohortium.study.study import Study

__version__ = "0.1.0"
__all__ = ["Bundle", "Result", "Study", "compare", "read", "simulate", "write"]

_HOMES = {
    "Bundle": "cohortium.study.bundle",
    "Result": "cohortium.runtime.result",
    "Study": "cohortium.study.study",
    "compare": "cohortium.runtime.simulation",
    "read": "cohortium.study.read",
    "simulate": "cohortium.runtime.simulation",
    "write": "cohortium.report.writing",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cohortium' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted((*__all__, "__version__"))
