"""The node's log: one JSON object per line on standard error, with study, run and party bound.

Nothing of a patient is in it: no value of a record, no path of a file with records, and of what
study code raised only the kind of error. The words are kept on this machine, for `node status`.
"""

from __future__ import annotations

import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger


def configure_logs(stream: TextIO | None = None) -> None:
    """Let everything in this process log as JSON lines; by default to standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _without_words,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def kind_of(reason: str) -> str:
    """Return what may be logged of a failure in study code: the kind of error, not its words.

    >>> kind_of("ValueError: could not convert 'Doe, Jane'"), kind_of("out of memory")
    ('ValueError', 'failed')
    """
    kind = reason.partition(":")[0]
    return kind if kind.isidentifier() else "failed"


def _without_words(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    """Take the words out of what a step failed with: study code wrote them."""
    del logger, method
    if line.get("event") == "failed" and "reason" in line:
        line["reason"] = kind_of(str(line["reason"]))
    return line
