"""What a study asks of this site, in plain words, and exactly what would leave it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cohortium.errors import StudyError
from cohortium.governance.grant import Grant
from cohortium.governance.roster import HUB
from cohortium.node.bundles import FILES
from cohortium.plan.plan import Member, Plan
from cohortium.study.bundle import Bundle
from cohortium.study.compile import compile_plan
from cohortium.types import VALIDATION, Layout, PartyId, SiteId

FLOAT64 = 8
FEW = 6
"""Names that are listed in a sentence."""


@dataclass(frozen=True)
class Audience:
    """Who gets what this site sends, as the study's plan says.

    Attributes:
        plan: the plan with the sites that are known so far; None where they are too few for it.
        site: this site's name in the study.
        hosts: which site carries which party; the hub carries the others.
    """

    plan: Plan | None
    site: str
    hosts: Mapping[str, str]

    @classmethod
    def of(cls, bundle: Bundle, *, site: str, others: Iterable[str]) -> Audience:
        """Return the audience of a site among others, as far as they are known."""
        study = bundle.study
        named = study.plan.sites or dict.fromkeys((*others, site))
        only = frozenset(study.plan.evaluation_only)
        members = [Member(SiteId(name), 1, trains=name not in only) for name in named]
        try:
            plan = compile_plan(bundle, members)
        except StudyError:
            plan = None
        return cls(plan, site, study.plan.hosts)

    def readers(self, step: str) -> tuple[PartyId, ...]:
        """Return the other parties that read a step of this site in round 1."""
        if self.plan is None:
            return ()
        found = self.plan.layout(max(self.plan.rounds, 1)).readers.get(f"{step}/{self.site}", ())
        return tuple(party for party in found if party != self.site)

    def host_of(self, party: str) -> str:
        """Return who carries a party."""
        if self.plan is not None and party in self.plan.rows:
            return party
        return self.hosts.get(party, HUB)


def who_sees(bundle: Bundle, audience: Audience, *, researcher: str) -> list[str]:
    """Return who can see what leaves this site, one sentence each."""
    if audience.plan is None:
        return [_TOO_FEW]
    return [
        *_model_readers(bundle, audience),
        *_statistics_readers(bundle, audience),
        f"The researcher {researcher} gets the final model, and of every round {_EACH_SITES}.",
        f"Every site in the study gets the consensus model of each round, and {_EACH_SITES}.",
    ]


_TOO_FEW = (
    "The sites that have approved so far are too few for this study's plan, so it cannot be said "
    "yet who reads what. Look again when others have approved."
)
_EACH_SITES = "each site's metrics, its number of training rows, and whether it took part"


def _model_readers(bundle: Bundle, audience: Audience) -> list[str]:
    because = "since this study has no secure sum"
    readers = audience.readers("train")
    hosts = {audience.host_of(party) for party in readers if party.startswith("@")}
    peers = [party for party in readers if not party.startswith("@")]
    said = []
    if HUB in hosts:
        said.append(
            "The aggregator runs at the hub: its operator can see your updates, " + because + "."
        )
    said += [
        f"An aggregator runs at {host}: its people can see your updates, {because}."
        for host in sorted(hosts - {HUB, audience.site})
    ]
    if peers:
        said.append(
            f"{_few(peers)} {'gets' if len(peers) == 1 else 'get'} your model as it leaves your "
            f"site, and can see it, {because}. In later rounds it may be other sites."
        )
    if not said and bundle.study.plan.rounds:
        said.append("Your site does not train in this study: no model of yours leaves it.")
    return said


def _statistics_readers(bundle: Bundle, audience: Audience) -> list[str]:
    if not bundle.study.task.evaluate:
        return []
    readers = audience.readers("evaluate")
    hosts = [_place(audience.host_of(party)) for party in readers]
    return [f"Your site's statistics are read at {_few(dict.fromkeys(hosts))}."] if hosts else []


def leaves_in_words(bundle: Bundle) -> list[str]:
    """Return what leaves a site in each round, one sentence each."""
    study = bundle.study
    said = []
    if study.plan.rounds:
        said.append(
            f"In each of at most {study.plan.rounds} rounds: the model after it was trained on "
            "your records, and the number of your training rows."
        )
    if study.task.evaluate:
        names = ", ".join(study.task.metric_names)
        every = study.plan.evaluate_every
        when = "In every round" if every == 1 else f"Every {every} rounds, and in the last one"
        said.append(f"{when}: sums over your test rows from which {names} are computed.")
    said.append(
        "Once, with your approval: the sizes of your training, validation and test parts, the "
        "name that you gave the dataset, a fingerprint that only you can make, and the versions "
        "of the software."
    )
    return said


def unprotected(bundle: Bundle) -> list[str]:
    """Return what this study leaves unprotected, one sentence each."""
    privacy = bundle.study.privacy
    said = []
    if privacy.secure_sum == "none":
        said.append("No secure sum: whoever joins the updates sees each of them.")
    if privacy.mechanism == "none":
        said.append(
            "No differential privacy: a model can remember single records, and who has it may "
            "find out whether somebody was among them."
        )
    if bundle.study.study.trust == "trusted":
        said.append("The study relies on an enforceable agreement between the sites.")
    return said


def code(bundle: Bundle, folder: Path) -> list[dict[str, Any]]:
    """Return the study's files: path in the study, SHA-256, bytes, and where to read them."""
    return [
        {
            "path": path,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "read": str(folder / FILES / path),
        }
        for path, content in bundle.files.items()
    ]


def leaves_in_numbers(
    bundle: Bundle, layout: Layout, statistics: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Return exactly what leaves in a round: arrays, statistics, and their bytes."""
    study = bundle.study
    prefixes = ("", VALIDATION) if study.data.split.validation > 0 else ("",)
    shapes = {p + name: shape for p in prefixes for name, shape in statistics.items()}
    shown = shapes if study.task.evaluate else {}
    return {
        "arrays": [asdict(spec) for spec in layout.specs],
        "array_bytes": layout.nbytes,
        "statistics": {name: list(shape) for name, shape in shown.items()},
        "statistics_bytes": FLOAT64 * sum(math.prod(shape) for shape in shown.values()),
        "rounds": study.plan.rounds,
        "evaluations": evaluations(bundle),
    }


def evaluations(bundle: Bundle) -> int:
    """Return in how many rounds at most models are measured."""
    study = bundle.study
    if not study.task.evaluate:
        return 0
    return math.ceil(max(study.plan.rounds, 1) / study.plan.evaluate_every)


def once(grant: Grant) -> dict[str, Any]:
    """Return what leaves once, with the approval."""
    return {
        "rows": asdict(grant.rows),
        "inputs": list(grant.inputs),
        "dataset": grant.dataset,
        "fingerprint": grant.fingerprint,
        "rounds": grant.rounds,
        "until": grant.until,
        "initial": grant.initial,
        "environment": dict(grant.environment),
    }


def _place(host: str) -> str:
    return "the hub" if host == HUB else host


def _few(names: Iterable[str]) -> str:
    listed: Sequence[str] = list(names)
    if len(listed) > FEW:
        return f"{', '.join(listed[:FEW])} and {len(listed) - FEW} more"
    return " and ".join([", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed)
