"""Run every peer at its small size: one JSON line each. `python -m benchmarks.peers [NAME...]`."""

import json
import sys

from benchmarks import measure

PEERS = (
    "flower_w1",
    "flower_w2",
    "flower_w3",
    "flower_w4",
    "nvflare_w1",
    "nvflare_w2",
    "nvflare_w3",
    "pfl_w2",
)

if __name__ == "__main__":
    for name in sys.argv[1:] or PEERS:
        print(json.dumps(measure.peer(name)), flush=True)
