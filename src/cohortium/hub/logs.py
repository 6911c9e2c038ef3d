"""The hub's log: one JSON object per line on standard error; `study`, `run` and `site` bound.

No value and no name of a record ever comes near the hub in the clear, and none is in its log.
"""

from __future__ import annotations

import sys
from typing import TextIO

import structlog

_WITHOUT_VALUES = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
"""Where an error arose, without what variables held there."""


def configure_logs(stream: TextIO | None = None) -> None:
    """Let everything in this process log as JSON lines; by default to standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(_WITHOUT_VALUES),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
