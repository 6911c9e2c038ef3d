"""W4 with 50 nodes on one machine and a small model: what the hub and a node take."""

from benchmarks import measure
from benchmarks.deployment import Regression

W4_MANY = Regression(features=1000, rows=20)

if __name__ == "__main__":
    measure.main(
        "W4",
        "Cohortium",
        W4_MANY.run,
        W4_MANY.verify,
        sites=50,
        rounds=5,
        own_network=True,
    )
