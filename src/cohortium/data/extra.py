"""What to say where an optional package is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cohortium.errors import DataError, Problem


@contextmanager
def needs(package: str, purpose: str, *, extra: str, instead: str = "") -> Iterator[None]:
    """Turn a failed import of a package into a `DataError` that says what to install.

    Args:
        package: its name, such as "scikit-learn".
        purpose: what it is needed for, such as "to split rows".
        extra: which extra of Cohortium brings it.
        instead: another way out, such as "or set data.split.test = 0".
    """
    try:
        yield
    except ImportError as error:
        problem = Problem(
            "<python>",
            "",
            f"no {package} in this environment",
            f"{package} {purpose}",
            " ".join(filter(None, [f'Run pip install "cohortium[{extra}]"', instead])) + ".",
        )
        raise DataError(problem) from error
