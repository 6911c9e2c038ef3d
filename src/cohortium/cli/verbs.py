"""What the verbs do: read, call the Python interface, show. Imported when a verb runs."""

from __future__ import annotations

import json as json_module
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cohortium.data.download import ORIGINS, get
from cohortium.data.sources import SOURCES, data_folder
from cohortium.errors import AcceptanceError, ArgumentError, Problem
from cohortium.plan.plan import State
from cohortium.report.drawing import draw as draw_plan
from cohortium.report.progress import Progress
from cohortium.report.table import arms_table
from cohortium.report.writing import write
from cohortium.runtime.bench import Bench
from cohortium.runtime.environment import environment
from cohortium.runtime.preview import preview
from cohortium.runtime.result import Result
from cohortium.runtime.simulation import compare
from cohortium.study import example
from cohortium.study.bundle import Bundle
from cohortium.study.read import read

console = Console()

SHOWN = 40
"""Steps of a plan that are listed."""

FEW = 4
"""Names that are listed in a line."""

DEMO_ARMS = ("pooled", "federated", "single", "ensemble", "iil", "ciil")


def demo(out: Path | None, *, seed: int | None, as_json: bool) -> None:
    """Run the embedded study with all of its arms."""
    bundle = example.demo()
    if not as_json:
        console.print(
            "569 patients, ten simulated hospitals, six ways of training. No network, no record "
            "leaves its hospital.\n"
        )
    run(bundle, DEMO_ARMS, engine="auto", seed=seed, out=out, data=None, as_json=as_json)


def run(
    study: Path | Bundle,
    arms: Sequence[str],
    *,
    engine: str,
    seed: int | None,
    out: Path | None,
    data: Path | None,
    resume: bool = False,
    as_json: bool = False,
) -> None:
    """Run arms of a study, write the results, and show them."""
    bundle = read(study) if isinstance(study, Path) else study
    folder = out or Path("out") / bundle.study.study.name
    _check_folder(folder)
    with Progress(console, quiet=as_json) as progress:
        result = compare(
            bundle,
            arms=arms,
            engine=engine,
            seed=seed,
            data=data,
            out=folder,
            resume=resume,
            observer=progress,
        )
    write(result, folder)
    shutil.rmtree(folder / "journal", ignore_errors=True)
    if as_json:
        _print_json(result.to_json())
    else:
        _show(result, folder)
    if not result.accepted:
        missed = "; ".join(
            f"{c.text}: {'undefined' if c.value is None else f'{c.value:.4f}'}"
            for c in result.acceptance
            if not c.met
        )
        raise AcceptanceError(
            f"the consensus model misses what was agreed ({missed})",
            f"Look at {folder / 'report.html'}; more rounds, or another plan, must be agreed anew",
        )


def dry_run(study: Path, *, seed: int | None, data: Path | None, as_json: bool) -> None:
    """Check everything and show what would leave each site."""
    found = preview(Bench.of(study, seed=seed, data=data))
    if as_json:
        _print_json(found)
        return
    console.print(f"[bold]{found['study']}[/]  digest {found['digest']}")
    columns = ("site", "rows_read", "rows_in_cohort", "rows_missing", "train", "validation", "test")
    table = Table(*(name.replace("_", " ") for name in columns), "trains", box=None)
    for site in found["sites"]:
        table.add_row(*(str(site[name]) for name in columns), "yes" if site["trains"] else "no")
    console.print(table)
    for site in found["sites"]:
        for warning in site["warnings"]:
            console.print(f"[yellow]note[/] {warning}", highlight=False)
    leaves = found["leaves"]
    console.print("\nEach round would leave a training site, and nothing else:", style="bold")
    for array in leaves["arrays"]:
        line = f"  {array['name']}  {array['dtype']}  {_shape(array['shape'])}"
        console.print(line, highlight=False)
    console.print(f"  in all {leaves['array_bytes']:,} bytes, and its number of training rows")
    console.print("Each evaluated round would leave every site:", style="bold")
    for name, shape in leaves["statistics"].items():
        console.print(f"  {name}  {_shape(shape)} numbers", highlight=False)
    console.print(f"  in all {leaves['statistics_bytes']:,} bytes\n\nNothing was run.")


def plan(study: Path, *, draw: Path | None, data: Path | None, as_json: bool) -> None:
    """Compile a study and show the steps of its first round."""
    bench = Bench.of(study, data=data)
    compiled = bench.plan()
    steps = compiled.round(State(compiled.study)).steps
    if draw is not None:
        _write_text(draw, draw_plan(compiled))
    if as_json:
        rows = [{name: getattr(step, name) for name in step.__slots__} for step in steps]
        _print_json({"study": bench.study.study.name, "digest": compiled.study, "steps": rows})
        return
    console.print(f"[bold]{bench.study.study.name}[/]")
    console.print(f"digest {compiled.study}", highlight=False)
    console.print(f"{compiled.rounds} rounds, {len(compiled.members)} sites, each round:\n")
    table = Table("step", "party", "reads", "deadline", box=None)
    for step in steps[:SHOWN]:
        deadline = "" if step.deadline is None else f"{step.deadline:g} s"
        table.add_row(step.id, step.party, _few(step.inputs + step.gathers), deadline)
    console.print(table)
    if len(steps) > SHOWN:
        console.print(f"  and {len(steps) - SHOWN} more; --json prints all")
    if draw is not None:
        console.print(f"\ndrawn in {draw}")


