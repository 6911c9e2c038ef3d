"""The node's log: one JSON object per line on standard error, with study, run and round bound.

Nothing of a patient is in it: no value of a record, no path of a file with records, and of what
study code raised only the kind of error.
"""

from __future__ import annotations

import sys
from typing import TextIO

import structlog
from structlog.typing import FilteringBoundLogger


def open_log(stream: TextIO | None = None) -> FilteringBoundLogger:
    """Return the node's log.

    Args:
        stream: where lines go; by default standard error.
    """
    log: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
    )
    return log


def kind_of(reason: str) -> str:
    """Return what may be logged of a failure in study code: the kind of error, not its words.

    >>> kind_of("ValueError: could not convert 'Doe, Jane'")
    'ValueError'
    """
    kind = reason.partition(":")[0]
    return kind if kind.isidentifier() else "failed"
