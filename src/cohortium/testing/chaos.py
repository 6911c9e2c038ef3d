"""Many seeded histories of faults, each beside the undisturbed run of the same federation.

    python -m cohortium.testing.chaos --histories 100000 --seed 0 --jobs 2
    python -m cohortium.testing.chaos --seed 0 --history 4711

The second line goes through one history again, and tells every step of it.

A history in which nobody was absent by a deadline or by an order must end with the same bits,
round by round. In every history all members end in the same State; each State follows from the one
before; every site that was to train is in the roster or named; who is excluded is in no later
roster; every member holds the model that its State names; nobody waits for a deadline where
something else will settle the step; and whatever `faults.run` checks.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from cohortium.aggregation.median import Median
from cohortium.aggregation.server_optimizer import FedAdam, FedAvg, FedAvgM, ServerOptimizer
from cohortium.learning.task import LocalTask, Trained, TrainJob, Work
from cohortium.plan.cyclic import Cyclic
from cohortium.plan.gossip import Gossip
from cohortium.plan.hybrid import Hybrid, SubFederation
from cohortium.plan.plan import State
from cohortium.plan.star import Star
from cohortium.plan.topology import Topology
from cohortium.plan.tree import Tree
from cohortium.records import Part
from cohortium.runtime.closing import doubt
from cohortium.runtime.engine import Federation
from cohortium.runtime.events import Away, Back, Control, Extended, Paused, Resumed, Stopped
from cohortium.testing import faults
from cohortium.testing.faults import Cut, Faults, History
from cohortium.testing.federations import federation
from cohortium.types import Layout, Params, PartyId, SiteId, Statistics

FEDERATIONS = 192
"""How many federations the histories are drawn for."""

LONG = 8
"""Rounds of the longest of them."""

CHUNK = 100
"""Histories that a process examines before it reports."""

TOLD = 5
"""Failed histories that are told before it stops."""

REMEMBERED = 50_000
"""Results of training and evaluation that a process keeps."""

ROWS = {"a": 30, "b": 12, "c": 55, "d": 8, "e": 21}


# -- federations -----------------------------------------------------------------------------------


def _sub(name: str, topology: Any, sites: str) -> SubFederation:
    return SubFederation(name=name, topology=topology, sites=tuple(sites))


def _halves(outer: Any, first: Any, second: Any) -> Callable[[str], Topology]:
    def make(sites: str) -> Topology:
        half = len(sites) // 2
        groups = (_sub("g", first, sites[:half]), _sub("h", second, sites[half:]))
        return Hybrid(outer=outer, groups=groups)

    return make


def _regions(sites: str) -> Topology:
    south: Any = list(sites[2:])
    if len(sites) > 3:
        south = {"x": list(sites[2:3]), "y": list(sites[3:])}
    return Tree(groups={"north": list(sites[:2]), "south": south})


COMPLETE = {"kind": "gossip", "graph": "complete"}
SAMPLING: dict[str, Callable[[str], Topology]] = {
    "star": lambda _: Star(),
    "tree": lambda _: Tree(branching=2),
    "tree by name": _regions,
    "cycle": lambda _: Cyclic(),
    "cycle, best local": lambda _: Cyclic(order="random", select="best-local"),
    "star of cycles": _halves("star", "cyclic", "cyclic"),
    "cycle of stars": _halves("cyclic", "star", "star"),
}
PEERS: dict[str, Callable[[str], Topology]] = {
    "ring": lambda _: Gossip(),
    "ring, two exchanges": lambda _: Gossip(exchanges=2),
    "complete": lambda _: Gossip(graph="complete"),
    "gossip of stars": _halves(COMPLETE, "star", "star"),
    "star of gossips": _halves("star", COMPLETE, "gossip"),
    "gossip of gossips": _halves("gossip", COMPLETE, COMPLETE),
    "gossip of a star and a cycle": _halves("gossip", "star", "cyclic"),
}
OPTIMIZERS: tuple[ServerOptimizer, ...] = (FedAvg(), FedAvg(), FedAvgM(), FedAdam(lr=0.1))


@lru_cache(maxsize=FEDERATIONS)
def federation_of(index: int) -> tuple[str, Federation, History]:
    """Return a federation, in words and ready to run, and its undisturbed history."""
    draw = random.Random(f"federation {index}")  # noqa: S311 - not a secret
    names = [*SAMPLING, *PEERS]
    name = names[index % len(names)]
    sites = "abcde"[: draw.choice((3, 3, 4, 5))]
    topology = (SAMPLING | PEERS)[name](sites)
    settings = _settings(draw, sites, samples=name in SAMPLING)
    made = federation(topology, {site: ROWS[site] for site in sites}, **settings)
    training = replace(made.training, task=Remembering(made.training.task))
    made = replace(made, training=training)
    return f"{name} of {sites}, {settings}", made, faults.run(made, Faults(shuffle=False))


def _settings(draw: random.Random, sites: str, *, samples: bool) -> dict[str, Any]:
    needed = draw.choice((None, None, 1, 2))
    settings: dict[str, Any] = {
        "rounds": draw.choice((1, 2, 3, 6)),
        "seed": draw.randrange(8),
        "features": 2,
        "work": Work(steps=draw.choice((1, 3))),
        "quorum": needed,
        "server_optimizer": draw.choice(OPTIMIZERS),
        "on_shortfall": draw.choice(("stop", "skip", "wait")),
        "evaluate_every": draw.choice((0, 1, 1, 2)),
    }
    if samples and draw.random() < 0.4:  # who is not sampled may fall rounds behind
        settings |= {"fraction": 0.5, "rounds": draw.choice((2, 4, 6))}
        settings |= {"evaluate_every": draw.choice((0, 0, 1))}
    elif samples and draw.random() < 0.3:
        settings |= {"evaluation_only": (sites[-1],)}
    if draw.random() < 0.15:  # the rounds go on, whoever is away
        settings |= {"rounds": LONG, "quorum": 1, "on_shortfall": "skip", "evaluate_every": 0}
    if draw.random() < 0.15:
        settings |= {"patience": 1, "accept_below": 2.0}
    if draw.random() < 0.15 and samples:
        settings |= {"aggregator": Median()}
    return settings


class Remembering:
    """A task that keeps what it has computed: the same trainings come again in every history."""

    def __init__(self, task: LocalTask) -> None:
        self._task = task
        self._known: dict[tuple[Any, ...], Any] = {}

    @property
    def layout(self) -> Layout:
        return self._task.layout

    @property
    def statistics(self) -> Mapping[str, tuple[int, ...]]:
        return self._task.statistics

    @property
    def metrics(self) -> tuple[str, ...]:
        return self._task.metrics

    def initial(self, seed: int) -> Params:
        """Return the wrapped task's."""
        return self._task.initial(seed)

    def train(self, jobs: Sequence[TrainJob]) -> list[Trained]:
        """Train, or remember."""
        return [self._train(job) for job in jobs]

    def block_size(self, job: TrainJob) -> int:
        """Return the wrapped task's."""
        return self._task.block_size(job)

    def evaluate(self, params: Params, data: Part) -> Statistics:
        """Evaluate, or remember."""
        key = (params.digest, id(data))
        found: Statistics = self._remember(key, lambda: self._task.evaluate(params, data))
        return found

    def value(self, metric: str, statistics: Statistics) -> float | None:
        """Return the wrapped task's."""
        return self._task.value(metric, statistics)

    def _train(self, job: TrainJob) -> Trained:
        key = (job.site, job.params.digest, job.cursor)
        found: Trained = self._remember(key, lambda: self._task.train([job])[0])
        return found

    def _remember(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self._known:
            if len(self._known) >= REMEMBERED // FEDERATIONS:
                self._known.clear()
            self._known[key] = make()
        return self._known[key]


# -- histories -------------------------------------------------------------------------------------


def draw_faults(draw: random.Random, made: Federation, calm: History) -> Faults:
    """Return what goes wrong in a history of a federation."""
    parties = made.agreement.plan.parties
    steps = 2 * sum(calm.events.values())
    cuts = [
        Cut(draw.choice(parties), begin, begin + draw.randrange(steps))
        for begin in (draw.randrange(steps) for _ in range(draw.choice((0, 0, 1, 2))))
    ]
    late = draw.choice((0.0, 0.0, 0.0, 0.01, 0.05))
    if draw.random() < (0.6 if made.agreement.plan.rounds == LONG else 0.1):  # gone for rounds
        begin = draw.randrange(steps // 4)
        cuts, late = [Cut(draw.choice(parties), begin, begin + steps)], 0.02
    silent = {(draw.choice(parties), draw.randint(1, 3))} if draw.random() < 0.1 else set()
    return Faults(
        seed=draw.getrandbits(32),
        shuffle=draw.random() < 0.95,
        duplicates=draw.choice((0.0, 0.0, 0.2)),
        kills=draw.choice((0.0, 0.02, 0.1, 0.3)),
        blackouts=draw.choice((0.0, 0.0, 0.0, 0.02)),
        rollbacks=draw.choice((0.0, 0.0, 0.0, 0.5)),
        silent=frozenset(silent),
        cuts=tuple(cuts),
        late=late,
        skew=draw.choice((0.0, 300.0)),
        tick=draw.choice((0.0, 1.0, 10.0)),
        controls=_orders(draw, parties, steps=steps) if draw.random() < 0.5 else (),
    )


def _orders(
    draw: random.Random, parties: Sequence[PartyId], *, steps: int
) -> tuple[tuple[int, Control], ...]:
    orders: list[tuple[int, Control]] = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        begin, later = sorted(draw.randrange(steps) for _ in range(2))
        party, kind = draw.choice(parties), draw.random()
        if kind < 0.35:
            orders.append((begin, Away(party, "excluded by the coordinator", 0.0)))
            orders += [(later, Back(party, 0.0))] if draw.random() < 0.6 else []
        elif kind < 0.65:
            orders.append((begin, Extended(draw.uniform(1.0, 900.0), 0.0)))
        elif kind < 0.95:
            orders += [(begin, Paused(0.0)), (later, Resumed(0.0))]
        else:
            orders.append((begin, Stopped("stopped by the coordinator", 0.0)))
    return tuple(sorted(orders, key=lambda order: order[0]))


@dataclass(frozen=True)
class Verdict:
    """What came of a history: `problem` is empty where everything held."""

    number: int
    problem: str
    counts: Counter[str]


def examine(seed: int, number: int, *, trace: Callable[[str], None] | None = None) -> Verdict:
    """Run one history and say what does not hold.

    Args:
        seed: of all histories.
        number: of this one.
        trace: is told of every step of it.
    """
    draw = random.Random(f"{seed}/{number}")  # noqa: S311 - not a secret
    name, made, calm = federation_of(draw.randrange(FEDERATIONS))
    wrong = draw_faults(draw, made, calm)
    if trace is not None:
        trace(f"{name}\n{wrong}")
    counts: Counter[str] = Counter()
    try:
        found = faults.run(made, wrong, trace=trace)
        problem = next(_problems(made, wrong, found, calm), "")
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is what is looked for
        return Verdict(number, f"{type(error).__name__}: {error}", counts)
    counts["deaths"] = sum(found.deaths.values())
    counts["events"] = sum(found.events.values())
    counts["noticed"] = found.noticed
    counts["same"] = int(_undisturbed(wrong, found))
    return Verdict(number, problem, counts)


def _undisturbed(wrong: Faults, found: History) -> bool:
    """Tell whether nobody was absent by a deadline or by an order."""
    orders = {type(order) for _, order in wrong.controls}
    return not found.timeouts and not orders & {Away, Stopped}


def _problems(made: Federation, wrong: Faults, found: History, calm: History) -> Iterator[str]:
    ends = {actor.state.digest for actor in found.actors.values()}
    states = list(found.states.values())
    if ends != {states[-1].digest}:
        yield "not all members end in the last State"
    if _undisturbed(wrong, found):
        yield from _differences(found, calm)
    if found.timeouts and not (wrong.late or wrong.silent):
        yield f"{found.timeouts} deadlines passed before somebody stopped waiting"
    before = State(made.agreement.plan.study)
    for state in states:
        why = doubt(made.agreement, before, state)
        if why:
            yield f"state {state.round}.{state.attempt} cannot be believed: {why}"
        if state.reason != "stopped by the coordinator":
            yield from _unnamed(made, before, state)
        before = state
    untold = found.states.keys() - found.told
    if untold:
        yield f"nobody was told how the rounds {sorted(untold)} closed"
    yield from _included(wrong, found)
    yield from _models(made, found, states)


def _differences(found: History, calm: History) -> Iterator[str]:
    for key, state in calm.states.items():
        if key not in found.states or found.states[key].digest != state.digest:
            yield f"state {key} is another than that of the undisturbed run"
    if len(found.states) != len(calm.states):
        yield "it has more States than the undisturbed run"
    for party, actor in calm.actors.items():
        if found.actors[party].model.digest != actor.model.digest:
            yield f"{party} ends with another model than in the undisturbed run"
        if _kept(found.actors[party].slots) != _kept(actor.slots):
            yield f"what {party} keeps is not what it keeps in the undisturbed run"


def _kept(slots: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {key: params.digest for key, params in slot.items()}
        if isinstance(slot, Mapping)
        else slot
        for name, slot in slots.items()
    }


def _unnamed(made: Federation, before: State, state: State) -> Iterator[str]:
    """Every site that was to train is in the roster or named; nobody is both in and absent.

    Of a round that does not count, only those who are to blame are named.
    """
    plan = made.agreement.plan
    trains = {step.party for step in plan.round(before).steps if step.op == "train"}
    named = {(note.site, note.status) for note in state.notes}
    told = {site for site, _ in named}.union(state.roster)
    if not state.roster and not trains & told:
        yield f"nobody is named in state {state.round}.{state.attempt}, which does not count"
    for site in plan.trainers:
        if state.roster and site not in told:
            yield f"{site} is lost from state {state.round}.{state.attempt}"
        if (PartyId(site) in trains) == ((site, "not sampled") in named):
            yield f"{site} is wrongly told to be sampled, or not, in round {before.round + 1}"
    for site in state.roster:
        if PartyId(site) not in trains or (site, "absent") in named:
            yield f"{site} is in the roster of round {state.round}, and was not there"


def _included(wrong: Faults, found: History) -> Iterator[str]:
    """Who is excluded is in no roster of a round that began after all had heard of it."""
    for place, (_, order) in enumerate(wrong.controls):
        rest = wrong.controls[place + 1 :]
        if not isinstance(order, Away) or any(
            isinstance(later, Back) and later.party == order.party for _, later in rest
        ):
            continue
        heard = [found.heard.get((party, place)) for party in found.actors]
        known = [number for number in heard if number is not None]
        if len(known) < len(heard):
            continue
        for state in found.states.values():
            if state.round > max(known) and SiteId(order.party) in state.included:
                yield f"{order.party} is in round {state.round}, and was excluded"


def _models(made: Federation, found: History, states: Sequence[State]) -> Iterator[str]:
    """Every member holds the model that the last State that counts names for it."""
    counted = next((state for state in reversed(states) if state.roster), None)
    if counted is None:
        return
    holders = made.agreement.plan.layout(counted.round).holder_of
    for party, actor in found.actors.items():
        digest = counted.models.get(holders.get(party, PartyId("")))
        if digest is not None and actor.model.digest != digest:
            yield f"{party} does not hold the model of round {counted.round}"


# -- the command -----------------------------------------------------------------------------------


def _examine_chunk(task: tuple[int, range]) -> list[Verdict]:
    seed, numbers = task
    return [examine(seed, number) for number in numbers]


def search(seed: int, histories: int, *, jobs: int = 1) -> Iterator[list[Verdict]]:
    """Examine histories, in processes of their own where there are several jobs."""
    chunks = (
        (seed, range(begin, min(begin + CHUNK, histories))) for begin in range(0, histories, CHUNK)
    )
    if jobs == 1:
        yield from map(_examine_chunk, chunks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(_examine_chunk, chunks)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 1 where something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m cohortium.testing.chaos")
    parser.add_argument("--histories", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of all histories (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--history", type=int, help="go through this one only, step by step")
    options = parser.parse_args(arguments)
    if options.history is not None:
        return _replay(options.seed, options.history)
    return _search(options.seed, options.histories, jobs=options.jobs)


def _replay(seed: int, number: int) -> int:
    verdict = examine(seed, number, trace=_say)
    _say(verdict.problem or "Everything held.")
    return 1 if verdict.problem else 0


def _search(seed: int, histories: int, *, jobs: int) -> int:
    begun = time.monotonic()
    told = begun
    done, counts = 0, Counter[str]()
    failed: list[Verdict] = []
    for verdicts in search(seed, histories, jobs=jobs):
        done += len(verdicts)
        for verdict in verdicts:
            counts.update(verdict.counts)
        for verdict in itertools.islice((v for v in verdicts if v.problem), TOLD - len(failed)):
            failed.append(verdict)
            _say(
                f"history {verdict.number}: {verdict.problem}\n  step by step: "
                f"python -m cohortium.testing.chaos --seed {seed} --history {verdict.number}"
            )
        if len(failed) == TOLD:
            break
        if time.monotonic() - told > 10:
            told = time.monotonic()
            _say(f"{done:,} of {histories:,} histories, {told - begun:.0f} s")
    _say(
        f"{done:,} histories of seed {seed}: {len(failed)} failed; {counts['same']:,} had to be, "
        f"and are, the same to the bit as undisturbed. {counts['events']:,} events, "
        f"{counts['deaths']:,} deaths, {counts['noticed']:,} old journals noticed, "
        f"{time.monotonic() - begun:.0f} s"
    )
    return 1 if failed else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
