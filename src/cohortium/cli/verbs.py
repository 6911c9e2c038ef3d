"""What the verbs do: read, call the Python interface, show. Imported when a verb runs."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from cohortium.cli.boundary import InterruptedRunError, tell
from cohortium.cli.output import console, few, make_console, print_json, print_notes, shape_told
from cohortium.cli.results import check_acceptance, check_folder, hindrance, show
from cohortium.data.download import ORIGINS, get
from cohortium.data.local import write_local
from cohortium.data.sources import SOURCES, data_folder, open_dataset
from cohortium.errors import ArgumentError, Problem, RunFailedError
from cohortium.plan.plan import State
from cohortium.report.drawing import draw as draw_plan
from cohortium.report.progress import Progress
from cohortium.report.writing import write
from cohortium.runtime.bench import Bench
from cohortium.runtime.checkpoints import are_kept, forget
from cohortium.runtime.environment import environment
from cohortium.runtime.preview import preview
from cohortium.runtime.simulation import check_arguments, compare
from cohortium.study import example
from cohortium.study.bundle import Bundle
from cohortium.study.read import read

SHOWN = 40
"""Steps of a plan that are listed."""

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
    check_folder(folder)
    if resume and not are_kept(folder):
        tell(f"note: no checkpoint in {folder}; the run begins with round 1")
    try:
        with Progress(make_console(stderr=True), quiet=as_json) as progress:
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
    except KeyboardInterrupt as stop:
        raise InterruptedRunError(_way_on(folder, can_resume=isinstance(study, Path))) from stop
    forget(folder)
    if as_json:
        typer.echo((folder / "result.json").read_text("utf-8"), nl=False)
    else:
        show(result, folder)
    check_acceptance(result, folder)


def dry_run(
    study: Path,
    *,
    engine: str,
    seed: int | None,
    out: Path | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Check everything and show what would leave each site."""
    check_arguments(("federated",), engine)
    if out is not None:
        check_folder(out)
    found = preview(Bench.of(study, seed=seed, data=data))
    if as_json:
        print_json(found)
        return
    console.print(Text.assemble((found["study"], "bold"), f"\ndigest {found['digest']}"))
    console.print(_sites_table(found["sites"]))
    for site in found["sites"]:
        print_notes(site["warnings"])
    leaves = found["leaves"]
    console.print("\nEach round would leave a training site, and nothing else:", style="bold")
    for array in leaves["arrays"]:
        console.print(f"  {array['name']}  {array['dtype']}  {shape_told(array['shape'])}")
    console.print(f"  in all {leaves['array_bytes']:,} bytes, and its number of training rows")
    console.print("Each evaluated round would leave every site:", style="bold")
    for name, shape in leaves["statistics"].items():
        numbers = "number" if shape_told(shape) == "1" else "numbers"
        console.print(f"  {name}  {shape_told(shape)} {numbers}")
    console.print(f"  in all {leaves['statistics_bytes']:,} bytes\n\nNothing was run.")


def plan(study: Path, *, draw: Path | None, data: Path | None, as_json: bool) -> None:
    """Compile a study and show the steps of its first round."""
    if draw is not None and draw.suffix.lower() != ".svg":
        got, advice = f"{draw.name!r}", "The drawing is an SVG; name it so"
        raise ArgumentError(Problem("arguments", "--draw", got, "a file that ends in .svg", advice))
    bench = Bench.of(study, data=data)
    compiled = bench.plan()
    steps = compiled.round(State(compiled.study)).steps
    if draw is not None:
        _write_text(draw, draw_plan(compiled), key="--draw")
    if as_json:
        rows = [{name: getattr(step, name) for name in step.__slots__} for step in steps]
        print_json({"study": bench.study.study.name, "digest": compiled.study, "steps": rows})
        return
    console.print(Text.assemble((bench.study.study.name, "bold"), f"\ndigest {compiled.study}"))
    console.print(f"{compiled.rounds} rounds, {len(compiled.members)} sites, each round:\n")
    table = Table("step", "party", "reads", "deadline", box=None)
    for step in steps[:SHOWN]:
        deadline = "" if step.deadline is None else f"{step.deadline:g} s"
        table.add_row(step.id, step.party, few(step.inputs + step.gathers), deadline)
    console.print(table)
    if len(steps) > SHOWN:
        console.print(f"  and {len(steps) - SHOWN} more; --json prints all")
    if draw is not None:
        console.print(f"\ndrawn in {draw}")


