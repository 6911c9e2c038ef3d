"""W3 in NVFLARE: 4 sites, 3 rounds, 25,000,000 float32 parameters, local training adds one."""

from benchmarks.peers.nvflare_w1 import main
from benchmarks.workloads import W3

if __name__ == "__main__":
    main(W3)
