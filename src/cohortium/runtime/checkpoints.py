"""What a simulation keeps on disk, so that it goes on after a kill to the same bits.

All parties of a simulation share one process and so one fate: nothing of a round in progress could
have reached a party that lives on. So one consistent snapshot of all of them between two rounds is
their journal, instead of every event of each (ADR 0004). It is taken between two rounds, at most
every few seconds: a resumed run does again what came after the last one, to the same bits. A file
is complete or absent: it is written beside its final name, forced to disk, then renamed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cohortium.errors import ArgumentError, Problem
from cohortium.learning.task import Cursor
from cohortium.plan.plan import State
from cohortium.runtime.actor import Snapshot
from cohortium.runtime.engine import RoundLog
from cohortium.types import ArraySpec, Layout, Params, PartyId, SiteId

JOURNAL = "journal"
"""The folder inside that of the results that holds a folder of checkpoints for each run."""

Resume = tuple[dict[PartyId, Snapshot], tuple[RoundLog, ...]]


def are_kept(out: Path) -> bool:
    """Tell whether a run left checkpoints in a folder for results."""
    return any((out / JOURNAL).glob("*/checkpoint.json"))


def forget(out: Path) -> None:
    """Drop the checkpoints in a folder for results, and nothing else that may lie there."""
    for folder in (out / JOURNAL).glob("*/"):
        FolderCheckpoints(folder, {}).clear()
        if not any(folder.iterdir()):
            folder.rmdir()
    if (out / JOURNAL).is_dir() and not any((out / JOURNAL).iterdir()):
        (out / JOURNAL).rmdir()


class FolderCheckpoints:
    """The checkpoints of one run in a folder of its own.

    Args:
        folder: made when the first checkpoint is written.
        run: what identifies the run: digest, seed, records, engine, versions. A checkpoint of
            another run is refused.
        every: least seconds between two checkpoints.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], *, every: float = 2.0) -> None:
        self.folder, self.run, self.every = folder, dict(run), every
        self._rounds, self._logs = 0, list[RoundLog]()
        self._saved = time.monotonic()

    def save(self, snapshots: Callable[[], Mapping[PartyId, Snapshot]], log: RoundLog) -> None:
        """Keep a snapshot of all parties, if the last one is old enough.

        The one before is dropped once this one is on disk.
        """
        self._logs.append(replace(log, evaluation=None))
        if time.monotonic() - self._saved < self.every:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "rounds.jsonl").open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(_log(entry)) + "\n" for entry in self._logs)
            lines.flush()
            os.fsync(lines.fileno())
        self._rounds += len(self._logs)
        self._logs.clear()
        self._write(snapshots(), log)
        self._saved = time.monotonic()

    def _write(self, snapshots: Mapping[PartyId, Snapshot], log: RoundLog) -> None:
        arrays = _Arrays()
        parties = {party: _snapshot(s, arrays) for party, s in snapshots.items()}
        states = {s.state.digest: s.state for s in snapshots.values()}
        evaluation = {
            site: {name: arrays.keep(np.asarray(values)) for name, values in statistics.items()}
            for site, statistics in (log.evaluation or {}).items()
        }
        name = f"round-{self._rounds}.safetensors"
        _replace(self.folder / name, lambda path: save_file(arrays.arrays, path))
        table = {
            "run": self.run,
            "rounds": self._rounds,
            "arrays": name,
            "layouts": arrays.layouts,
            "states": {digest: state.to_json() for digest, state in states.items()},
            "parties": parties,
            "evaluation": evaluation,
        }
        text = json.dumps(table)
        _replace(self.folder / "checkpoint.json", lambda path: path.write_text(text, "utf-8"))
        for old in self.folder.glob("round-*.safetensors"):
            if old.name != name:
                old.unlink()

    def clear(self) -> None:
        """Drop what an earlier run kept here."""
        for pattern in ("checkpoint.json", "rounds.jsonl", "round-*.safetensors"):
            for path in (*self.folder.glob(pattern), *self.folder.glob(f".{pattern}.part")):
                path.unlink()

    def load(self) -> Resume | None:
        """Return where to go on, or None where nothing was kept.

        Raises:
            ArgumentError: the folder holds another run, or cannot be read.
        """
        path = self.folder / "checkpoint.json"
        if not path.exists():
            self.clear()  # what a run left that was killed before its first checkpoint
            return None
        try:
            table = json.loads(path.read_text("utf-8"))
            self._check_run(path, table["run"])
            return self._read(table)
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            got = f"a checkpoint that cannot be read ({type(error).__name__})"
            advice = "Run without --resume to begin anew"
            raise ArgumentError(
                Problem(str(path), "--resume", got, "files as a run left them", advice)
            ) from error

    def _check_run(self, path: Path, kept: Mapping[str, Any]) -> None:
        theirs, ours = _flat(kept), _flat(self.run)
        for key in {**ours, **theirs}:
            if theirs.get(key) != ours.get(key):
                got, expected = f"a run with {key} {theirs.get(key)!r}", f"{key} {ours.get(key)!r}"
                advice = "Resume with the study, records and options of its start, or another DIR"
                raise ArgumentError(Problem(str(path), "--resume", got, expected, advice))

    def _read(self, table: Mapping[str, Any]) -> Resume:
        arrays = _Arrays(load_file(self.folder / table["arrays"]), table["layouts"])
        self._rounds = table["rounds"]
        lines = (self.folder / "rounds.jsonl").read_text("utf-8").splitlines()[: self._rounds]
        if len(lines) < self._rounds:
            raise LookupError("rounds.jsonl lacks rounds that the checkpoint counts")
        text = "".join(line + "\n" for line in lines)
        _replace(self.folder / "rounds.jsonl", lambda path: path.write_text(text, "utf-8"))
        logs = [_read_log(json.loads(line)) for line in lines]
        if table["evaluation"]:
            evaluation = {
                SiteId(site): {name: arrays.arrays[key] for name, key in statistics.items()}
                for site, statistics in table["evaluation"].items()
            }
            logs[-1] = replace(logs[-1], evaluation=evaluation)
        states = {digest: State.from_json(s) for digest, s in table["states"].items()}
        snapshots = {
            PartyId(party): Snapshot(
                states[s["state"]], arrays.params(s["model"]), _read_slots(s["slots"], arrays)
            )
            for party, s in table["parties"].items()
        }
        return snapshots, tuple(logs)


