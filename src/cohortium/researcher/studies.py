"""A researcher's studies at the hub: submitted, answered by sites, steered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cohortium.errors import ArgumentError, Problem, RefusedError
from cohortium.governance.exposure import exposures
from cohortium.governance.grant import Grant
from cohortium.governance.roster import HUB
from cohortium.identity import Document
from cohortium.plan.plan import Member
from cohortium.researcher.profile import Profile, write_file
from cohortium.study.bundle import Bundle, named_files
from cohortium.study.compile import compile_plan
from cohortium.study.read import parse, read
from cohortium.transport.client import HubClient
from cohortium.types import SiteId

TEXT = "study.toml"
FILES = "files.json"


@dataclass(frozen=True)
class Standing:
    """How one site stands to a study: "approved", "declined" or "asked", and what it said."""

    site: str
    answer: str
    told: str = ""


@dataclass(frozen=True)
class Study:
    """A study as the hub tells of it.

    Attributes:
        row: what the hub said.
    """

    row: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return str(self.row["digest"])

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @property
    def status(self) -> str:
        """One of "open", "running", "paused", "finished", "stopped" and "failed"."""
        return str(self.row["status"])

    @property
    def has_ended(self) -> bool:
        return self.status in ("finished", "stopped", "failed")

    @property
    def run(self) -> str:
        """The newest run's id; empty where there has been none."""
        return str(self.row["run"] or "")

    @property
    def reason(self) -> str:
        return str(self.row["reason"])

    def standings(self) -> list[Standing]:
        """Return how every site stands to it; of a study that names none, those that answered."""
        grants = {g.site: g for g in (Grant.of(Document.from_json(g)) for g in self.row["grants"])}
        declined = {entry["site"]: entry["reason"] for entry in self.row["declines"]}
        asked = self.row["sites"] or dict.fromkeys((*self.row["granted"], *declined))
        return [_standing(str(site), grants, declined, self.row["granted"]) for site in asked]


def submit(profile: Profile, path: Path) -> Study:
    """Check a study and hand it to the hub, with its files.

    Raises:
        StudyError: with every problem found.
        RequestError: the hub refuses it.
    """
    bundle = read(path)
    check(bundle)
    text = path.read_bytes().decode("utf-8-sig")
    client = profile.client()
    for content in bundle.files.values():
        client.upload(hashlib.sha256(content).hexdigest(), content)
    said = client.call("POST", "/v1/studies", {"text": text, "files": digests(bundle)})
    if said["digest"] != bundle.digest:
        got, ours = str(said["digest"])[:12], bundle.digest[:12]
        raise RefusedError(
            f"the hub reads the study as {got}, this machine as {ours}: are they of one version?"
        )
    save(profile, text, bundle)
    return one(client, bundle.digest)


def check(bundle: Bundle) -> None:
    """Refuse a study whose plan its own sites do not fit, as far as it names them.

    Raises:
        StudyError: with what does not fit.
    """
    plan = bundle.study.plan
    if plan.sites is not None:
        only = frozenset(plan.evaluation_only)
        members = [Member(SiteId(site), 1, trains=site not in only) for site in plan.sites]
        compile_plan(bundle, members)


def all_of(client: HubClient) -> list[Study]:
    """Return the studies that the hub shows to this member, oldest first."""
    return [Study(row) for row in client.call("GET", "/v1/studies")]


def one(client: HubClient, digest: str) -> Study:
    """Return one study by its whole digest."""
    return Study(client.call("GET", f"/v1/studies/{digest}"))


def find(client: HubClient, wanted: str) -> Study:
    """Return the study with a name, or with a digest that begins like this.

    Raises:
        ArgumentError: there is none, or more than one.
    """
    known = all_of(client)
    found = [study for study in known if study.digest == wanted or study.name == wanted]
    found = found or [study for study in known if study.digest.startswith(wanted.lower())]
    if len(found) == 1:
        return found[0]
    if not found:
        names = ", ".join(dict.fromkeys(study.name for study in known)) or "none yet"
        got, expected = f"{wanted!r}", "the name of a study, or the beginning of its digest"
        raise ArgumentError(Problem("arguments", "ID", got, expected, f"There are: {names}"))
    several = ", ".join(f"{study.digest[:12]} ({study.status})" for study in found)
    got, advice = f"{wanted!r}, which several studies fit", f"Give more of the digest: {several}"
    raise ArgumentError(Problem("arguments", "ID", got, "one study", advice))


def change(client: HubClient, study: Study, what: str, *, reason: str = "") -> Study:
    """Start, pause, resume or stop a study; return how it stands then."""
    client.call("POST", f"/v1/studies/{study.digest}/{what}", {"reason": reason})
    return one(client, study.digest)


def exposed(bundle: Bundle, sites: Sequence[str]) -> list[str]:
    """Return who could read what, in sentences.

    `sites`: those that take part, as far as they are known.

    Raises:
        StudyError: these sites do not fit the study.
    """
    plan, only = bundle.study.plan, frozenset(bundle.study.plan.evaluation_only)
    members = [Member(SiteId(site), 1, trains=site not in only) for site in plan.sites or sites]
    found = exposures(compile_plan(bundle, members), plan.hosts)
    if all(entry.host != HUB for entry in found):
        return [*(entry.told for entry in found), "the hub reads nothing but who writes to whom"]
    return [entry.told for entry in found]


# -- the study's own files -------------------------------------------------------------------------


def save(profile: Profile, text: str, bundle: Bundle) -> None:
    """Keep a study's text and files, so that its result can be made without the hub."""
    folder = profile.folder / "studies" / bundle.digest
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for content in bundle.files.values():
        write_file(folder / hashlib.sha256(content).hexdigest(), content)
    write_file(folder / TEXT, text.encode())
    write_file(folder / FILES, json.dumps(digests(bundle)).encode())


def bundle_of(profile: Profile, client: HubClient, study: Study) -> Bundle:
    """Return a study's bundle: the copy that is kept here, or else the hub's.

    Raises:
        RefusedError: the hub's is not what the digest says.
    """
    folder = profile.folder / "studies" / study.digest
    if (folder / FILES).exists():
        files = json.loads((folder / FILES).read_text("utf-8"))
        held = {path: (folder / digest).read_bytes() for path, digest in files.items()}
        return parse((folder / TEXT).read_text("utf-8"), held, where=study.name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = {path: _fetched(client, digest) for path, digest in study.row["files"].items()}
    bundle = parse(study.row["text"], held, where=study.name)
    if bundle.digest != study.digest:
        raise RefusedError(f"the hub's study {study.digest[:12]} is not what its digest says")
    save(profile, study.row["text"], bundle)
    return bundle


def digests(bundle: Bundle) -> dict[str, str]:
    """Return the SHA-256 of each of a bundle's files, by path."""
    return {
        path: hashlib.sha256(bundle.files[path]).hexdigest()
        for _, path in named_files(bundle.study)
    }


def _fetched(client: HubClient, digest: str) -> bytes:
    content = bytearray(client.size(digest))
    client.download(digest, len(content), content)
    return bytes(content)


def _standing(
    site: str, grants: Mapping[str, Grant], declined: Mapping[str, str], granted: Sequence[str]
) -> Standing:
    if site in grants:
        given = grants[site]
        return Standing(site, "approved", f"{given.rows.train} training rows of {given.dataset}")
    if site in granted:  # behind an honest broker, that it consented is all that is told
        return Standing(site, "approved")
    if site in declined:
        return Standing(site, "declined", declined[site])
    return Standing(site, "asked")
