"""W2 in Flower: 100 small sites that train an MLP; the client's step is the plain loop's own."""

from benchmarks import measure, plain
from benchmarks.peers import flower_client, flower_server
from benchmarks.workloads import W2


def run(size: measure.Size) -> measure.Outcome:
    """Run W2."""
    config = {"rows": size.rows, "ragged": size.ragged}
    initial = size.w2().initial
    return flower_server.federate(flower_client.mlp, initial, size, config=config, client_cpus=1)


if __name__ == "__main__":
    measure.main("W2", "Flower", run, plain.verify, sites=W2.sites, rounds=W2.rounds)
