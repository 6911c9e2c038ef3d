"""`cohortium node`: the verbs of a hospital, and their options.

What they do is in `node_verbs.py`, imported when one runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="A hospital's node: join a federation, register data, approve studies, take part.",
    no_args_is_help=True,
)
data_app = typer.Typer(help="This site's datasets.", no_args_is_help=True)
study_app = typer.Typer(
    help="Studies that wait for this site, and what it answered.", no_args_is_help=True
)
app.add_typer(data_app, name="data")
app.add_typer(study_app, name="study")

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="The node's folder; by default COHORTIUM_HOME, else one in the user's data folder.",
    ),
]
Id = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="The study's name, or the beginning of its digest."),
]
DataName = Annotated[str, typer.Argument(metavar="NAME", help="The dataset's name at this site.")]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        help="Which of this site's datasets; not needed where there is one.",
    ),
]
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
            "--ca",
            metavar="FILE",
            help="PEM of certificates to trust, such as that of a proxy that inspects TLS.",
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
    """Join a federation: makes this site's keys, which never leave this machine.

    Compare the fingerprint that it prints with the coordinator's, by voice.
    """
    from cohortium.cli import node_verbs

    node_verbs.join(home, url, code, ca=ca, proxy=proxy)


@data_app.command("add")
def data_add(
    name: DataName,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A CSV or Parquet file, arrays (.npz), or a folder of images with labels.csv.",
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE", help="Of images: a CSV file with file,label."),
    ] = None,
    home: Home = None,
) -> None:
    """Register records under a name. They stay where they are; the node remembers the place.

    Their keyed fingerprint goes into every consent: if the records change, approve anew.
    """
    from cohortium.cli import node_verbs

    node_verbs.data_add(home, name, path, labels=labels)


@data_app.command("list")
def data_list(home: Home = None, json: Json = False) -> None:
    """List this site's datasets, and whether they are as they were registered."""
    from cohortium.cli import node_verbs

    node_verbs.data_list(home, as_json=json)


@data_app.command("remove")
def data_remove(name: DataName, home: Home = None) -> None:
    """Forget a dataset. Its records are not touched."""
    from cohortium.cli import node_verbs

    node_verbs.data_remove(home, name)


@study_app.command("list")
def study_list(home: Home = None, json: Json = False) -> None:
    """List the studies in which this site is wanted, and what it answered."""
    from cohortium.cli import node_verbs

    node_verbs.study_list(home, as_json=json)


@study_app.command("show")
def study_show(study: Id, home: Home = None, json: Json = False) -> None:
    """Show what a study wants: purpose, data, code, rounds, and who could read what."""
    from cohortium.cli import node_verbs

    node_verbs.study_show(home, study, as_json=json)


@study_app.command("approve")
def study_approve(
    study: Id,
    dataset: Dataset = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=0, help="At most so many rounds; by default the study's."),
    ] = None,
    days: Annotated[
        float, typer.Option("--days", min=0.01, help="For how long the consent holds.")
    ] = 90.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = None,
) -> None:
    """Sign this site's consent: this digest, this dataset, so many rounds, until then.

    Shows first what the study wants and what would leave, and asks.
    """
    from cohortium.cli import node_verbs

    node_verbs.study_approve(home, study, dataset=dataset, rounds=rounds, days=days, yes=yes)


@study_app.command("decline")
def study_decline(
    study: Id,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; the researcher reads it.")
    ] = "",
    home: Home = None,
) -> None:
    """Say no to a study, or take back a consent that was given."""
    from cohortium.cli import node_verbs

    node_verbs.study_decline(home, study, reason=reason)


@app.command()
def preview(study: Id, dataset: Dataset = None, home: Home = None, json: Json = False) -> None:
    """Show exactly what would leave this site in a round of a study, before anything does."""
    from cohortium.cli import node_verbs

    node_verbs.preview(home, study, dataset=dataset, as_json=json)


@app.command()
def up(home: Home = None) -> None:
    """Take part: run until Ctrl-C, SIGTERM or `node stop`. It dials out; it
    listens only where `direct.listen` of node.toml says so.

    It goes on where it was, whatever ended it.
    """
    from cohortium.cli import node_verbs

    node_verbs.up(home)


@app.command()
def stop(
    now: Annotated[
        bool, typer.Option("--now", help="Do not let the step in progress end.")
    ] = False,
    home: Home = None,
) -> None:
    """Stop the node that runs in this folder. Runs count this site as absent until it is back."""
    from cohortium.cli import node_verbs

    node_verbs.stop(home, now=now)


@app.command()
def status(home: Home = None, json: Json = False) -> None:
    """Show whether the node runs, which studies it carries, and what waits for people."""
    from cohortium.cli import node_verbs

    node_verbs.status(home, as_json=json)


@app.command()
def doctor(
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="A hub to reach, before this node has joined."),
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Check what stands between this machine and the hub, and say what to ask IT for.

    Proxy, TLS inspection, clock, disk, GPU, isolation of study code.
    """
    from cohortium.cli import node_verbs

    node_verbs.doctor(home, url=url, as_json=json)


@app.command("rotate-keys")
def rotate_keys(home: Home = None) -> None:
    """Make new working keys, certified by this site's root key, which stays."""
    from cohortium.cli import node_verbs

    node_verbs.rotate_keys(home)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write.")],
    home: Home = None,
) -> None:
    """Write this node's folder into one file, without records and without models under way.

    The file holds this site's secret keys: keep it as you would keep those.
    """
    from cohortium.cli import node_verbs

    node_verbs.backup(home, file)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `node backup` wrote.")],
    home: Home = None,
) -> None:
    """Make a node's folder from a backup, into a folder that is not there yet.

    If it ran after the backup, give it new keys before it goes up: `node rotate-keys`. It stays
    out of runs that went on meanwhile: their receipts show that it has forgotten something.
    """
    from cohortium.cli import node_verbs

    node_verbs.restore(home, file)