def new(folder: Path) -> None:
    """Write the study to start from."""
    target = folder / "study.toml"
    if folder.exists() and (not folder.is_dir() or target.exists()):
        got = "a file of that name" if not folder.is_dir() else "a study.toml in it"
        expected = "a folder without one"
        raise ArgumentError(Problem(str(folder), "DIR", got, expected, "Choose another DIR"))
    _write_text(target, example.template())
    console.print(f"wrote {target}\n\nNext:\n  cohortium simulate {target}", highlight=False)


def data_get(name: str, source: Path | None) -> None:
    """Get a dataset into the user's data folder."""
    folder = get(name, source=source)
    console.print(f"{name} is in {folder}", highlight=False)


def data_list(*, as_json: bool) -> None:
    """List the known datasets."""
    rows = [
        {
            "name": name,
            "here": name not in ORIGINS or (data_folder() / name).is_dir(),
            "from": "comes with scikit-learn"
            if name not in ORIGINS
            else "cohortium data get " + name,
        }
        for name in SOURCES
    ]
    if as_json:
        _print_json(rows)
        return
    table = Table("dataset", "here", "from", box=None)
    for row in rows:
        table.add_row(str(row["name"]), "yes" if row["here"] else "no", str(row["from"]))
    console.print(table)


def doctor(*, as_json: bool) -> None:
    """Check this machine, and say what to do about what is missing."""
    checks = [*_packages(), _processor(), _disk(), _datasets()]
    if as_json:
        _print_json({"environment": environment(), "checks": checks})
    else:
        table = Table("", "check", "found", "what to do", box=None)
        for check in checks:
            mark = "[green]ok[/]" if check["ok"] else "[yellow]--[/]"
            table.add_row(mark, check["check"], check["found"], check["advice"])
        console.print(table)


Check = dict[str, Any]


def _packages() -> list[Check]:
    needed = {
        "torch": ("models", 'pip install "cohortium[torch]"'),
        "sklearn": ("the demo, and splits", 'pip install "cohortium[demo]"'),
    }
    return [
        {
            "check": f"{name} for {use}",
            "ok": (here := find_spec(name) is not None),
            "found": "installed" if here else "not installed",
            "advice": "" if here else advice,
        }
        for name, (use, advice) in needed.items()
    ]


def _processor() -> Check:
    return {
        "check": "processor",
        "ok": True,
        "found": f"{os.cpu_count()} cores, {environment()['processor']}",
        "advice": "",
    }


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    writable = os.access(Path.cwd(), os.W_OK)
    ok = free > 1 and writable
    found = f"{free:.0f} GB free here" if writable else "this folder cannot be written"
    return {"check": "disk", "ok": ok, "found": found, "advice": "" if ok else "Use --out DIR"}


def _datasets() -> Check:
    missing = [name for name in ORIGINS if not (data_folder() / name).is_dir()]
    return {
        "check": "datasets",
        "ok": not missing,
        "found": f"not here: {', '.join(missing)}" if missing else "all here",
        "advice": f"cohortium data get {missing[0]}" if missing else "",
    }


def _show(result: Result, folder: Path) -> None:
    console.print(arms_table(result))
    for warning in result.warnings:
        console.print(f"[yellow]note[/] {warning}", highlight=False)
    for criterion in result.acceptance:
        mark = "[green]met[/]" if criterion.met else "[red]not met[/]"
        console.print(f"{mark}  {criterion.text}", highlight=False)
    console.print(
        f"\n{result.seconds:.1f} s. Look at [bold]{folder / 'report.html'}[/]; the figures are in "
        f"{folder / 'result.json'}, the model in {folder / 'model.safetensors'}.",
        highlight=False,
    )


def _check_folder(folder: Path) -> None:
    """Refuse a folder for results that cannot be one, before anything runs."""
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        got = "a file" if not above.is_dir() else "a folder that cannot be written"
        expected = "a folder for the results"
        raise ArgumentError(Problem(str(folder), "--out", got, expected, "Choose another"))


def _few(names: Sequence[str]) -> str:
    if len(names) <= FEW:
        return ", ".join(names)
    return f"{', '.join(names[: FEW - 1])}, … {names[-1]} ({len(names)} in all)"


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "1"


def _write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.part")
        beside.write_text(text, "utf-8")
        beside.replace(path)
    except OSError as error:
        got = error.strerror or str(error)
        raise ArgumentError(Problem(str(path), "", got, "a file that can be written")) from error


def _print_json(found: Mapping[str, Any] | Sequence[Any]) -> None:
    console.print_json(json_module.dumps(found, allow_nan=False, default=list))
