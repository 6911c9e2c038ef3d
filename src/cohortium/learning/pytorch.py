"""The optional PyTorch: whether it is there, what to do if not, and on how many threads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from cohortium.errors import ModelError, Problem

ONE_THREAD = 1 << 20
"""Bytes of parameters below which one thread is faster than several."""


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


@contextmanager
def fitting_threads(model_bytes: int) -> Iterator[None]:
    """Let PyTorch compute small models on one thread, and leave it alone for others.

    Below `ONE_THREAD` bytes of parameters a second thread finds nothing to do, and waits for its
    work spinning: on a busy machine that costs many times the computation.
    """
    torch = sys.modules.get("torch")
    if torch is None or model_bytes >= ONE_THREAD:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
