"""What the verbs of a researcher do. Imported when one runs."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cohortium.cli.boundary import InterruptedRunError, printable, tell
from cohortium.cli.output import console, print_json, print_notes
from cohortium.cli.results import check_acceptance, check_folder
from cohortium.cli.results import show as show_result
from cohortium.errors import ArgumentError, CohortiumError, Problem, RunFailedError, StudyError
from cohortium.report.writing import write
from cohortium.researcher import studies
from cohortium.researcher.inbox import Inbox, follow
from cohortium.researcher.profile import Profile
from cohortium.researcher.results import result_of
from cohortium.researcher.runs import RunCopy
from cohortium.researcher.studies import Study
from cohortium.researcher.watch import Page, seconds_left, told
from cohortium.researcher.watch import as_json as round_json
from cohortium.runtime.engine import Finished, RoundLog
from cohortium.runtime.outcome import check_finished
from cohortium.runtime.result import NETWORK
from cohortium.transport.client import HubClient

SHORT = 12
"""Digits of a digest that people type."""


def join(home: Path | None, url: str, code: str, *, ca: Path | None, proxy: str | None) -> None:
    """Become a researcher of a federation."""
    profile = Profile.at(home)
    joined = profile.join(url, code, ca=ca, proxy=proxy)
    console.print(
        Text.assemble(
            f"You are {joined.identity.name}, {joined.identity.role} of "
            f"{printable(joined.federation)}. "
            f"Your keys are in {profile.folder}.\n\nFingerprint  ",
            (joined.fingerprint, "bold"),
            "\n\nCompare it with the coordinator's, by voice, before you trust the connection.",
        )
    )


def submit(home: Path | None, path: Path, *, as_json: bool) -> None:
    """Check a study and hand it to the hub."""
    study = studies.submit(Profile.at(home), path)
    if as_json:
        print_json(dict(study.row))
        return
    console.print(Text.assemble((study.name, "bold"), f"\ndigest {study.digest}"))
    sites = study.row["sites"]
    asked = f"{', '.join(sites)} must approve it" if sites else "Every site may approve it"
    console.print(
        f"\n{asked}, each on its own node:\n"
        f"  cohortium node study show {study.digest[:SHORT]}\n"
        f"  cohortium node study approve {study.digest[:SHORT]}\n\n"
        f"Then:\n  cohortium study start {study.name}"
    )


def list_(home: Path | None, *, as_json: bool) -> None:
    """List the researcher's studies."""
    with _hub(home) as (_, client):
        found = studies.all_of(client)
    if as_json:
        print_json([dict(study.row) for study in found])
        return
    table = Table("study", "digest", "status", "approved", "declined", box=None)
    for study in found:
        row = printable(study.row)
        granted = f"{len(row['granted'])}" + (f" of {len(row['sites'])}" if row["sites"] else "")
        declined = ", ".join(str(entry["site"]) for entry in row["declines"])
        table.add_row(row["name"], study.digest[:SHORT], row["status"], granted, declined)
    console.print(table)


def show(home: Path | None, wanted: str, *, as_json: bool) -> None:
    """Show how a study stands, and who could read what."""
    with _hub(home) as (profile, client):
        study = studies.find(client, wanted)
        bundle = studies.bundle_of(profile, client, study)
    if as_json:
        print_json(dict(study.row))
        return
    row = printable(study.row)
    console.print(Text.assemble((row["name"], "bold"), f"  {row['status']}  {row['reason']}"))
    console.print(f"digest   {study.digest}\npurpose  {row['purpose']}")
    console.print(f"rounds   {bundle.study.plan.rounds}\nrun      {study.run or 'not started'}\n")
    table = Table("site", "answer", "", box=None)
    standings = study.standings()
    for standing in standings:
        style = {"approved": "green", "declined": "red"}.get(standing.answer, "yellow")
        table.add_row(
            printable(standing.site), Text(standing.answer, style), printable(standing.told)
        )
    console.print(table if standings else "No site has answered yet.")
    console.print("\nWho could read what:", style="bold")
    sites = [standing.site for standing in standings if standing.answer != "declined"]
    try:
        for sentence in studies.exposed(bundle, sites):
            console.print(f"  {printable(sentence)}")
    except StudyError as error:
        console.print(f"  not known until more sites have answered ({error.problems[0].got})")
    console.print("  All sites and you get the consensus model and each round's metrics per site.")


def start(home: Path | None, wanted: str, *, as_json: bool) -> None:
    """Start a study."""
    with _hub(home) as (_, client):
        study = studies.change(client, studies.find(client, wanted), "start")
    if as_json:
        print_json(dict(study.row))
    else:
        console.print(f"{study.name} runs, as {study.run}\n\nWatch it:")
        console.print(f"  cohortium study watch {study.name}")


