"""Receipts: what a host signs for every party whose frames it has journaled.

A host that wakes from an old copy of its disk finds receipts for more than it remembers to have
sent. It must not go on: it would say something else under the same step. A receipt quotes the
sender's own stamp on the number, so nobody can stop a party with a number that it never gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cohortium.errors import RefusedError, RunFailedError
from cohortium.identity import Certificate, Document, Identity
from cohortium.runtime.journal import is_behind
from cohortium.transport.envelope import Frame, check_stamp

KIND = "receipt"


class BehindError(RunFailedError):
    """This party's journal is older than what it has sent."""


def receipt(frame: Frame, *, by: Identity) -> Document:
    """Return a signed receipt for a frame that `by` has kept."""
    body = {
        "run": frame.run,
        "from": frame.sender,
        "host": by.name,
        "number": frame.number,
        "serial": frame.serial,
        "stamp": frame.stamp,
    }
    return Document.of(KIND, body, by.signing)


def highest(
    documents: Iterable[Document],
    *,
    run: str,
    party: str,
    own: Callable[[int], Certificate],
) -> tuple[int, str]:
    """Return the highest number that a peer has had of a party, and which peer; (0, "") for none.

    Args:
        documents: receipts, as the hub keeps them.
        run: whose.
        party: who sent.
        own: serial to the checked certificate of the host that carries the party.
    """
    found = (0, "")
    for document in documents:
        try:
            body = read_receipt(document.check(KIND, document.key))
            if (body["run"], body["from"]) == (run, party):
                number, certificate = body["number"], own(body["serial"])
                check_stamp(body["stamp"], certificate, run=run, sender=party, number=number)
                found = max(found, (number, body["host"]))
        except RefusedError:
            continue  # somebody's forgery stops nobody
    return found


def check_not_behind(released: int, number: int, peer: str) -> None:
    """Raise if a peer has had more than this journal remembers to have released.

    Raises:
        BehindError: the journal is an old copy.
    """
    if is_behind(released, [number]):
        raise BehindError(
            f"{peer} has had release {number}, and this journal knows of {released}: it is an old "
            "copy",
            "Do not run a restored copy of a node in the middle of a study. Stop the study, or "
            "restore a newer backup",
        )


_FORM = {"run": str, "from": str, "host": str, "number": int, "serial": int, "stamp": str}


def read_receipt(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a receipt's body, if it is of the form of one.

    Raises:
        RefusedError: it is not.
    """
    if body.keys() != _FORM.keys() or any(type(body[k]) is not kind for k, kind in _FORM.items()):
        raise RefusedError("a receipt of another form")
    if len(body["stamp"]) != 128 or set(body["stamp"]) - set("0123456789abcdef"):
        raise RefusedError("a stamp that is none")
    return body
