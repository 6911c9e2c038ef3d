"""`cohortium`: the verbs and their options.

What they do is in `verbs.py`, imported when one runs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cohortium import __version__
from cohortium.cli import hub, node, study
from cohortium.cli.boundary import INTERRUPTED, guarded, tell

app = typer.Typer(
    name="cohortium",
    help="Federated learning for digital health: hospitals train together, every record stays put.",
    epilog="Start with: cohortium demo. Then: cohortium new my-study",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Datasets: list them, get one.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(hub.app, name="hub")
app.add_typer(node.app, name="node")
app.add_typer(study.app, name="study")

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Folder for the results; by default out/<study>."),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Folder of the dataset's files, such as one CSV per site."
    ),
]
EngineName = Annotated[
    str,
    typer.Option(help="sequential, vectorised, or auto: vectorised where the model has a kernel."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Instead of the study's seed.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on after a kill from the checkpoints in --out.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def demo(out: Out = None, seed: Seed = None, json: Json = False) -> None:
    """Let ten simulated hospitals train together on real patients, offline, in under a minute.

    569 patients with breast tumours, spread over hospitals as unequal as a real consortium. The
    federation runs beside pooled data, single hospitals, their ensemble, and incremental and
    cyclic training.
    """
    from cohortium.cli import verbs

    verbs.demo(out, seed=seed, as_json=json)


@app.command()
def simulate(
    study: StudyFile,
    engine: EngineName = "auto",
    seed: Seed = None,
    out: Out = None,
    data: Data = None,
    resume: Resume = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all, show what would leave each site, stop.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a study on this machine: every site a party, the same plan as across hospitals."""
    from cohortium.cli import verbs

    if dry_run:
        verbs.dry_run(study, engine=engine, seed=seed, out=out, data=data, as_json=json)
    else:
        verbs.run(
            study,
            ("federated",),
            engine=engine,
            seed=seed,
            out=out,
            data=data,
            resume=resume,
            as_json=json,
        )


@app.command()
def compare(
    study: StudyFile,
    arms: Annotated[
        str,
        typer.Option(help="Some of pooled, federated, single, ensemble, iil, ciil, leave-one-out."),
    ] = "pooled,federated,single",
    engine: EngineName = "auto",
    seed: Seed = None,
    out: Out = None,
    data: Data = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Run a study beside other ways of training on the same hospitals.

    pooled: all records in one place. federated: the study itself. single: each hospital alone;
    ensemble: the mean of those models' scores. iil, ciil: one model visits the hospitals, once or
    in every round. leave-one-out: the study without one hospital, for each of them.
    """
    from cohortium.cli import verbs

    names = tuple(name.strip() for name in arms.split(",") if name.strip())
    verbs.run(
        study, names, engine=engine, seed=seed, out=out, data=data, resume=resume, as_json=json
    )


@app.command("try")
def try_(
    study: StudyFile,
    data: Data = None,
    out: Out = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the folders of the hub and the nodes.")
    ] = False,
    json: Json = False,
) -> None:
    """Rehearse a study as a real federation on this machine: a hub, a node per site, HTTPS.

    It shows each command as a consortium types it. The hub and the nodes are processes of their
    own, and end with it. The model is that of `simulate --engine sequential`, byte for byte.
    """
    from cohortium.cli import rehearsal

    rehearsal.rehearse(study, data=data, out=out, keep=keep, as_json=json)


@app.command()
def plan(
    study: StudyFile,
    draw: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw the first round into this file.")
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Compile a study: print its digest and the steps of a round."""
    from cohortium.cli import verbs

    verbs.plan(study, draw=draw, data=data, as_json=json)


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
) -> None:
    """Write a commented study.toml to start from; it runs as it is, offline."""
    from cohortium.cli import verbs

    verbs.new(folder)


@app.command()
def doctor(json: Json = False) -> None:
    """Check this machine: Python, packages, processor, disk, datasets."""
    from cohortium.cli import verbs

    verbs.doctor(as_json=json)


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as heart-disease.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Take the files from this folder, offline."),
    ] = None,
) -> None:
    """Download a dataset from its publisher, or take it from a folder; both are checked."""
    from cohortium.cli import verbs

    verbs.data_get(name, source)


@data_app.command("write")
def data_write(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as breast-cancer.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write the files.")],
) -> None:
    """Write a dataset as one file per hospital, such as to rehearse a federation with."""
    from cohortium.cli import verbs

    verbs.data_write(name, folder)


@data_app.command("list")
def data_list(json: Json = False) -> None:
    """List the datasets that Cohortium knows, and whether they are here."""
    from cohortium.cli import verbs

    verbs.data_list(as_json=json)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; the console script."""
    code: object
    try:
        code = guarded(lambda: app(prog_name="cohortium"))
    except KeyboardInterrupt:
        code = _interrupted()
    except SystemExit as end:  # how Typer ends, after Ctrl-C too
        code = _interrupted() if end.code == INTERRUPTED else end.code
    sys.exit(code)


def _interrupted() -> int:
    tell("interrupted: nothing half-written is left")
    return INTERRUPTED
