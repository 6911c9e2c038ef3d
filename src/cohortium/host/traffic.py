"""What the closing party saw of a round: bytes, waiting, refusals. For people, not for the plan."""

from __future__ import annotations

from cohortium.plan.plan import Plan
from cohortium.runtime.engine import RoundLog
from cohortium.runtime.events import Record
from cohortium.transport.envelope import Frame


class Traffic:
    """Counts what passes one party in a round; a restart begins the round's count anew.

    Args:
        plan: names the sites.
    """

    def __init__(self, plan: Plan) -> None:
        self._sites = tuple(str(site) for site in plan.rows)
        self._begun: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._sent = dict.fromkeys(self._sites, 0)
        self._received = dict.fromkeys(self._sites, 0)
        self._reasons: dict[tuple[str, str], str] = {}
        self._since: dict[str, float] = {}
        self._waited: dict[str, float] = {}

    def received(self, frame: Frame, *, at: float) -> None:
        """Count what a site sent; from now on it waits."""
        self._begun = at if self._begun is None else self._begun
        if frame.sender in self._sent:
            self._sent[frame.sender] += frame.size
            self._since.setdefault(frame.sender, at)

    def sent(self, frame: Frame, *, at: float) -> None:
        """Count what sites are sent; they have waited until now."""
        self._begun = at if self._begun is None else self._begun
        for party in frame.to:
            if party in self._received:
                self._received[party] += frame.size
                self._waits_no_more(party, at)

    def refused(self, record: Record) -> None:
        """Keep why something was refused."""
        self._reasons.setdefault((record.party, record.kind), record.reason)

    def log(self, record: Record, *, at: float) -> RoundLog:
        """Return what the round showed, and begin the next."""
        assert record.state is not None
        for site in tuple(self._since):
            self._waits_no_more(site, at)
        state, is_last = record.state, record.state.status != "running"
        log = RoundLog(
            state=state,
            evaluation=record.detail if state.metrics and is_last else None,
            seconds=0.0 if self._begun is None else at - self._begun,
            sent=self._sent,
            received=self._received,
            reasons=self._reasons,
            evaluated=tuple(record.detail or ()),
            waited=self._waited,
        )
        self._begun = at
        self._begin()
        return log

    def _waits_no_more(self, site: str, at: float) -> None:
        since = self._since.pop(site, None)
        if since is not None:
            self._waited[site] = self._waited.get(site, 0.0) + at - since
