"""W3: a big model. 4 sites, 3 rounds, 25,000,000 parameters (100 MB), local training adds one."""

from benchmarks import w1
from benchmarks.workloads import W3

if __name__ == "__main__":
    w1.main(W3, "flower_w3", "nvflare_w3")