def change(home: Path | None, wanted: str, what: str, *, reason: str) -> None:
    """Pause, resume or stop a study."""
    with _hub(home) as (_, client):
        study = studies.change(client, studies.find(client, wanted), what, reason=reason)
    console.print(f"{study.name} is {study.status}")


def watch(home: Path | None, wanted: str, *, as_json: bool) -> None:
    """Follow a run until it ends."""
    with _hub(home, patience=None) as (profile, client):
        study = _started(studies.find(client, wanted))
        inbox = Inbox(profile, client)
        copy = inbox.copy(study.run)
        try:
            study = _follow(inbox, client, study, copy=copy, as_json=as_json)
        except KeyboardInterrupt as stop:
            again = f"the run goes on; see it again with: cohortium study watch {study.name}"
            raise InterruptedRunError(again) from stop
    print_notes(inbox.refused)
    _finished(study, copy)
    if not as_json:
        console.print(f"\nDone. Get the result:\n  cohortium study result {study.name} --out DIR")


def result(home: Path | None, wanted: str, *, out: Path | None, as_json: bool) -> None:
    """Write a finished run's result."""
    with _hub(home) as (profile, client):
        study = _started(studies.find(client, wanted))
        folder = out or Path("out") / study.name
        check_folder(folder)
        if not study.has_ended:
            got, expected = f"a run that is {study.status}", "one that has ended"
            advice = f"Wait for it with: cohortium study watch {study.name}"
            raise ArgumentError(Problem("arguments", "ID", got, expected, advice))
        inbox = Inbox(profile, client)
        copy = inbox.copy(study.run)
        for _ in follow(inbox, client, study):
            pass  # all of it is kept now
    print_notes(inbox.refused)
    logs = _finished(study, copy)
    found = result_of(copy.run, logs, copy.models(logs[-1].state))
    write(found, folder)
    if as_json:
        typer.echo((folder / "result.json").read_text("utf-8"), nl=False)
    else:
        show_result(found, folder)
    check_acceptance(found, folder)


def _follow(
    inbox: Inbox, client: HubClient, study: Study, *, copy: RunCopy, as_json: bool
) -> Study:
    """Show what happens until the run ends; return the study as it is then."""
    plan, logs = copy.run.plan, list[RoundLog]()
    page = Page(study.name, plan)
    live = not as_json and console.is_terminal
    with Live(page, console=console, refresh_per_second=4) if live else contextlib.nullcontext():
        for seen in follow(inbox, client, study):
            if isinstance(seen, Study):
                study = seen
                page.status, page.reason = printable([seen.status, seen.reason])
                line: Any = {"status": seen.status, "reason": seen.reason}
                text = f"{seen.status}: {seen.reason}" if seen.reason else seen.status
            else:
                page.add(seen)
                logs.append(seen)
                left = seconds_left(plan, logs)
                line, text = round_json(plan, seen, left=left), told(plan, seen)
            if as_json:
                typer.echo(json.dumps(line, allow_nan=False))
            elif not live:
                console.print(printable(text))
    return study


@contextmanager
def _hub(
    home: Path | None, *, patience: float | None = 30.0
) -> Iterator[tuple[Profile, HubClient]]:
    """Open the way to the hub, and say when it does not answer."""
    profile, since = Profile.at(home), [0.0]

    def waiting(error: CohortiumError, seconds: float) -> None:
        if time.monotonic() - since[0] > 60.0:
            tell(f"note: {error}; trying again in {seconds:.0f} s")
        since[0] = time.monotonic()

    with closing(profile.client(patience=patience, waiting=waiting)) as client:
        yield profile, client


def _started(study: Study) -> Study:
    if not study.run:
        got, expected = f"a study that is {study.status}", "one that was started"
        advice = f"Start it with: cohortium study start {study.name}"
        raise ArgumentError(Problem("arguments", "ID", got, expected, advice))
    return study


def _finished(study: Study, copy: RunCopy) -> list[RoundLog]:
    """Return the rounds of a run that has finished.

    Raises:
        RunFailedError: it has not, and why.
    """
    logs = list(copy.logs())
    if study.status == "failed" and logs:
        try:
            check_finished(Finished(NETWORK, tuple(logs), {}), copy.run.plan)
        except RunFailedError as error:
            raise RunFailedError(error.cause, f"{error.advice}. {_kept(copy)}") from None
    if study.status != "finished" or not logs:
        raise RunFailedError(f"the run is {study.status}: {study.reason}", _kept(copy))
    return logs


def _kept(copy: RunCopy) -> str:
    return f"What it told until then, and its last models, are in {copy.folder}"
