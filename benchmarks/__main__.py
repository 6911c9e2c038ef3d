"""Run every workload at its small size, one JSON line each: `python -m benchmarks [NAME...]`."""

import subprocess
import sys

from benchmarks.processes import ROOT

WORKLOADS = ("w1", "w2", "w2_sequential", "w3", "w3_many", "w4", "w7", "w8")

if __name__ == "__main__":
    codes = [
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, check=False)
        for name in sys.argv[1:] or WORKLOADS
    ]
    sys.exit(max(code.returncode != 0 for code in codes))
