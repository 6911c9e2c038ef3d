"""W4: a real federation on loopback. Hub and 2 nodes as processes, 1,000,000 parameters, 10 rounds.

Local training is one gradient step of a linear regression over one row: as cheap as adding 1.
"""

from benchmarks import measure
from benchmarks.deployment import Regression

W4 = Regression(features=999_999, rows=1)

if __name__ == "__main__":
    measure.main(
        "W4",
        "Cohortium",
        W4.run,
        W4.verify,
        sites=2,
        rounds=10,
        repeats=3,
        peers=("flower_w4",),
        own_network=True,
    )
