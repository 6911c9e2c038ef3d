"""What every rule checks of an update before it counts, whatever the gate already checked."""

from __future__ import annotations

import math

from cohortium.aggregation.precision import check_dtypes
from cohortium.errors import RefusedError
from cohortium.types import Layout, Params


class Intake:
    """Takes updates in the plan's order and adds up their weights.

    Args:
        layout: the arrays that every update must have.

    Attributes:
        weight: the sum of the weights accepted so far, in their order.

    Raises:
        RefusedError: the layout has an array that cannot be aggregated.
    """

    def __init__(self, layout: Layout) -> None:
        check_dtypes(layout)
        self._layout, self._last, self.weight = layout, -1, 0.0

    def accept(self, index: int, params: Params, weight: float) -> None:
        """Count one update.

        Raises:
            RefusedError: the index does not increase, the arrays are not the declared ones, or the
                weight, or the sum of all weights, is not positive and finite.
        """
        if index <= self._last:
            raise RefusedError(
                f"update {index} came after update {self._last}; expected strictly increasing "
                "indices from 0. Add updates in the plan's order, each once"
            )
        if params.layout != self._layout:
            raise RefusedError(
                f"update {index} has other arrays than the model: {_difference(params.layout)}; "
                f"expected {_difference(self._layout)}. Exclude it before it is aggregated"
            )
        total = self.weight + weight
        if not (weight > 0 and math.isfinite(total)):
            raise RefusedError(
                f"update {index} has weight {weight}; expected a positive, finite number, also of "
                "the sum. Exclude it before it is aggregated"
            )
        self._last, self.weight = index, total

    def require_any(self) -> None:
        """Refuse to finish without an update.

        Raises:
            RefusedError: nothing was accepted.
        """
        if self._last < 0:
            raise RefusedError("no update to aggregate; expected at least one. Check the quorum")


def _difference(layout: Layout) -> str:
    shown = [f"{spec.name} {spec.dtype}{list(spec.shape)}" for spec in layout.specs[:3]]
    more = len(layout.specs) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
