"""No deadlines: the machines that run these tests are shared. And folders of images to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

ImageFolder = Callable[..., Path]


@pytest.fixture
def image_folder(tmp_path: Path) -> ImageFolder:
    """A function that writes images, given as arrays, and their labels; it returns the folder."""

    def write(images: Sequence[Any], labels: Sequence[object], *, name: str = "films") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        rows = ["file,label"]
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(np.asarray(image)).save(folder / f"{number}.png")
            rows.append(f"{number}.png,{label}")
        (folder / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
        return folder

    return write
