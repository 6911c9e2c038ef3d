"""`cohortium hub`: the verbs of a federation's coordinator, and their options.

What they do is in `hub_verbs.py`, imported when one runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="The hub, where a federation meets: set it up, run it, invite members, back it up.",
    no_args_is_help=True,
)

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="The hub's folder; by default COHORTIUM_HOME, else one in the user's data folder.",
    ),
]
Study = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="The study's name, or the beginning of its digest."),
]
Site = Annotated[str, typer.Argument(metavar="SITE", help="The site's name.")]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why, for those whom it concerns.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def init(
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="What people call the federation.")
    ] = "federation",
    url: Annotated[
        str,
        typer.Option(
            "--url", metavar="URL", help="Where members will reach the hub: https://NAME[:PORT]."
        ),
    ] = "https://localhost:8443",
    broker: Annotated[
        bool,
        typer.Option(
            "--broker",
            help="Honest broker mode: in every study, sites appear under pseudonyms, and row "
            "counts are rounded. Who runs the hub knows them, and could invent some.",
        ),
    ] = False,
    home: Home = None,
) -> None:
    """Make a hub: its folder with settings, and the keys by which members will know it.

    Once per federation. Everything that the hub is lies in that folder: keep it, and back it up.
    """
    from cohortium.cli import hub_verbs

    hub_verbs.init(home, name=name, url=url, broker=broker)


@app.command()
def up(
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen", metavar="HOST:PORT", help="Where to listen; by default as hub.toml says."
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            metavar="URL",
            help="A file, or postgresql://...; by default as hub.toml says.",
        ),
    ] = None,
    blobs: Annotated[
        str | None,
        typer.Option(
            "--blobs",
            metavar="URL",
            help="A folder, or s3://BUCKET/PREFIX; by default as hub.toml says.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            "--tls-cert",
            metavar="FILE",
            help="PEM of the server's certificate with its chain, where another authority signed "
            "it; by default the hub is its own.",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="PEM of its key.")
    ] = None,
    home: Home = None,
) -> None:
    """Run the hub until Ctrl-C or SIGTERM: one process, one port, TLS.

    It goes on where it was, whatever ended it.
    """
    from cohortium.cli import hub_verbs

    hub_verbs.up(
        home, listen=listen, database=database, blobs=blobs, tls_cert=tls_cert, tls_key=tls_key
    )


@app.command()
def invite(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What the new member is to be called.")
    ],
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="site, researcher or coordinator.")
    ] = "site",
    hours: Annotated[
        float, typer.Option("--hours", min=0.01, help="How long the code may be used.")
    ] = 72.0,
    home: Home = None,
    json: Json = False,
) -> None:
    """Print a code with which one new member joins, once.

    Give it to them by a safe way, such as by telephone: who has it can join under this name.
    """
    from cohortium.cli import hub_verbs

    hub_verbs.invite(home, name, role=role, hours=hours, as_json=json)


@app.command()
def sites(home: Home = None, json: Json = False) -> None:
    """List the members: who is online, since when, and the fingerprints to compare by voice."""
    from cohortium.cli import hub_verbs

    hub_verbs.sites(home, as_json=json)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The member.")],
    reason: Reason = "",
    home: Home = None,
) -> None:
    """Let a member's keys be worth nothing from now on.

    Runs that it takes part in go on without it, if their quorum allows. It cannot be undone; a new
    invitation makes a new member of them.
    """
    from cohortium.cli import hub_verbs

    hub_verbs.revoke(home, name, reason=reason)


@app.command()
def studies(home: Home = None, json: Json = False) -> None:
    """List all studies: who submitted them, who has approved, what runs."""
    from cohortium.cli import hub_verbs

    hub_verbs.studies(home, as_json=json)


@app.command()
def extend(
    study: Study,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="How much longer sites get.")
    ] = 600.0,
    reason: Reason = "",
    home: Home = None,
) -> None:
    """Give the sites of a running study more time for the round in progress."""
    from cohortium.cli import hub_verbs

    hub_verbs.control(home, study, "extend", site="", seconds=seconds, reason=reason)


@app.command()
def exclude(study: Study, site: Site, reason: Reason = "", home: Home = None) -> None:
    """Leave a site out of a running study: nobody waits for it, and it counts as absent."""
    from cohortium.cli import hub_verbs

    hub_verbs.control(home, study, "exclude", site=site, seconds=0.0, reason=reason)


@app.command()
def readmit(study: Study, site: Site, reason: Reason = "", home: Home = None) -> None:
    """Let a site that was excluded take part again, from the next round on."""
    from cohortium.cli import hub_verbs

    hub_verbs.control(home, study, "readmit", site=site, seconds=0.0, reason=reason)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write.")],
    home: Home = None,
) -> None:
    """Write the hub's folder and database into one file, while the hub runs or not.

    The file holds the hub's secret keys: keep it as you would keep those.
    """
    from cohortium.cli import hub_verbs

    hub_verbs.backup(home, file)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `hub backup` wrote.")],
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            metavar="URL",
            help="Where the tables go: a file, or postgresql://...; by default where they were.",
        ),
    ] = None,
    blobs: Annotated[
        str | None,
        typer.Option(
            "--blobs",
            metavar="URL",
            help="Where blobs go: a folder, or s3://BUCKET/PREFIX; by default where they were.",
        ),
    ] = None,
    home: Home = None,
) -> None:
    """Make a hub's folder from a backup, into a folder that is not there yet.

    Members notice that the hub went back in time: nodes send again what it has forgotten.
    """
    from cohortium.cli import hub_verbs

    hub_verbs.restore(home, file, database=database, blobs=blobs)


@app.command("rotate-keys")
def rotate_keys(home: Home = None) -> None:
    """Make new working keys, certified by the root key, which stays. The hub must be stopped.

    Nobody has to join again: members learn the new keys by themselves.
    """
    from cohortium.cli import hub_verbs

    hub_verbs.rotate_keys(home)
