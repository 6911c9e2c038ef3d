"""Studies as bytes on this node's disk: what was read and approved is what runs.

studies/<digest>/study.toml
studies/<digest>/files/…       the code and the models that it names, to read
studies/<digest>/initial.safetensors
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cohortium.errors import RefusedError, RunFailedError
from cohortium.learning.model_file import load
from cohortium.runtime.codec import model_parts
from cohortium.store.files import write_private
from cohortium.study.bundle import FILE_LIMIT, Bundle
from cohortium.study.read import parse
from cohortium.transport.client import HubClient
from cohortium.types import Layout, Params

NAME_LIMIT = 255
"""Bytes of a file's name, at most, on most disks."""

TEXT, FILES, INITIAL = "study.toml", "files", "initial.safetensors"


@dataclass(frozen=True)
class Bundles:
    """The studies in a folder. `folder`: holds one folder per study."""

    folder: Path

    def of(self, digest: str) -> Path:
        """Return where a study's files are."""
        return self.folder / digest

    def fetch(self, study: Mapping[str, Any], client: HubClient) -> Bundle:
        """Return a study that the hub offers, after checking that it is what its digest says.

        Raises:
            RefusedError: it is not.
            StudyError: it is invalid.
        """
        digest, text = str(study["digest"]), str(study["text"])
        files = {}
        for path, blob in study["files"].items():
            size = client.size(blob)
            if size > FILE_LIMIT:
                raise RefusedError(f"the file {path!r} has {size} bytes, more than a study's may")
            content = bytearray(size)
            client.download(blob, size, content)
            files[_inside(path)] = bytes(content)
        bundle = _checked(text, files, digest)
        self._keep(digest, text, bundle.files)
        return bundle

    def load(self, digest: str) -> Bundle:
        """Return a study that was fetched before.

        Raises:
            RunFailedError: it is not here, or was changed on disk.
        """
        folder = self.of(digest)
        files = folder / FILES
        try:
            text = (folder / TEXT).read_text("utf-8")
            found = {
                path.relative_to(files).as_posix(): path.read_bytes()
                for path in files.rglob("*")
                if path.is_file()
            }
            return _checked(text, found, digest)
        except (OSError, RefusedError) as error:
            raise _damaged(folder, error) from error

    def keep_initial(self, digest: str, params: Params) -> tuple[Path, str]:
        """Write the model that a study starts from; return its file and the file's SHA-256."""
        content = b"".join(model_parts(params))
        path = self.of(digest) / INITIAL
        write_private(path, content)
        return path, hashlib.sha256(content).hexdigest()

    def initial(self, digest: str, layout: Layout, *, model: str) -> Params:
        """Return the model that a study starts from.

        Args:
            digest: of the study.
            layout: its arrays.
            model: its digest.

        Raises:
            RunFailedError: it is not here, or another one.
            ModelError: its file is damaged.
        """
        params = load(self.of(digest) / INITIAL, layout)
        if params.digest != model:
            raise _damaged(self.of(digest) / INITIAL, "another model")
        return params

    def _keep(self, digest: str, text: str, files: Mapping[str, bytes]) -> None:
        folder = self.of(digest)
        for path, content in files.items():
            place = folder / FILES / path
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(place, content)
        folder.mkdir(mode=0o700, exist_ok=True)
        write_private(folder / TEXT, text.encode())


def _checked(text: str, files: Mapping[str, bytes], digest: str) -> Bundle:
    bundle = parse(text, files, where="study")
    if bundle.digest != digest:
        raise RefusedError(
            f"a study with the digest {bundle.digest[:12]}; expected {digest[:12]}: its text or a "
            "file of it was changed on the way, or the versions of Cohortium differ"
        )
    return bundle


def _inside(path: str) -> str:
    """Return a path that stays inside the study's folder."""
    plain = PurePosixPath(path)
    if plain.is_absolute() or ".." in plain.parts or str(plain) != path or "\\" in path:
        raise RefusedError(f"the study names the file {path[:100]!r}, which is outside of it")
    longest = max((len(part.encode("utf-8", "replace")) for part in plain.parts), default=0)
    if "\0" in path or longest > NAME_LIMIT:
        raise RefusedError(f"the study names the file {path[:100]!r}, which no disk can hold")
    return path


def _damaged(place: Path, why: object) -> RunFailedError:
    advice = "Fetch it again: cohortium node study show, then approve it again"
    return RunFailedError(f"{place} is not what was approved: {why}", advice)
