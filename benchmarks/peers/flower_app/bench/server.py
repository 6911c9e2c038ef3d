"""What the SuperLink starts for a run: FedAvg over all sites; notes when every round ended."""

import json
import time
from pathlib import Path

import numpy as np
from benchmarks.workloads import W1
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def serve(grid: Grid, context: Context) -> None:
    """Run the rounds; leave their moments and the last model in the folder that was named."""
    config, marks = context.run_config, [time.monotonic()]

    def round_ended(server_round: int, _: ArrayRecord) -> None:
        if server_round:
            marks.append(time.monotonic())

    everybody = {"min_train_nodes": config["sites"], "min_available_nodes": config["sites"]}
    result = FedAvg(fraction_evaluate=0.0, **everybody).start(
        grid=grid,
        initial_arrays=ArrayRecord({k: Array(v) for k, v in W1.initial().items()}),
        num_rounds=config["rounds"],
        evaluate_fn=round_ended,
    )
    folder = Path(config["folder"])
    np.savez(folder / "final.npz", **{k: v.numpy() for k, v in result.arrays.items()})
    (folder / "marks.json").write_text(json.dumps(marks), "utf-8")