class _Arrays:
    """Arrays by key, each kept once, and the layouts of the parameters among them."""

    def __init__(
        self,
        arrays: dict[str, np.ndarray[Any, Any]] | None = None,
        layouts: dict[str, list[list[Any]]] | None = None,
    ) -> None:
        self.arrays, self.layouts = arrays or {}, layouts or {}
        self._loaded: dict[str, Params] = {}

    def keep(self, values: np.ndarray[Any, Any]) -> str:
        key = f"array-{len(self.arrays)}"
        self.arrays[key] = values
        return key

    def keep_params(self, params: Params) -> str:
        digest = params.digest
        if digest not in self.layouts:
            self.layouts[digest] = [
                [spec.name, list(spec.shape), spec.dtype] for spec in params.layout.specs
            ]
            for dtype, buffer in params.buffers.items():
                self.arrays[f"{digest}/{dtype}"] = buffer
        return digest

    def params(self, digest: str) -> Params:
        if digest not in self._loaded:
            specs = (ArraySpec(n, tuple(s), d) for n, s, d in self.layouts[digest])
            layout = Layout(tuple(specs))
            buffers = {dtype: self.arrays[f"{digest}/{dtype}"] for dtype in layout.sizes}
            self._loaded[digest] = Params(layout, buffers)
        return self._loaded[digest]


def _snapshot(snapshot: Snapshot, arrays: _Arrays) -> dict[str, Any]:
    slots: dict[str, Any] = {}
    for name, value in snapshot.slots.items():
        if value is None:
            continue
        if isinstance(value, Cursor):
            slots[name] = {"cursor": asdict(value)}
        else:
            slots[name] = {"params": {k: arrays.keep_params(v) for k, v in value.items()}}
    model = arrays.keep_params(snapshot.model)
    return {"state": snapshot.state.digest, "model": model, "slots": slots}


def _read_slots(table: Mapping[str, Any], arrays: _Arrays) -> dict[str, Any]:
    slots: dict[str, Any] = {}
    for name, value in table.items():
        if "cursor" in value:
            slots[name] = Cursor(**value["cursor"])
        else:
            slots[name] = {k: arrays.params(v) for k, v in value["params"].items()}
    return slots


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with the entries of its tables, such as one version of an environment."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        nested = isinstance(value, Mapping)
        flat |= {f"{key}.{k}": v for k, v in value.items()} if nested else {key: value}
    return flat


def _log(log: RoundLog) -> dict[str, Any]:
    return {
        "state": log.state.to_json(),
        "seconds": log.seconds,
        "sent": dict(log.sent),
        "received": dict(log.received),
        "reasons": [[site, status, reason] for (site, status), reason in log.reasons.items()],
        "evaluated": list(log.evaluated),
    }


def _read_log(table: Mapping[str, Any]) -> RoundLog:
    reasons = {(site, status): reason for site, status, reason in table["reasons"]}
    state = State.from_json(table["state"])
    evaluated = tuple(map(SiteId, table["evaluated"]))
    return RoundLog(
        state, None, table["seconds"], table["sent"], table["received"], reasons, evaluated
    )


def _replace(path: Path, write: Any) -> None:
    beside = path.with_name(f".{path.name}.part")
    write(beside)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
