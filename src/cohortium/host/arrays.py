"""A party's models on its own disk, each once, as safetensors files named by their digests."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np

from cohortium.errors import RunFailedError
from cohortium.governance.grant import layout_of
from cohortium.learning.model_file import NUMPY_NAMES, header_of
from cohortium.types import Params


class Arrays:
    """Models in a folder.

    A file is complete or absent: it is written beside its name, forced to disk, then renamed.

    Args:
        folder: made when the first model is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._here: WeakValueDictionary[str, Params] = WeakValueDictionary()
        self._kept: set[str] = set()

    def keep(self, params: Params) -> str:
        """Put a model away; return its digest."""
        digest = params.digest
        self._here[digest] = params
        if digest not in self._kept and not self._path(digest).exists():
            self._write(digest, params)
        self._kept.add(digest)
        return digest

    def load(self, digest: str) -> Params:
        """Return a model; one that is in memory already is not read again.

        Raises:
            RunFailedError: it is not here, or not what its name says.
        """
        found = self._here.get(digest)
        if found is not None:
            return found
        try:
            params = _read(self._path(digest))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise _broken(self._path(digest)) from error
        if params.digest != digest:
            raise _broken(self._path(digest))
        self._here[digest] = params
        self._kept.add(digest)
        return params

    def drop_all_but(self, digests: Collection[str]) -> None:
        """Drop every model that nothing names any more."""
        for path in self.folder.glob("*"):
            if path.name not in digests:
                path.unlink(missing_ok=True)
        self._kept.intersection_update(digests)

    def _path(self, digest: str) -> Path:
        return self.folder / digest

    def _write(self, digest: str, params: Params) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = self.folder / f".{digest}.part"
        try:
            with beside.open("wb") as file:
                file.write(header_of(params.layout))
                for dtype in params.layout.sizes:
                    file.write(np.ascontiguousarray(params.buffers[dtype]).view(np.uint8).data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path(digest))
        finally:
            beside.unlink(missing_ok=True)


def _read(path: Path) -> Params:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        table = json.loads(file.read(size))
        specs = [[name, e["shape"], NUMPY_NAMES[e["dtype"]]] for name, e in table.items()]
        layout = layout_of(specs)
        buffers = {dtype: np.fromfile(file, dtype, count) for dtype, count in layout.sizes.items()}
    return Params(layout, buffers)


def _broken(path: Path) -> RunFailedError:
    return RunFailedError(
        f"the journal lacks the model {path.name[:12]}, or its file is damaged",
        "Restore the folder from a backup, or stop the study",
    )
