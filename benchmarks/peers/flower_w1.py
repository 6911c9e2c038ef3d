"""W1 in Flower: 10 sites, 10 rounds, 1,000,000 float32 parameters, local training adds one."""

from benchmarks import measure
from benchmarks.peers import flower_client, flower_server
from benchmarks.workloads import W1, AddOne


def main(workload: AddOne) -> None:
    """Measure an add-one workload."""
    measure.main(
        workload.name,
        "Flower",
        lambda size: flower_server.federate(flower_client.add_one, workload.initial, size),
        lambda size, final: workload.verify(size.rounds, final),
        sites=workload.sites,
        rounds=workload.rounds,
    )


if __name__ == "__main__":
    main(W1)
