"""Local training as it is: the gradient of the site's loss and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cohortium.part import part

if TYPE_CHECKING:
    from torch import Tensor


@part
class Plain:
    """Train on the site's own loss, without any change (FedAvg's client, McMahan et al. 2017)."""

    def adjust(self, gradient: Tensor, parameters: Tensor, anchor: Tensor) -> None:
        """Leave the gradient as it is."""
