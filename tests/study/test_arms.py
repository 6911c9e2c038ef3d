"""Arms of a study whose sites train for a time, and whose parties have hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cohortium.study.arms import ARMS
from cohortium.study.study import Study

Change = Callable[[Mapping[str, Any]], dict[str, Any]]


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_of_timed_work_is_a_valid_study(changed: Change, arm: str) -> None:
    settings = {"plan.local": {"seconds": 700}, "plan.participation.deadline": 900}
    study = Study.from_dict(changed(settings))
    for variant in ARMS[arm].variants(study, ("a", "b")):
        local = variant.study.plan.local
        assert local is not None
        assert local.given == {"seconds": 2100.0 if arm == "iil" else 700.0}


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "federated"])
def test_hosts_are_the_federations_own(changed: Change, arm: str) -> None:
    study = Study.from_dict(changed({"plan.hosts": {"@aggregator": "a"}}))
    for variant in ARMS[arm].variants(study, ("a", "b")):
        assert variant.study.plan.hosts == {}
