"""What this site was asked, and what it answered: its own copy, which alone counts here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Row, insert, select, update

from cohortium.errors import ArgumentError, Problem
from cohortium.governance.grant import Grant
from cohortium.identity import Document, Identity
from cohortium.node.tables import STUDIES
from cohortium.store.database import reading, writing


@dataclass(frozen=True)
class Offer:
    """A study that the hub offered, and this site's answer.

    Attributes:
        digest: of the study bundle.
        name, purpose, status: as the hub says.
        decision: empty, "approved" or "declined".
        dataset: the one that was approved for it; empty before.
        grant: the signed consent; kept when it is taken back, with another decision.
        identity: keys for this study alone, where sites appear under pseudonyms.
        seconds: of computing so far.
        notified: whether people were told that it waits.
    """

    digest: str
    name: str
    purpose: str
    status: str
    decision: str
    dataset: str
    grant: Document | None
    identity: Identity | None
    seconds: float
    notified: bool

    @property
    def waits(self) -> bool:
        """Whether somebody should decide."""
        return not self.decision and self.status == "open"


@dataclass(frozen=True)
class Consents:
    """A node's studies. `engine`: the node's database."""

    engine: Engine

    def offered(self, study: Mapping[str, Any]) -> Offer:
        """Keep what the hub says of a study, and return it with what is known here.

        One that was submitted again after it had ended waits for a decision again.
        """
        digest, submitted = str(study["digest"]), float(study["submitted_at"])
        said = {"name": str(study["name"])[:64], "purpose": str(study["purpose"])}
        said |= {"status": str(study["status"])[:16]}
        asked = {"decision": "", "notified": False, "submitted": submitted}
        named = STUDIES.c.digest == digest
        with writing(self.engine) as connection:
            known = connection.execute(select(STUDIES).where(named)).one_or_none()
            if known is None:
                new = {"digest": digest, "dataset": "", "seconds": 0.0}
                connection.execute(insert(STUDIES).values({**new, **said, **asked}))
            else:
                again = asked if known.submitted != submitted else {}
                connection.execute(update(STUDIES).where(named).values({**said, **again}))
        return self.get(digest)

    def all(self) -> list[Offer]:
        """Return every study, by name."""
        with reading(self.engine) as connection:
            query = select(STUDIES).order_by(STUDIES.c.name, STUDIES.c.digest)
            return [_offer(row) for row in connection.execute(query).all()]

    def get(self, digest: str) -> Offer:
        """Return a study by its whole digest.

        Raises:
            ArgumentError: it was never offered.
        """
        with reading(self.engine) as connection:
            query = select(STUDIES).where(STUDIES.c.digest == digest)
            row = connection.execute(query).one_or_none()
        if row is None:
            raise _unknown(f"the study {digest[:12]}", "one that the hub offered")
        return _offer(row)

    def find(self, text: str) -> Offer:
        """Return a study by its name, or by the beginning of its digest.

        Raises:
            ArgumentError: no such study, or several.
        """
        there = self.all()
        found = [offer for offer in there if offer.digest == text] or [
            offer
            for offer in there
            if offer.name == text or (len(text) > 3 and offer.digest.startswith(text))
        ]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(offer.digest[:12] for offer in found)
            raise _unknown(f"{text!r}, of which there are {len(found)}", f"one of {listed}")
        listed = ", ".join(dict.fromkeys(offer.name for offer in there)) or "none so far"
        raise _unknown(f"{text!r}", f"a study's name, or 4 or more digits of its digest: {listed}")

    def approve(
        self, digest: str, grant: Document, *, dataset: str, identity: Identity | None, now: float
    ) -> None:
        """Keep a consent."""
        keys = None if identity is None else identity.to_json()
        self._set(
            digest,
            decision="approved",
            dataset=dataset,
            grant=grant.to_json(),
            identity=keys,
            decided=now,
        )

    def decline(self, digest: str, *, now: float) -> None:
        """Keep that this site does not take part, or no longer does."""
        self._set(digest, decision="declined", decided=now)

    def withdrawn(self, digest: str) -> None:
        """Keep that a study is not offered any more."""
        self._set(digest, status="ended")

    def notified(self, digest: str) -> None:
        """Keep that people were told."""
        self._set(digest, notified=True)

    def spent(self, digest: str, seconds: float) -> None:
        """Add to a study's seconds of computing."""
        self._set(digest, seconds=STUDIES.c.seconds + seconds)

    def refusal(self, digest: str, round_: int, *, now: float) -> str:
        """Return why this site does not take part in a round of a study; empty if it does."""
        offer = self.get(digest)
        if offer.decision != "approved" or offer.grant is None:
            return "this site's consent was taken back"
        return Grant.of(offer.grant).refusal(study=digest, round_=round_, now=now)

    def _set(self, digest: str, **values: Any) -> None:
        with writing(self.engine) as connection:
            connection.execute(update(STUDIES).where(STUDIES.c.digest == digest).values(values))


def _offer(row: Row[tuple[object, ...]]) -> Offer:
    return Offer(
        row.digest,
        row.name,
        row.purpose,
        row.status,
        row.decision,
        row.dataset,
        None if row.grant is None else Document.from_json(row.grant),
        None if row.identity is None else Identity.from_json(row.identity),
        row.seconds,
        row.notified,
    )


def _unknown(got: str, expected: str) -> ArgumentError:
    advice = "See: cohortium node study list"
    return ArgumentError(Problem("arguments", "study", got, expected, advice))
