"""`cohortium study`: the verbs of a researcher, and their options.

What they do is in `study_verbs.py`, imported when one runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Studies across hospitals: submit one, see who approves it, run it, get its result.",
    no_args_is_help=True,
)

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="Your folder; by default COHORTIUM_HOME, else one in the user's data folder.",
    ),
]
Id = Annotated[
    str,
    typer.Argument(metavar="ID", help="The study's name, or the beginning of its digest."),
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; the sites are told.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def join(
    url: Annotated[str, typer.Argument(metavar="URL", help="The hub's address: https://NAME.")],
    code: Annotated[
        str, typer.Argument(metavar="CODE", help="The code that the coordinator gave you.")
    ],
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca", metavar="FILE", help="PEM of certificates to trust, such as a proxy's."
        ),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            "--proxy", metavar="URL", help="The proxy that leads out; by default HTTPS_PROXY."
        ),
    ] = None,
    home: Home = None,
) -> None:
    """Join a federation as a researcher: makes your keys, which never leave this machine.

    Compare the fingerprint that it prints with the coordinator's, by voice.
    """
    from cohortium.cli import study_verbs

    study_verbs.join(home, url, code, ca=ca, proxy=proxy)


@app.command()
def submit(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Check a study and hand it to the hub, with the files that it names; sites then approve it.

    Its digest covers every byte that matters: a study that changes is another study.
    """
    from cohortium.cli import study_verbs

    study_verbs.submit(home, study, as_json=json)


@app.command("list")
def list_(home: Home = None, json: Json = False) -> None:
    """List your studies: who has approved, and how far they are."""
    from cohortium.cli import study_verbs

    study_verbs.list_(home, as_json=json)


@app.command()
def show(study: Id, home: Home = None, json: Json = False) -> None:
    """Show a study: who approved, declined or has not answered; who could read what."""
    from cohortium.cli import study_verbs

    study_verbs.show(home, study, as_json=json)


@app.command()
def start(study: Id, home: Home = None, json: Json = False) -> None:
    """Start a study that all of its sites have approved."""
    from cohortium.cli import study_verbs

    study_verbs.start(home, study, as_json=json)


@app.command()
def watch(
    study: Id,
    home: Home = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON per round, for programs.")
    ] = False,
) -> None:
    """Follow a run until it ends: rounds, sites, metrics, bytes, and when it will be done.

    Ctrl-C stops watching; the run goes on.
    """
    from cohortium.cli import study_verbs

    study_verbs.watch(home, study, as_json=json)


@app.command()
def pause(study: Id, reason: Reason = "", home: Home = None) -> None:
    """Let a run rest: sites finish the step that they are at and begin no other."""
    from cohortium.cli import study_verbs

    study_verbs.change(home, study, "pause", reason=reason)


@app.command()
def resume(study: Id, reason: Reason = "", home: Home = None) -> None:
    """Let a run that was paused go on."""
    from cohortium.cli import study_verbs

    study_verbs.change(home, study, "resume", reason=reason)


@app.command()
def stop(study: Id, reason: Reason = "", home: Home = None) -> None:
    """End a run for good, or withdraw a study that has not started."""
    from cohortium.cli import study_verbs

    study_verbs.change(home, study, "stop", reason=reason)


@app.command()
def result(
    study: Id,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder for the results; by default out/<study>."
        ),
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Write a finished run's report, figures and model, as a simulation does."""
    from cohortium.cli import study_verbs

    study_verbs.result(home, study, out=out, as_json=json)
