"""W3 with 130 sites and 10,000,000 parameters: the aggregator must not grow with the sites.

130 are three of the groups in which means are folded, so that every partial mean there is counts.
"""

from benchmarks import w1
from benchmarks.workloads import W3_MANY

if __name__ == "__main__":
    w1.main(W3_MANY)
