"""NVFLARE's simulator with its FedAvg recipe: what nvflare_w1, nvflare_w2 and nvflare_w3 share.

`FedAvgRecipe` and `SimEnv` as in its quick start, with its defaults: the training script runs in
the sites' worker processes, one for each site (fewer workers than sites would start a new process
for every task), and models travel as tensors. A round ends when the server logs that it has saved
the model.
"""

from __future__ import annotations

import re
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import nvflare
import torch
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.client.config import ExchangeFormat
from nvflare.recipe import SimEnv

from benchmarks import measure

SETTINGS = {
    "api": "FedAvgRecipe in SimEnv, Client API script in process",
    "threads": "one per site (default)",
    "exchange": "pytorch",
}
AGGREGATOR = "nvflare.private.fed.app.simulator.simulator "
ENDED, UNLOADED = "End persist model on server", "Deploy and start the Server App"


def federate(workload: str, model: dict[str, Any], size: measure.Size) -> measure.Outcome:
    """Run FedAvg over all sites for some rounds."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nvflare-") as folder:
        recipe = FedAvgRecipe(
            name="bench",
            model=model,
            min_clients=size.sites,
            num_rounds=size.rounds,
            train_script=str(Path(__file__).with_name("nvflare_client.py")),
            train_args=f"{workload} {size.rows} {int(size.ragged)}",
            server_expected_format=ExchangeFormat.PYTORCH,
        )
        recipe.run(SimEnv(num_clients=size.sites, workspace_root=folder))
        server = Path(folder, "bench", "server")
        log = (server / "log.txt").read_text()
        final = torch.load(next(server.rglob("FL_global_model.pt")))["model"]
    ends, unloaded = _moments(log, ENDED), _moments(log, UNLOADED)
    if len(ends) != size.rounds:
        raise SystemExit(f"NVFLARE finished {len(ends)} of {size.rounds} rounds")
    return measure.Outcome(
        version=nvflare.__version__,
        marks=[begin, *ends],
        final={name: value.numpy() for name, value in final.items()},
        settings=SETTINGS,
        aggregator=AGGREGATOR,
        unloaded=unloaded[0],
    )


def _moments(log: str, line: str) -> list[float]:
    """Return when the server logged a line, on the monotonic clock."""
    offset = time.time() - time.monotonic()
    found = re.findall(rf"^([\d-]+ [\d:]+,\d{{3}}) .*{line}", log, re.MULTILINE)
    times = (datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").astimezone() for at in found)
    return [at.timestamp() - offset for at in times]
