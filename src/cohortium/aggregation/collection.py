"""The fold of rules that must see every update before they can say anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cohortium.aggregation.intake import Intake
from cohortium.types import Params

Rule = Callable[[Params, Sequence[Params], Sequence[float]], Params]
"""(model that the round began with, updates in the plan's order, their weights) to aggregate."""


class Collection:
    """Keeps references to all updates, without a copy, and applies a rule to them at the end.

    Args:
        reference: the model that the round began with.
        rule: what makes one update of all.

    Raises:
        RefusedError: an array of `reference` has a dtype that cannot be aggregated.
    """

    def __init__(self, reference: Params, rule: Rule) -> None:
        self._intake, self._reference, self._rule = Intake(reference.layout), reference, rule
        self._updates: list[Params] = []
        self._weights: list[float] = []

    def add(self, index: int, params: Params, weight: float) -> None:
        self._intake.accept(index, params, weight)
        self._updates.append(params)
        self._weights.append(weight)

    def finish(self) -> tuple[Params, float]:
        self._intake.require_any()
        aggregate = self._rule(self._reference, self._updates, self._weights)
        return aggregate, self._intake.weight
