"""Errors of requests: one class per code that a refusal carries, and one for no answer at all.

A refusal travels as `{"error": code, "got": …, "expected": …, "advice": …}` with the status of its
class: `refusal_body` writes it, `refusal` makes the error again at the other end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from cohortium.errors import InvalidInputError, Problem, RefusedError, RunFailedError

MALFORMED = "malformed"


class RequestError(RefusedError):
    """A request was refused; `status` is HTTP's, `code` the word in the answer."""

    status: ClassVar[int] = 403
    code: ClassVar[str] = "refused"

    def __init__(self, got: str, expected: str, advice: str = "") -> None:
        text = f"got {got}; expected {expected}"
        super().__init__(f"{text}. {advice}" if advice else text)
        self.got, self.expected, self.advice = got, expected, advice


class UnauthorisedError(RequestError):
    """A request or response is not signed, or its signature does not hold."""

    status, code = 401, "unauthorised"


class ReplayError(UnauthorisedError):
    """A signed request came a second time."""

    code = "replayed"


class ClockError(UnauthorisedError):
    """The clocks of the two ends differ by more than the protocol tolerates. Names both times."""

    code = "clock"


class RevokedError(RequestError):
    """The sender's membership was revoked."""

    code = "revoked"


class UnknownError(RequestError):
    """What the request names is not there."""

    status, code = 404, "unknown"


class ConflictError(RequestError):
    """The request does not fit what is there: another process, another offset, another state."""

    status, code = 409, "conflict"


class ExpiredError(RequestError):
    """An invitation code was used already, or its time is over."""

    status, code = 410, "expired"


class TooLargeError(RequestError):
    """The body is larger than this address takes."""

    status, code = 413, "too-large"


class ProtocolError(RequestError):
    """The two ends speak no common version of the protocol."""

    status, code = 426, "protocol"


class UnavailableError(RequestError):
    """The hub cannot serve this now; later it will."""

    status, code = 503, "unavailable"


class StorageFullError(UnavailableError):
    """The hub has no room left. Nothing was lost; it goes on once there is room."""

    status, code = 507, "storage-full"


_CLASSES: dict[str, type[RequestError]] = {
    error.code: error
    for error in (
        RequestError,
        UnauthorisedError,
        ReplayError,
        ClockError,
        RevokedError,
        UnknownError,
        ConflictError,
        ExpiredError,
        TooLargeError,
        ProtocolError,
        UnavailableError,
        StorageFullError,
    )
}


def refusal_body(error: RequestError | InvalidInputError) -> tuple[int, dict[str, str]]:
    """Return the HTTP status and the JSON body that tell the other end of `error`.

    >>> refusal_body(UnknownError("study ab12", "a study of this hub"))[0]
    404
    """
    told: RequestError | Problem = (
        error.problems[0] if isinstance(error, InvalidInputError) else error
    )
    parts = {"got": told.got, "expected": told.expected, "advice": told.advice}
    if isinstance(told, Problem):
        return 422, {"error": MALFORMED, "key": told.key, **parts}
    return told.status, {"error": told.code, **parts}


def refusal(where: str, status: int, body: object) -> RequestError | InvalidInputError:
    """Return the error that an answer's status and JSON body tell of.

    Args:
        where: the method and the path of the request, for the message.
        status: HTTP's.
        body: parsed JSON; anything that is not a refusal's is told by its status alone.
    """
    told = body if isinstance(body, Mapping) else {}

    def text(name: str, otherwise: str = "") -> str:
        return str(told.get(name) or otherwise)

    got, expected, advice = text("got", f"status {status}"), text("expected", "2xx"), text("advice")
    if status in {400, 422}:
        return InvalidInputError(Problem(where, text("key"), got, expected, advice))
    made = _CLASSES.get(text("error"))
    if made is None:
        made = next((each for each in _CLASSES.values() if each.status == status), RequestError)
    return made(got, expected, advice)


Reason = Literal["address", "name", "refused", "timeout", "certificate", "proxy", "lost", "closed"]


class UnreachableError(RunFailedError):
    """No answer of the hub arrived.

    Attributes:
        reason: "name" not found, "refused", "timeout", "certificate" not trusted, "proxy" said no,
            connection "lost", "closed" by ourselves, or somebody else at that "address".
        lasting: somebody has to change something first; trying again alone does not help.
    """

    def __init__(self, reason: Reason, cause: str, advice: str = "") -> None:
        super().__init__(cause, advice)
        self.reason = reason

    @property
    def lasting(self) -> bool:
        return self.reason in {"address", "certificate", "closed", "proxy"}
