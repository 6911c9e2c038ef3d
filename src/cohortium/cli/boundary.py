"""The one place where errors become exit codes and words.

0: done. 1: the run failed, with cause and next step. 2: the study or an argument is invalid.
130: interrupted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from cohortium.errors import CohortiumError, InvalidInputError, Problem, RunFailedError

FAILED = 1
INTERRUPTED = 130

NETWORK = {
    *("alembic", "cryptography", "fastapi", "http_message_signatures", "httpx", "msgspec"),
    *("obstore", "prometheus_client", "psycopg", "sqlalchemy", "structlog", "uvicorn"),
}
"""Packages that hub, node and researcher need, and simulations do not."""

NET = "pip install 'cohortium[net]'"


class InterruptedRunError(Exception):
    """Ctrl-C in the middle of a run, with what there is to say about it."""


def guarded(verb: Callable[[], None]) -> int:
    """Run a verb and return its exit code, with any error told on standard error."""
    try:
        verb()
    except InvalidInputError as error:
        _tell_problems(error.problems)
        return error.exit_code
    except RunFailedError as error:
        _tell_failure(error.cause, error.advice)
        return error.exit_code
    except CohortiumError as error:
        _tell_failure(str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NETWORK:
            raise
        _tell_failure(f"{error.name} is not installed: a federation over a network needs it", NET)
        return FAILED
    except InterruptedRunError as stop:
        tell(f"interrupted: {stop}")
        return INTERRUPTED
    except OSError as error:  # such as a disk that filled up while results were written
        place = f"{error.filename}: " if error.filename else ""
        advice = "Check that this place is there, may be used, and has room"
        _tell_failure(f"{place}{error.strerror or type(error).__name__}", advice)
        return FAILED
    return 0


def tell(line: str) -> None:
    """Say something on standard error."""
    for part in line.split("\n"):  # what a hub or a study's code said may be in it
        print(printable(part), file=sys.stderr)  # noqa: T201 - the command line speaks


def printable(value: Any) -> Any:
    r"""Return what somebody else wrote as one line, which can do nothing to a terminal; of tables
    and lists all that is in them.

    Line breaks become spaces, and many spaces few, so that nobody forges a line of ours; control
    characters, those that turn the direction of writing and those without a sign are escaped.

    >>> print(printable("Help.\n\x1b[8mapproved  by all\u202e"))
    Help. \x1b[8mapproved  by all\u202e
    """
    if isinstance(value, Mapping):
        return {printable(key): printable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [printable(each) for each in value]
    if not isinstance(value, str):
        return value
    line = re.sub(r"[\r\n\t]|  {2,}", " ", value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _tell_problems(problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        tell(f"invalid: {problem}")
    if not all(problem.advice for problem in problems):
        tell("next step: correct this and run it again; nothing was written")


def _tell_failure(cause: str, advice: str = "") -> None:
    tell(f"failed: {cause}")
    if advice:
        tell(f"next step: {advice}")