def new(folder: Path) -> None:
    """Write the study to start from."""
    target = folder / "study.toml"
    if os.path.lexists(target) or (os.path.lexists(folder) and not folder.is_dir()):
        got = "a study.toml in it" if folder.is_dir() else "a file of that name"
        expected = "a folder without one"
        raise ArgumentError(Problem(str(folder), "DIR", got, expected, "Choose another DIR"))
    _write_text(target, example.template(), key="DIR")
    name = shlex.quote(str(target))
    console.print(f"wrote {target}\n\nNext:\n  cohortium simulate {name}")


def data_get(name: str, source: Path | None) -> None:
    """Get a dataset into the user's data folder."""
    folder = get(name, source=source)
    console.print(f"{name} is in {folder}")


def data_write(name: str, folder: Path) -> None:
    """Write each site's records into a file of its own."""
    records = open_dataset(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for site, held in records.items():
            write_local(held, folder / site, name=site)
    except OSError as error:
        got, expected = hindrance(error), "a folder that can be written to"
        raise ArgumentError(Problem(str(folder), "DIR", got, expected, "Choose another")) from error
    console.print(f"wrote {len(records)} files into {folder}")


def data_list(*, as_json: bool) -> None:
    """List the known datasets."""
    rows = [
        {
            "name": name,
            "here": name not in ORIGINS or (data_folder() / name).is_dir(),
            "from": f"cohortium data get {name}" if name in ORIGINS else "an installed package",
        }
        for name in SOURCES
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("dataset", "here", "from", box=None)
    for row in rows:
        table.add_row(str(row["name"]), "yes" if row["here"] else "no", str(row["from"]))
    console.print(table)


def doctor(*, as_json: bool) -> None:
    """Check this machine, and say what to do about what is missing."""
    checks = [*_packages(), _processor(), _disk(), _datasets()]
    if as_json:
        print_json({"environment": environment(), "checks": checks})
    else:
        table = Table("", "check", "found", "what to do", box=None)
        for check in checks:
            mark = Text("ok", "green") if check["ok"] else Text("--", "yellow")
            table.add_row(mark, check["check"], check["found"], check["advice"])
        console.print(table)
    lacking = [check for check in checks if check["needed"] and not check["ok"]]
    if lacking:
        cause = "; ".join(f"{check['check']}: {check['found']}" for check in lacking)
        raise RunFailedError(cause, "; ".join(check["advice"] for check in lacking))


Check = dict[str, Any]


def _packages() -> list[Check]:
    needed = {
        "torch": ("torch, for models", 'pip install "cohortium[torch]"'),
        "sklearn": ("scikit-learn, for the demo and splits", 'pip install "cohortium[demo]"'),
    }
    return [
        {
            "check": check,
            "needed": True,
            "ok": (here := find_spec(name) is not None),
            "found": "installed" if here else "not installed",
            "advice": "" if here else advice,
        }
        for name, (check, advice) in needed.items()
    ]


def _processor() -> Check:
    return {
        "check": "processor",
        "needed": True,
        "ok": True,
        "found": f"{os.cpu_count()} cores, {environment()['processor']}",
        "advice": "",
    }


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    writable = os.access(Path.cwd(), os.W_OK)
    ok = free > 1 and writable
    return {
        "check": "disk",
        "needed": False,
        "ok": ok,
        "found": f"{free:.0f} GB free here" if writable else "this folder cannot be written",
        "advice": "" if ok else "Use --out DIR",
    }


def _datasets() -> Check:
    missing = [name for name in ORIGINS if not (data_folder() / name).is_dir()]
    return {
        "check": "datasets",
        "needed": False,
        "ok": not missing,
        "found": f"not here: {', '.join(missing)}" if missing else "all here",
        "advice": f"cohortium data get {missing[0]}" if missing else "",
    }


def _sites_table(sites: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("rows_read", "rows_in_cohort", "rows_missing", "train", "validation", "test")
    table = Table(box=None)
    table.add_column("site", overflow="fold", no_wrap=True)
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right", overflow="fold")
    table.add_column("trains")
    for site in sites:
        cells = (str(site[name]) for name in columns)
        table.add_row(site["site"], *cells, "yes" if site["trains"] else "no")
    return table


def _way_on(folder: Path, *, can_resume: bool) -> str:
    if can_resume and are_kept(folder):
        return f"nothing half-written is left; to go on, add --out {folder} --resume"
    return "nothing half-written is left"


def _write_text(path: Path, text: str, *, key: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(text, "utf-8")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        expected, advice = "a place that can be written to", "Choose another"
        got = hindrance(error)
        raise ArgumentError(Problem(str(path), key, got, expected, advice)) from error
