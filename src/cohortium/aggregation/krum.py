"""Krum and multi-Krum (Blanchard et al. 2017, "Machine Learning with Adversaries", Section 4).

Legend: K updates, f of them possibly Byzantine (sent by a site that is wrong or hostile).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from cohortium.aggregation.collection import Collection
from cohortium.aggregation.geometry import combine, gram, squared_distances
from cohortium.aggregation.rule import Fold
from cohortium.errors import RefusedError
from cohortium.part import part
from cohortium.types import Params

Byzantine = Annotated[
    int,
    Field(
        ge=0,
        description="How many wrong or hostile updates to withstand, f; it takes 2 f + 3.",
        examples=[1],
    ),
]


@part
class Krum:
    """The one update that is nearest to its neighbours: unchanged, whatever its weight.

    An update's score is the sum of the squared distances to its K - f - 2 nearest others, over all
    float arrays; the smallest wins, the first of equal ones. Weights do not count in it.

    >>> fold = Krum(byzantine=0).begin(Params.of({"w": np.zeros(1)}))
    >>> for index, value in enumerate((1.0, 1.2, 1.3, 1e9)):
    ...     fold.add(index, Params.of({"w": np.array([value])}), 10.0)
    >>> fold.finish()[0]["w"]
    array([1.2])
    """

    byzantine: Byzantine
    additive: ClassVar[bool] = False

    @property
    def needs(self) -> int:
        """The fewest updates among which it can choose."""
        return 2 * self.byzantine + 3

    def begin(self, reference: Params) -> Fold:
        """Start a choice among updates with the arrays of `reference`.

        `finish` raises `RefusedError` where fewer than 2 f + 3 updates came.

        Raises:
            RefusedError: an array of `reference` has a dtype that cannot be aggregated.
        """
        return Collection(reference, self._choose)

    def _choose(
        self, reference: Params, updates: Sequence[Params], _weights: Sequence[float]
    ) -> Params:
        return updates[_ranking(reference, updates, self.byzantine)[0]]


@part
class MultiKrum:
    """The plain mean of the updates with the best Krum scores.

    Weights do not count in it, so that no site gains influence by the weight that it claims.

    >>> fold = MultiKrum(byzantine=0, keep=2).begin(Params.of({"w": np.zeros(1)}))
    >>> for index, value in enumerate((1.0, 1.2, 1.3, 1e9)):
    ...     fold.add(index, Params.of({"w": np.array([value])}), 10.0)
    >>> fold.finish()[0]["w"]
    array([1.25])
    """

    byzantine: Byzantine
    keep: Annotated[
        int | None,
        Field(
            ge=1,
            description="How many updates to average; not given: the most for which the rule "
            "withstands f, which is the number of updates less f less 2.",
        ),
    ] = None
    additive: ClassVar[bool] = False

    @property
    def needs(self) -> int:
        """The fewest updates among which it can choose."""
        return max(2 * self.byzantine + 3, (self.keep or 1) + self.byzantine + 2)

    def begin(self, reference: Params) -> Fold:
        """Start a choice among updates with the arrays of `reference`.

        `finish` raises `RefusedError` where fewer than 2 f + 3 updates came, or fewer than
        keep + f + 2.

        Raises:
            RefusedError: an array of `reference` has a dtype that cannot be aggregated.
        """
        return Collection(reference, self._choose)

    def _choose(
        self, reference: Params, updates: Sequence[Params], _weights: Sequence[float]
    ) -> Params:
        ranking = _ranking(reference, updates, self.byzantine)
        keep = self._kept(len(updates))
        chosen = sorted(ranking[:keep])
        return combine([updates[place] for place in chosen], [1.0 / keep] * keep)

    def _kept(self, count: int) -> int:
        most = count - self.byzantine - 2
        if self.keep is not None and self.keep > most:
            raise RefusedError(
                f"multi-Krum got {count} updates; expected at least "
                f"{self.keep + self.byzantine + 2} (keep + byzantine + 2) with "
                f"keep = {self.keep}, byzantine = {self.byzantine}. "
                f"Raise the quorum, or set keep to at most {most}"
            )
        return most if self.keep is None else self.keep


def _ranking(reference: Params, updates: Sequence[Params], byzantine: int) -> list[int]:
    count, needed = len(updates), 2 * byzantine + 3
    if count < needed:
        raise RefusedError(
            f"Krum got {count} updates; expected at least {needed} (2 x byzantine + 3) with "
            f"byzantine = {byzantine}. Raise the quorum to {needed}, or lower byzantine"
        )
    products_KK = gram(reference, updates)
    ordered_KK = np.sort(squared_distances(products_KK), axis=1)
    scores_K = ordered_KK[:, 1 : count - byzantine - 1].sum(axis=1)  # [:, 0] is oneself
    return [int(place) for place in np.argsort(scores_K, kind="stable")]
