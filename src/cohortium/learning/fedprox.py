"""FedProx: hold a site near the model that the round started from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cohortium.part import part

if TYPE_CHECKING:
    from torch import Tensor


@part
class FedProx:
    """Add mu/2 |w - w_round|^2 to the site's loss.

    Li et al. 2020, "Federated Optimization in Heterogeneous Networks", equation 2.
    """

    mu: Annotated[
        float,
        Field(
            ge=0, description="Strength of the pull towards the round's first model; 0 is plain."
        ),
    ]

    def adjust(self, gradient: Tensor, parameters: Tensor, anchor: Tensor) -> None:
        """Add mu (w - w_round) to the gradient, in place."""
        gradient.add_(parameters - anchor, alpha=self.mu)
