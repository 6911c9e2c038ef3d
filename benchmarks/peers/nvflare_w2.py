"""W2 in NVFLARE: the client's step is the plain loop's own; 10 sites, see the note in the JSON."""

from benchmarks import measure, plain
from benchmarks.peers import nvflare_server
from benchmarks.workloads import W2

NOTE = (
    "10 sites instead of 100: its simulator keeps a process with torch per site, or starts a new"
    " process for every task"
)


def run(size: measure.Size) -> measure.Outcome:
    """Run W2."""
    model = {"class_path": "benchmarks.peers.nvflare_models.Mlp", "args": {}}
    return nvflare_server.federate("W2", model, size)


if __name__ == "__main__":
    measure.main("W2", "NVFLARE", run, plain.verify, sites=10, rounds=W2.rounds, note=NOTE)
