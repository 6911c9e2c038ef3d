"""W1 in NVFLARE: 10 sites, 10 rounds, 1,000,000 float32 parameters, local training adds one."""

from benchmarks import measure
from benchmarks.peers import nvflare_server
from benchmarks.workloads import W1, AddOne


def main(workload: AddOne) -> None:
    """Measure an add-one workload."""
    model = {
        "class_path": "benchmarks.peers.nvflare_models.AddOne",
        "args": {"workload": workload.name},
    }
    measure.main(
        workload.name,
        "NVFLARE",
        lambda size: nvflare_server.federate(workload.name, model, size),
        lambda size, final: workload.verify(size.rounds, final),
        sites=workload.sites,
        rounds=workload.rounds,
    )


if __name__ == "__main__":
    main(W1)
