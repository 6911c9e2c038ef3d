"""Arms of a comparison: other ways of training on the same hospitals, each a study of its own.

An arm is one or several *variants*: a derived study and who trains in it. All run on the same
engine, by the same plan machinery, and are measured on the same held-out records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cohortium.study.study import Study

POOLED = "@pooled"
"""The party that trains on everyone's records in the pooled arm. No hospital can be named so."""


@dataclass(frozen=True)
class Variant:
    """One training of an arm.

    Attributes:
        name: the site that the model is named after; empty where there is only one model.
        study: what is run.
        trains: the sites that train; `(POOLED,)` trains on all records together.
    """

    name: str
    study: Study
    trains: tuple[str, ...]


@dataclass(frozen=True)
class Arm:
    """A way of training.

    Attributes:
        title: what readers see.
        why: one sentence that says what it is.
        variants: from a study and the sites that train in it.
    """

    title: str
    why: str
    variants: Callable[[Study, Sequence[str]], list[Variant]]


def _federated(study: Study, sites: Sequence[str]) -> list[Variant]:
    return [Variant("", study, tuple(sites))]


def _pooled(study: Study, _: Sequence[str]) -> list[Variant]:
    return [Variant("", _central(study), (POOLED,))]


def _single(study: Study, sites: Sequence[str]) -> list[Variant]:
    return [Variant(site, _central(study), (site,)) for site in sites]


def _leave_one_out(study: Study, sites: Sequence[str]) -> list[Variant]:
    study = study.override({"plan.hosts": {}})  # a party may go with the site that is left out
    return [Variant(site, study, tuple(s for s in sites if s != site)) for site in sites]


def _iil(study: Study, sites: Sequence[str]) -> list[Variant]:
    """Every site once, with all of its passes at a stretch (Sheller et al. 2020, Methods)."""
    work = {name: study.plan.rounds * amount for name, amount in _local(study).items()}
    return [Variant("", _sequential(study, rounds=1, local=work), tuple(sites))]


def _ciil(study: Study, sites: Sequence[str]) -> list[Variant]:
    """Every site again in every round (Sheller et al. 2020, Methods)."""
    return [
        Variant("", _sequential(study, rounds=study.plan.rounds, local=_local(study)), tuple(sites))
    ]


ARMS: dict[str, Arm] = {
    "pooled": Arm("Pooled", "all records in one place: what privacy forbids", _pooled),
    "federated": Arm("Federated", "the study itself: records stay, models travel", _federated),
    "single": Arm("Single site", "each hospital alone; the mean of their models", _single),
    "ensemble": Arm("Ensemble", "the single-site models' scores averaged", _single),
    "iil": Arm("Incremental (IIL)", "the model visits each hospital once", _iil),
    "ciil": Arm("Cyclic (CIIL)", "the model visits each hospital in every round", _ciil),
    "leave-one-out": Arm(
        "Leave one out", "federated without one hospital, for each of them", _leave_one_out
    ),
}


def _local(study: Study) -> dict[str, float]:
    return {} if study.plan.local is None else study.plan.local.given


def _central(study: Study) -> Study:
    """Return the study as one party trains it: by `compare.central`, or rounds x local work."""
    central = study.compare.central
    settings: dict[str, Any] = {**_alone(_local(study)), "plan.topology": "star"}
    if central.epochs is not None or central.steps is not None:
        work = {"epochs": central.epochs, "steps": central.steps}
        settings["plan.rounds"] = 1
        settings["plan.local"] = {name: n for name, n in work.items() if n is not None}
    if central.optimizer is not None:
        tables = study.canonical()
        settings["task.optimizer"] = tables["compare"]["central"]["optimizer"]
    return study.override(settings)


def _sequential(study: Study, *, rounds: int, local: dict[str, float]) -> Study:
    select = "best-local" if study.data.split.validation > 0 else "last"
    topology = {"kind": "cyclic", "order": "fixed", "select": select}
    settings = {"plan.topology": topology, "plan.rounds": rounds, "plan.local": local}
    return study.override({**_alone(local), **settings})


def _alone(local: dict[str, float]) -> dict[str, Any]:
    """Return the settings of a model that one party trains at a time, for so much local work."""
    deadline = {"deadline": 2 * local["seconds"]} if "seconds" in local else {}
    return {**_ALONE, "plan.participation": deadline}


_ALONE: dict[str, Any] = {
    "plan.algorithm": "plain",
    "plan.aggregation": "mean",
    "plan.server_optimizer": "fedavg",
    "plan.hosts": {},
    "plan.sites": None,
    "plan.evaluation_only": [],
    "acceptance": {},
}
"""What a federation needs and a model that one party trains at a time does not."""
