"""The optional PyTorch: whether it is there, and what to do where it is not."""

from __future__ import annotations

from importlib.util import find_spec

from cohortium.errors import ModelError, Problem


def require_torch() -> None:
    """Check that PyTorch is installed, without importing it.

    Raises:
        ModelError: it is not; the advice says how to install it.
    """
    if find_spec("torch") is None:
        raise ModelError(
            Problem(
                "<python>",
                "task.model",
                "an environment without PyTorch",
                "PyTorch 2.4 or later, in which models are trained",
                'Run: pip install "cohortium[torch]"',
            )
        )
