"""What a site does differently while it trains, and the table of such algorithms.

To add one: a file beside this one, and a line in `LOCAL_ALGORITHMS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cohortium.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


class LocalAlgorithm(Protocol):
    """A rule that changes a site's gradient before the optimiser uses it.

    Written over whole tensors, so that one definition serves one site's flat parameters, shape
    (P,), and a block of sites, shape (K, P) or any other equal shape.
    """

    def adjust(self, gradient: Tensor, parameters: Tensor, anchor: Tensor) -> None:
        """Change `gradient` in place.

        Args:
            gradient: of the loss at `parameters`.
            parameters: the site's current parameters, same shape; not to be changed.
            anchor: the parameters from which this round's training started, same shape.
        """


LOCAL_ALGORITHMS = Registry(
    "local algorithm",
    group="cohortium.local_algorithms",
    builtin={
        "plain": "cohortium.learning.plain:Plain",
        "fedprox": "cohortium.learning.fedprox:FedProx",
    },
)
