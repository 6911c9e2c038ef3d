"""The one place where errors become exit codes and words.

0: done. 1: the run failed, with cause and next step. 2: the study or an argument is invalid.
130: interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from cohortium.errors import CohortiumError, InvalidInputError, RunFailedError

INTERRUPTED = 130


def guarded(verb: Callable[[], None]) -> int:
    """Run a verb and return its exit code, with any error told on standard error."""
    try:
        verb()
    except InvalidInputError as error:
        for problem in error.problems:
            _tell(f"invalid: {problem}")
        return error.exit_code
    except RunFailedError as error:
        _tell(f"failed: {error.cause}")
        if error.advice:
            _tell(f"next step: {error.advice}")
        return error.exit_code
    except CohortiumError as error:
        _tell(f"failed: {error}")
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has gone; nobody is left to tell
        return 1
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 - the command line speaks
