"""A plan: the steps of every round as a pure function of members, round and state.

    train ─▶ … topology … ─▶ consensus ─▶ evaluate ─▶ tally ─▶ outcome = the next State

The topology lays out how the sites' training becomes one model or one per group; everything after
that is the same for all of them. Lowering passes then rewrite a round's steps, as a compiler's do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import ceil
from typing import Any, Literal

from cohortium.plan.step import RoundPlan
from cohortium.plan.topology import Draft, Element, Holder, Topology, sample
from cohortium.types import PartyId, SiteId

CACHED = 4
"""Rounds whose steps are kept: parties may be a little ahead of each other."""

LoweringPass = Callable[[RoundPlan], RoundPlan]
Status = Literal["running", "finished", "stopped"]
OnShortfall = Literal["stop", "skip", "wait"]


@dataclass(frozen=True, slots=True)
class Member:
    """A site in a federation.

    Attributes:
        site: its name.
        rows: training rows that it declared; the most that an update of it may weigh.
        trains: False for a site that only evaluates.
    """

    site: SiteId
    rows: int
    trains: bool = True


@dataclass(frozen=True, slots=True)
class Note:
    """How one site fared in one round: a line of the participation statement.

    `status` is "in", "not sampled", "absent" (nothing came by the deadline), "refused" (by the
    site's own gate), "failed" (its training raised) or "excluded" (by the party that reads it).
    """

    site: SiteId
    status: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's value over all evaluating sites together, and at each; None where undefined."""

    overall: float | None
    per_site: Mapping[str, float | None]


@dataclass(frozen=True)
class State:
    """What all parties agree on after a round: the value of the round's closing step.

    Attributes:
        study: digest of the study bundle.
        round: rounds completed; 0 before the first.
        attempt: how often the round in progress was begun before.
        status: whether another round follows.
        reason: why it stopped, when it did.
        models: holder's party to the digest of its consensus model.
        roster: the sites whose records are in this round's consensus.
        notes: participation in this round.
        metrics: by name, of this round's consensus model.
        last_in: site to the last round whose roster it was in; slots commit or roll back by it.
        patience: evaluated rounds in a row in which all acceptance criteria held.
        previous: digest of the state before; empty for the first.
    """

    study: str
    round: int = 0
    attempt: int = 0
    status: Status = "running"
    reason: str = ""
    models: Mapping[PartyId, str] = field(default_factory=dict)
    roster: tuple[SiteId, ...] = ()
    notes: tuple[Note, ...] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    last_in: Mapping[SiteId, int] = field(default_factory=dict)
    patience: int = 0
    previous: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the state as canonical JSON, as hex."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def included(self) -> frozenset[SiteId]:
        """The sites of the roster, each once: many parties look at one State."""
        return frozenset(self.roster)

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain JSON values."""
        table = {f.name: getattr(self, f.name) for f in fields(self)}
        table["notes"] = [[note.site, note.status, note.reason] for note in self.notes]
        table["metrics"] = {
            name: [metric.overall, dict(metric.per_site)] for name, metric in self.metrics.items()
        }
        return table | {"roster": list(self.roster)}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> State:
        """Return the state that `to_json` wrote."""
        metrics = {name: Metric(*value) for name, value in table["metrics"].items()}
        notes = tuple(Note(*note) for note in table["notes"])
        fixed = {"roster": tuple(table["roster"]), "notes": notes, "metrics": metrics}
        return cls(**{**table, **fixed})


@dataclass(frozen=True)
class Plan:
    """The trajectory of a model across the parties.

    Attributes:
        study: digest of the study bundle; what parties approve and sign.
        seed: the study's.
        topology: lays out each round.
        members: in roster order.
        rounds: how many; 0 only evaluates.
        fraction: share of the training sites that is sampled each round.
        quorum: sites that a consensus needs; None for all that are sampled.
        deadline: seconds that a site has for one step.
        on_shortfall: what a round below quorum leads to: "stop" the run, "skip" the round, or
            "wait" for the sites by trying the round again.
        attempts: how often a round is tried when it waits.
        evaluate_every: rounds between evaluations; the last round always evaluates. 0: never.
        passes: lowering passes, applied in order.
    """

    study: str
    seed: int
    topology: Topology
    members: tuple[Member, ...]
    rounds: int
    fraction: float = 1.0
    quorum: int | None = None
    deadline: float = 600.0
    on_shortfall: OnShortfall = "stop"
    attempts: int = 3
    evaluate_every: int = 1
    passes: tuple[LoweringPass, ...] = ()

    @cached_property
    def trainers(self) -> tuple[SiteId, ...]:
        """The sites that train, in roster order."""
        return tuple(member.site for member in self.members if member.trains)

    @cached_property
    def rows(self) -> dict[SiteId, int]:
        """Training rows that each site declared."""
        return {member.site: member.rows for member in self.members}

    @cached_property
    def needed(self) -> int:
        """Sites that a consensus needs."""
        return self.sampled if self.quorum is None else min(self.quorum, self.sampled)

    @property
    def sampled(self) -> int:
        """Sites that train in each round."""
        return ceil(self.fraction * len(self.trainers) - 1e-9)

    def round(self, state: State) -> RoundPlan:
        """Return the steps of the round that follows `state`: equal arguments, equal steps."""
        return self.layout(state.round + 1)

    def layout(self, round_: int) -> RoundPlan:
        """Return the steps of a round by its number, counting from 1."""
        cached: dict[int, RoundPlan] = self.__dict__.setdefault("_rounds", {})
        plan = cached.get(round_)
        if plan is None:  # several threads may come here: at worst they lay the same steps twice
            plan = self._lay(round_)
            for lower in self.passes:
                plan = lower(plan)
            if len(cached) >= CACHED:  # the oldest laid: who lags behind goes back
                cached.pop(next(iter(list(cached))), None)
            cached[round_] = plan
        return plan

    @cached_property
    def parties(self) -> tuple[PartyId, ...]:
        """Everyone who has a part in the plan: the sites first, then aggregators and the clerk."""
        everyone = replace(self, fraction=1.0)
        draft = everyone._draft(1)
        if self.rounds:
            everyone._train(draft)
        sites = (PartyId(member.site) for member in self.members)
        others = (step.party for step in draft.steps)
        return tuple(dict.fromkeys((*sites, *others, self.topology.closer)))

    def most(self, sites: Iterable[SiteId]) -> float:
        """Return the most that records of these sites may weigh together: the rows they declared.

        Weights are mixed in floating point, so a little more passes.
        """
        return sum(self.rows[site] for site in sites) * (1 + 1e-9)

    def strangers(self, state: State) -> frozenset[SiteId]:
        """Return the sites in a State's roster that do not train in this plan."""
        checked: tuple[State, frozenset[SiteId]] | None = self.__dict__.get("_checked")
        if checked is None or checked[0] is not state:  # many parties may ask about one State
            checked = (state, state.included.difference(self.trainers))
            self.__dict__["_checked"] = checked
        return checked[1]

    def evaluates(self, round_: int) -> bool:
        """Tell whether a round's consensus model is evaluated."""
        if not self.evaluate_every:
            return False
        return round_ >= self.rounds or round_ % self.evaluate_every == 0

    def _lay(self, round_: int) -> RoundPlan:
        draft = self._draft(round_)
        holders = self._train(draft) if self.rounds else (Holder(self.topology.closer, "", ()),)
        self._close(draft, holders)
        return RoundPlan(round_, tuple(draft.steps))

    def _draft(self, round_: int) -> Draft:
        return Draft(self.seed, round_, self.deadline, quorum=self.needed, rows=self.rows)

    def _train(self, draft: Draft) -> tuple[Holder, ...]:
        sampled = set(sample(self.seed, draft.round, self.trainers, count=self.sampled))
        elements = (element.only(sampled) for element in self._elements)
        here = [element for element in elements if element is not None]
        return self.topology.lay(draft, here, name="", start=None)

    @cached_property
    def _elements(self) -> Sequence[Element]:
        return self.topology.arrange(self.trainers)

    def _close(self, draft: Draft, holders: tuple[Holder, ...]) -> None:
        closer = self.topology.closer
        served = self._served(holders)
        consensus = {
            holder.party: draft.add(
                "consensus" if len(holders) == 1 else f"consensus/{holder.party}",
                holder.party,
                "consensus",
                inputs=(holder.step,) if holder.step else (),
                slot="server-optimizer",
                to=tuple(PartyId(site) for site in served[holder.party]),
            )
            for holder in holders
        }
        theirs = {site: consensus[party] for party, sites in served.items() for site in sites}
        tally = self._evaluate(draft, theirs)
        draft.add(
            "outcome",
            closer,
            "outcome",
            inputs=tally,
            gathers=tuple(consensus.values()),
            needs=1,
            to=self.parties,
        )

    def _served(self, holders: tuple[Holder, ...]) -> dict[PartyId, tuple[SiteId, ...]]:
        """Return the sites that get each holder's model; who trained nowhere gets the first's."""
        parties = [holder.party for holder in holders]
        if self.topology.one_model or len(holders) == 1:
            return dict.fromkeys(parties, tuple(self.rows))
        theirs = {site for holder in holders for site in holder.sites}
        rest = tuple(site for site in self.rows if site not in theirs)
        return {h.party: h.sites + (rest if i == 0 else ()) for i, h in enumerate(holders)}

    def _evaluate(self, draft: Draft, consensus: Mapping[SiteId, str]) -> tuple[str, ...]:
        if not self.evaluates(draft.round):
            return ()
        votes = tuple(
            draft.add(
                f"evaluate/{site}",
                PartyId(site),
                "evaluate",
                inputs=(consensus[site],),
                covers=(site,),
            )
            for site in self.rows
        )
        return (draft.add("tally", self.topology.closer, "tally", gathers=votes, needs=1),)
