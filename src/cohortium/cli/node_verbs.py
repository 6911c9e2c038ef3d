"""What the verbs of a hospital do. Imported when one runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from cohortium.cli.boundary import printable
from cohortium.cli.output import console, print_json, print_notes, shape_told
from cohortium.errors import RunFailedError
from cohortium.node import admin
from cohortium.node.doctor import lacking
from cohortium.report.notation import duration

SHORT = 12
"""Digits of a digest that people type."""


def join(home: Path | None, url: str, code: str, *, ca: Path | None, proxy: str | None) -> None:
    """Become a site of a federation."""
    found = admin.join(home, url, code, ca=ca, proxy=proxy)
    broker = "An honest broker: other sites do not learn your name.\n\n" if found.broker else ""
    console.print(
        Text.assemble(
            f"This is {found.site} in {printable(found.federation)}, at {found.url}.\n\n"
            f"{broker}Fingerprint  ",
            (found.fingerprint, "bold"),
            "\n\nCompare it with the coordinator's, by voice.\n\n"
            "Next:\n  cohortium node data add NAME PATH\n  cohortium node up",
        )
    )


def data_add(home: Path | None, name: str, path: Path, *, labels: Path | None) -> None:
    """Register records."""
    found = admin.data_add(home, name, path, labels=labels)
    columns = ", ".join(f"{column} ({kind})" for column, kind in found.summary.columns.items())
    console.print(f"{name}: {found.summary.rows} rows; {columns}")
    console.print("Nothing was copied or sent. Next:\n  cohortium node study list")


def data_list(home: Path | None, *, as_json: bool) -> None:
    """List this site's datasets."""
    found = admin.data_list(home)
    if as_json:
        rows = [
            {
                "name": each.registered.dataset.name,
                "kind": each.registered.dataset.kind,
                "path": str(each.registered.dataset.path),
                "rows": each.registered.summary.rows,
                "columns": dict(each.registered.summary.columns),
                "problem": each.problem,
            }
            for each in found
        ]
        print_json(rows)
        return
    table = Table("dataset", "rows", "columns", "path", "", box=None)
    for each in found:
        dataset, summary = each.registered.dataset, each.registered.summary
        state = Text(each.problem, "yellow") if each.problem else Text("as added", "green")
        size = str(len(summary.columns))
        table.add_row(dataset.name, str(summary.rows), size, str(dataset.path), state)
    console.print(table)


def data_remove(home: Path | None, name: str) -> None:
    """Forget a dataset."""
    admin.data_remove(home, name)
    console.print(f"{name} is forgotten; its records are where they were")


def study_list(home: Path | None, *, as_json: bool) -> None:
    """List the studies that this site was asked about."""
    found = admin.study_list(home)
    if as_json:
        names = ("digest", "name", "purpose", "status", "decision", "dataset", "seconds")
        print_json([{name: getattr(offer, name) for name in names} for offer in found])
        return
    table = Table("study", "digest", "status", "our answer", "purpose", box=None)
    for offer in found:
        answer = Text("waits for you", "yellow") if offer.waits else Text(offer.decision or "-")
        digest = offer.digest[:SHORT]
        told = printable([offer.name, digest, offer.status, offer.purpose])
        table.add_row(*told[:3], answer, told[3])
    console.print(table if found else "No study asks for this site.")


def study_show(home: Path | None, wanted: str, *, as_json: bool) -> None:
    """Show what a study asks for."""
    found = admin.study_show(home, wanted)
    if as_json:
        print_json(found)
    else:
        _show(found)


def study_approve(
    home: Path | None,
    wanted: str,
    *,
    dataset: str | None,
    rounds: int | None,
    days: float,
    yes: bool,
) -> None:
    """Sign a consent, after showing to what."""
    if not yes:
        shown = admin.study_show(home, wanted)
        wanted = shown["digest"]  # what is signed is what was read, whatever its name is by then
        _show(shown)
        _leaves(admin.preview(home, wanted, dataset=dataset))
        if not typer.confirm("\nSign this site's consent to exactly this?"):
            console.print("Nothing was signed.")
            raise typer.Exit(1)
    grant = admin.study_approve(home, wanted, dataset=dataset, rounds=rounds, days=days)
    console.print(
        f"{grant.site} consents to the study {grant.study[:SHORT]} with {grant.dataset}: "
        f"{grant.rounds} rounds at most, until {_time(grant.until)}.\n"
        "Take it back at any time with: cohortium node study decline"
    )


def study_decline(home: Path | None, wanted: str, *, reason: str) -> None:
    """Say no, or take a consent back."""
    note = admin.study_decline(home, wanted, reason=reason)
    console.print("This site takes no part in it.")
    print_notes([note] if note else [])


def preview(home: Path | None, wanted: str, *, dataset: str | None, as_json: bool) -> None:
    """Show exactly what would leave this site."""
    found = admin.preview(home, wanted, dataset=dataset)
    if as_json:
        print_json(found)
    else:
        _leaves(found)
        console.print("\nNothing has left.")


def up(home: Path | None) -> None:
    """Run the node."""
    admin.up(home)


def stop(home: Path | None, *, now: bool) -> None:
    """Stop the node."""
    ran = admin.stop(home, now=now)
    console.print("The node has stopped." if ran else "No node runs in this folder.")


