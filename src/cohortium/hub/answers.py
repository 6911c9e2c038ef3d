"""Errors as answers: the one boundary at which what went wrong becomes a status and a reason."""

from __future__ import annotations

import errno
import json
from typing import ClassVar

import structlog
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cohortium.errors import InvalidInputError, RefusedError
from cohortium.store.database import is_away, is_full
from cohortium.transport.blobs import OffsetError
from cohortium.transport.errors import (
    MALFORMED,
    RequestError,
    StorageFullError,
    UnavailableError,
    refusal_body,
)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a system says when there is no room: on the disk, in a quota, in a file."""

_CODES = {404: "unknown", 405: "method", 413: "too-large"}


class RangeError(RequestError):
    """A range that a blob does not have."""

    status: ClassVar[int] = 416
    code: ClassVar[str] = "range"


class SlowError(RequestError):
    """A request of which nothing more came."""

    status: ClassVar[int] = 408
    code: ClassVar[str] = "slow"


class InternalError(RequestError):
    """A fault of this program. Its log says what it is, its answer does not."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"


def answer(error: Exception) -> Response:
    """Return the answer that tells of an error; the reason is in the header `error` of `state`."""
    told = _known(error)
    if told is None:
        structlog.get_logger().error("internal error", exc_info=error)
        told = InternalError("a fault in the hub", "none", "Tell the coordinator: its log has more")
    if isinstance(told, RequestError | InvalidInputError):
        status, body = refusal_body(told)
    else:
        status, body = told
    response = Response(json.dumps(body), status, media_type="application/json")
    if isinstance(error, OffsetError):
        response.headers["Upload-Offset"] = str(error.received)
    if status in (503, 507):
        response.headers["Retry-After"] = "5"
    return response


async def on_error(request: Request, error: Exception) -> Response:
    """Answer a request whose handling raised; for FastAPI."""
    del request
    return answer(error)


def reason_of(body: bytes) -> str:
    """Return the one word of an answer that tells of an error."""
    return str(json.loads(body)["error"])


Told = RequestError | InvalidInputError | tuple[int, dict[str, str]]


def _known(error: Exception) -> Told | None:
    """Return what may be told of an error, or None for a fault of this program."""
    match error:
        case RequestError() | InvalidInputError():
            return error
        case RefusedError():
            return 422, _body(MALFORMED, str(error), "what the protocol says")
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            code = _CODES.get(error.status_code, MALFORMED)
            return error.status_code, _body(code, str(error.detail), "an address of the API")
        case OSError() if error.errno in FULL:
            return StorageFullError("a disk that is full", "room", "Nothing was lost; try again")
        case OSError():
            structlog.get_logger().error("storage", exc_info=error)
            return UnavailableError("storage that does not answer", "some", "Try again")
        case DBAPIError() if is_full(error):
            return StorageFullError("a disk that is full", "room", "Nothing was lost; try again")
        case DBAPIError() if is_away(error):
            structlog.get_logger().error("database", reason=type(error.orig).__name__)
            return UnavailableError("a database that does not answer", "one", "Try again")
        case PoolTimeout():
            return UnavailableError("more requests than the hub can handle", "fewer", "Try again")
    return None


def _invalid(error: RequestValidationError) -> Told:
    """Name the first field that is wrong, without its value."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"][1:]).encode("ascii", "replace").decode()
    where = str(first["loc"][0])
    status = 400 if first["type"] == "json_invalid" else 422
    return status, {**_body(MALFORMED, first["msg"], f"a valid {where}"), "key": key[:200]}


def _body(code: str, got: str, expected: str) -> dict[str, str]:
    return {"error": code, "got": got, "expected": expected, "advice": ""}
