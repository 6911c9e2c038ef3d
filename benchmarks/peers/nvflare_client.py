"""What runs at NVFLARE's clients: a script with its Client API, in the site's worker process.

Arguments: the workload's name, W2's rows per site, and whether they are ragged (0 or 1).
"""

import sys

import nvflare.client as flare
import torch
from nvflare.apis.dxo import MetaKey

from benchmarks import plain
from benchmarks.workloads import SmallSites


def add_one(received: flare.FLModel) -> flare.FLModel:
    """Train for W1 and W3: return the model plus one."""
    return reply({name: value + 1 for name, value in received.params.items()}, 1)


class Mlp:
    """Training for W2, with the plain loop's own training."""

    def __init__(self, rows: int, *, ragged: bool) -> None:
        torch.set_num_threads(1)
        self.workload = SmallSites(rows=rows, ragged=ragged)
        self.site = int(flare.get_site_name().removeprefix("site-")) - 1
        self.data = plain.tensors(self.workload.site(self.site))
        self.model = plain.mlp(self.workload)

    def __call__(self, received: flare.FLModel) -> flare.FLModel:
        """Train one round."""
        workload, rows = self.workload, len(self.data[1])
        self.model.load_state_dict(received.params)
        orders = workload.shuffled(self.site, received.current_round + 1, rows)
        plain.train(self.model, self.data, orders, lr=workload.lr, batch=workload.batch)
        return reply(self.model.state_dict(), rows)


def reply(params: dict[str, torch.Tensor], rows: int) -> flare.FLModel:
    """Return a result that counts as its number of rows."""
    return flare.FLModel(params=params, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: rows})


def main() -> None:
    """Serve training tasks until the server has no more."""
    flare.init()
    name, rows, ragged = sys.argv[1:]
    train = Mlp(int(rows), ragged=bool(int(ragged))) if name == "W2" else add_one
    while flare.is_running():
        flare.send(train(flare.receive()))


if __name__ == "__main__":
    main()