def status(home: Path | None, *, as_json: bool) -> None:
    """Show how the node is."""
    found = admin.status(home)
    if as_json:
        print_json(asdict(found))
        return
    runs = f"runs, process {found.pid}" if found.pid else "does not run"
    if found.stopped and not found.pid:
        runs = f"was stopped on {_time(found.stopped)}"
    membership = f"{found.site} in {printable(found.federation)}, at {found.url}"
    console.print(Text.assemble((membership if found.site else "not joined yet", "bold")))
    console.print(f"node      {runs}\nfolder    {found.home}")
    console.print(f"hub       {_last(found.contact)}\ndisk      {found.disk_free:.1f} GiB free")
    console.print(f"datasets  {', '.join(found.datasets) or 'none'}")
    if found.opens_in:
        console.print(f"hours     steps start in {duration(found.opens_in)}")
    for name in found.waiting:
        console.print(Text.assemble(("waits for your decision  ", "yellow"), printable(name)))
    if found.runs:
        table = Table("study", "status", "rounds", "computed", "last sign", "", box=None)
        for run in found.runs:
            took, when = duration(run.seconds), _time(run.changed)
            cells = (run.study, run.status, str(run.round), took, when, run.reason)
            table.add_row(*printable(cells))
        console.print(table)


def doctor(home: Path | None, *, url: str | None, as_json: bool) -> None:
    """Look at everything that the node depends on."""
    checks = admin.doctor(home, url=url)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        table = Table("", "check", "found", "what to do", box=None)
        for check in checks:
            good = Text("ok", "green") if check.ok else Text("--", "yellow")
            table.add_row(good, check.name, printable(check.found), printable(check.advice))
        console.print(table)
        for check in checks:
            if check.ask:
                console.print(Text.assemble(("ask IT for  ", "bold"), printable(check.ask)))
    missing = lacking(checks)
    if missing:
        cause = "; ".join(f"{check.name}: {check.found}" for check in missing)
        advice = "; ".join(check.advice or f"ask IT for: {check.ask}" for check in missing)
        raise RunFailedError(cause, advice)


def rotate_keys(home: Path | None) -> None:
    """Make new working keys."""
    serial = admin.rotate_keys(home)
    console.print(f"this site's working keys are number {serial} now; nobody else has to act")


def backup(home: Path | None, file: Path) -> None:
    """Write a backup."""
    admin.backup(home, file)
    console.print(f"wrote {file}; it holds this site's secret keys")


def restore(home: Path | None, file: Path) -> None:
    """Make a node's folder from a backup."""
    admin.restore(home, file)
    console.print("restored\n\nNext:\n  cohortium node rotate-keys\n  cohortium node up")


# -- words -----------------------------------------------------------------------------------------


def _show(found: Mapping[str, Any]) -> None:
    """Show what a study asks for, as one reads a consent form."""
    found = printable(found)
    console.print(Text.assemble((found["name"], "bold"), f"  {found['status']}"))
    console.print(f"digest      {found['digest']}\npurpose     {found['purpose']}")
    console.print(f"researcher  {found['researcher']}, since {_time(found['submitted'])}")
    sites = "any site" if found["sites"] is None else ", ".join(found["sites"])
    wanted = "" if found["wanted"] else f"; {found['site']} is not asked"
    console.print(f"for         {sites}{wanted}")
    if found["approved_by"]:
        console.print(f"approved    {', '.join(found['approved_by'])}")
    if found["decision"]:
        console.print(f"our answer  {found['decision']}")
    data = found["data"]
    if data["target"]:
        conditions = f"; {data['cohort']} conditions on patients" if data["cohort"] else ""
        console.print(f"reads       {', '.join(data['features'])}; {data['target']}{conditions}")
    for title, sentences in (
        ("What would leave this site", found["leaves"]),
        ("Who could see it", found["seen_by"]),
        ("What does not protect it", found["unprotected"]),
    ):
        _paragraph(title, sentences)
    if found["code"]:
        files = [f"{each['path']}, {each['bytes']} bytes: read {each['read']}"
                 for each in found["code"]]  # fmt: skip
        _paragraph("Code and models that would be used, in isolation", files)
    console.print(f"\nThe whole study: {found['text']}")


def _leaves(found: Mapping[str, Any]) -> None:
    """Show every array and every number that would leave."""
    found = printable(found)
    site, leaves = found["site"], found["leaves"]
    console.print(Text.assemble((found["study"], "bold"), f"  with {found['dataset']}"))
    console.print(
        f"{site['rows_read']} rows read, {site['rows_in_cohort']} in the cohort, "
        f"{site['rows_missing']} with missing values; {site['train']} train, "
        f"{site['validation']} validate, {site['test']} test"
    )
    print_notes(site["warnings"])
    console.print(
        f"\nIn each of at most {leaves['rounds']} rounds, and nothing else:", style="bold"
    )
    for array in leaves["arrays"]:
        console.print(f"  {array['name']}  {array['dtype']}  {shape_told(array['shape'])}")
    console.print(f"  in all {leaves['array_bytes']:,} bytes, and its number of training rows")
    console.print(f"In each of at most {leaves['evaluations']} evaluations:", style="bold")
    for name, shape in leaves["statistics"].items():
        console.print(f"  {name}  {_numbers(shape)}")
    console.print(f"  in all {leaves['statistics_bytes']:,} bytes")
    console.print("Once, with the consent:", style="bold")
    once = {**found["once"], "until": _time(found["once"]["until"])}
    for name, value in once.items():
        told = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        console.print(f"  {name}  {told}")


def _paragraph(title: str, sentences: Sequence[str]) -> None:
    if sentences:
        console.print(f"\n{title}:", style="bold")
    for sentence in sentences:
        console.print(f"  {sentence}")


def _numbers(shape: Sequence[int]) -> str:
    told = shape_told(shape)
    return f"{told} {'number' if told == '1' else 'numbers'}"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _last(contact: float | None) -> str:
    return "has not answered yet" if contact is None else f"last answered on {_time(contact)}"
