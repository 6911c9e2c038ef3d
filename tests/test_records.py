"""Records, and how a site tells whether they are still the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cohortium.records import Part, SiteData


def records(change: Callable[[Part], Part] = lambda part: part, part: str = "train") -> SiteData:
    parts = {
        name: Part(np.full((4, 2), i, np.float32), np.arange(4, dtype=np.float32))
        for i, name in enumerate(("train", "validation", "test"))
    }
    return SiteData(**{**parts, part: change(parts[part])})


CHANGES: dict[str, Callable[[Part], Part]] = {
    "a value": lambda part: Part(part.x + np.eye(4, 2, dtype=np.float32), part.y),
    "a target": lambda part: Part(part.x, part.y[::-1]),
    "a row less": lambda part: Part(part.x[:3], part.y[:3]),
    "another shape": lambda part: Part(part.x.reshape(4, 2, 1), part.y),
    "another dtype": lambda part: Part(part.x.view(np.int32), part.y),
}


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_the_records_changes_their_digest(change: str, part: str) -> None:
    assert records().digest == records().digest
    assert records(CHANGES[change], part).digest != records().digest
