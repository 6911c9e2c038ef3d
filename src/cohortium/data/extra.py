"""What to say where an optional package is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cohortium.errors import DataError, Problem


@contextmanager
def needs_scikit_learn(purpose: str, *, instead: str = "") -> Iterator[None]:
    """Turn a failed import of scikit-learn into a `DataError` that says what to install.

    Args:
        purpose: what it is needed for, such as "to split rows".
        instead: another way out, such as "or set data.split.test = 0".
    """
    try:
        yield
    except ImportError as error:
        problem = Problem(
            "<python>",
            "",
            "no scikit-learn in this environment",
            f"scikit-learn {purpose}",
            " ".join(filter(None, ['Run pip install "cohortium[demo]"', instead])) + ".",
        )
        raise DataError(problem) from error
