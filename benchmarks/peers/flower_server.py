"""Flower's simulation runtime with FedAvg: what flower_w1, flower_w2 and flower_w3 share.

`run_simulation` is the shortest way into the runtime that `flwr run` uses as well (which adds a
local SuperLink, an app archive and a process around it), so it is Flower at its fastest. Evaluation
is off; the strategy's callback only notes when a round ended. `client_cpus` is Flower's setting for
how much of the machine a client takes, so how many Ray actors there are: its default of 2 (one
actor on two cores) spends the least CPU time in W1 and W3, 1 (two actors) is the faster one in W2.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flwr
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks import measure
from benchmarks.workloads import Arrays

SETTINGS = {
    "api": "run_simulation, ServerApp with FedAvg, ClientApp with messages",
    "backend": "ray",
    "evaluation": "off",
    "telemetry": "off",
}


def federate(
    client_app: ClientApp,
    initial: Callable[[], Arrays],
    size: measure.Size,
    *,
    config: dict[str, Any] | None = None,
    client_cpus: int = 2,
) -> measure.Outcome:
    """Run FedAvg over all sites for some rounds."""
    marks, final = [time.monotonic()], {}
    app = ServerApp()

    def round_ended(server_round: int, _: ArrayRecord) -> None:
        if server_round:
            marks.append(time.monotonic())

    @app.main()
    def serve(grid: Grid, context: Context) -> None:  # noqa: ARG001
        everybody = {"min_train_nodes": size.sites, "min_available_nodes": size.sites}
        result = FedAvg(fraction_evaluate=0.0, **everybody).start(
            grid=grid,
            initial_arrays=ArrayRecord({k: Array(v) for k, v in initial().items()}),
            num_rounds=size.rounds,
            train_config=ConfigRecord(config or {}),
            evaluate_fn=round_ended,
        )
        final.update({name: array.numpy() for name, array in result.arrays.items()})

    _simulate(app, client_app, sites=size.sites, client_cpus=client_cpus)
    if len(marks) != size.rounds + 1 or not final:
        raise SystemExit(f"Flower finished {len(marks) - 1} of {size.rounds} rounds")
    return measure.Outcome(
        flwr.__version__, marks, final, SETTINGS | {"client_num_cpus": client_cpus}
    )


def _simulate(
    server_app: ServerApp, client_app: ClientApp, *, sites: int, client_cpus: int
) -> None:
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        _stay_offline(Path(folder))
        run_simulation(
            server_app=server_app,
            client_app=client_app,
            num_supernodes=sites,
            backend_config={
                "client_resources": {"num_cpus": client_cpus, "num_gpus": 0.0},
                "init_args": {"num_cpus": 2, "_temp_dir": folder},
            },
        )


def _stay_offline(home: Path) -> None:
    """Make a home of its own for Flower and Ray.

    Without usage statistics Ray still asks three clouds whether it runs there, unless its home has
    a cluster file.
    """
    (home / "ray_bootstrap_config.yaml").write_text("{}")
    os.environ |= {"HOME": str(home), "FLWR_HOME": str(home)}
