"""Receipts: what a host signs for every party whose frames it has journaled.

A host that wakes from an old copy of its disk finds receipts for more than it remembers to have
sent. It must not go on: it would say something else under the same step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cohortium.errors import RefusedError, RunFailedError
from cohortium.identity import Certificate, Document, Identity
from cohortium.runtime.journal import is_behind

KIND = "receipt"


class BehindError(RunFailedError):
    """This party's journal is older than what it has sent."""


def receipt(run: str, party: str, number: int, *, by: Identity) -> Document:
    """Return a signed receipt: the highest number of a party's releases that `by` has kept."""
    body = {"run": run, "from": party, "host": by.name, "number": number}
    return Document.of(KIND, body, by.signing)


def highest(
    documents: Iterable[Document],
    *,
    run: str,
    party: str,
    signed_by: Mapping[str, Certificate],
) -> tuple[int, str]:
    """Return the highest number that a peer has signed for, and which peer; (0, "") for none.

    Args:
        documents: receipts, as the hub keeps them.
        run: whose.
        party: who sent.
        signed_by: signing key to the certificate that was checked for it.
    """
    found = (0, "")
    for document in documents:
        certificate = signed_by.get(document.key)
        if certificate is None:
            continue
        try:
            body = _body(document.check(KIND, document.key))
        except RefusedError:
            continue  # somebody's forgery stops nobody
        if (body["run"], body["from"], body["host"]) == (run, party, certificate.name):
            found = max(found, (body["number"], certificate.name))
    return found


def check_not_behind(released: int, number: int, peer: str) -> None:
    """Raise if a peer has had more than this journal remembers to have released.

    Raises:
        BehindError: the journal is an old copy.
    """
    if is_behind(released, [number]):
        raise BehindError(
            f"{peer} has signed for release {number}, and this journal knows of {released}: it is "
            "an old copy",
            "Do not run a restored copy of a node in the middle of a study. Stop the study, or "
            "restore a newer backup",
        )


def _body(body: Mapping[str, Any]) -> Mapping[str, Any]:
    if body.keys() != {"run", "from", "host", "number"} or not isinstance(body["number"], int):
        raise RefusedError("a receipt of another form")
    return body
