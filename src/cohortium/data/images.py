"""A folder of PNG or JPEG images with labels, by Pillow. Imported only where one is read.

What an image is called may tell who is in it: messages name rows of the labels, never files.

Legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from cohortium.data.arrays import Arrays
from cohortium.data.extra import needs
from cohortium.data.npz import MAX_BYTES
from cohortium.data.table import Column, Table, read_csv, shown
from cohortium.errors import DataError, Problem

with needs("pillow", "to read images", extra="images"):
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
MAX_PIXELS = 1 << 24
"""Pixels of the largest image that is read: 4,096 x 4,096."""

GREATEST: dict[str, int] = {"1": 1, "L": 255, "RGB": 255, "I;16": 65535, "I": 65535}
"""Pillow's mode of an image to the number that becomes 1; "I" is 16 bits, too, in a PNG."""

Shape = tuple[int, int, int]
"""(C, H, W)."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """The images that a table of labels names, in its order.

    Attributes:
        labels: the table's column of labels; its rows number the images.
        files: each image's place; it is a file inside the folder.
        names: each image's path relative to the folder, as the table writes it.
    """

    labels: Column
    files: tuple[Path, ...]
    names: tuple[str, ...]


def list_images(
    folder: Path, labels: Path, *, file: str = "file", label: str = "label"
) -> Labelled:
    """Return the images that the labels name; look at no image yet.

    Args:
        folder: where the images lie, also in folders inside it.
        labels: a CSV file with a header, one row per image.
        file: its column of paths relative to the folder, with forward slashes.
        label: its column of labels.

    Raises:
        DataError: no folder or labels, a row without an image inside the folder or with another
            row's image, or images without a row.
    """
    if not folder.is_dir():
        raise _error(shown(folder), "", "no such folder", "a folder of images", "Check the path.")
    table = read_csv(labels)
    for name in (file, label):
        if name not in table.columns:
            got, expected = "no such column", f"the columns {file} and {label}"
            raise _error(table.where, f"column {name!r}", got, expected, "Rename its columns.")
    names = tuple(str(PurePosixPath(name)) for name in table.columns[file])
    files = tuple(_files(folder, names, table))
    _check_unnamed(folder, names, table.where)
    return Labelled(table.column(label), files, names)


def read_images(listed: Labelled, *, where: str) -> Arrays:
    """Return the images as numbers from 0 to 1, float32 of shape (N, C, H, W).

    Args:
        listed: which images.
        where: the folder, for messages.

    Raises:
        DataError: as `shape_of`, or an image that is damaged.
    """
    shape, rows = shape_of(listed), listed.labels.rows
    x = np.empty((len(listed.files), *shape), np.float32)
    for image_CHW, row, file in zip(x, rows, listed.files, strict=True):
        with _opened(file, int(row), listed) as image:
            pixels = np.asarray(image, np.float32)
            image_CHW[...] = _channels_first(pixels) / np.float32(GREATEST[image.mode])
    return Arrays(x, listed.labels, where)


def shape_of(listed: Labelled) -> Shape:
    """Return the shape (C, H, W) that all images have, from their headers.

    Raises:
        DataError: an image that is too large, of another shape or kind than is read, no PNG or
            JPEG, or more images than fit into memory.
    """
    first: Shape | None = None
    for row, file in zip(listed.labels.rows, listed.files, strict=True):
        with _opened(file, int(row), listed) as image:
            shape = _shape(image, int(row), listed)
        first = first or shape
        if shape != first:
            expected = f"{told(first)}, as in row {listed.labels.rows[0]}"
            advice = "Bring all images to one size and kind."
            raise _refusal(listed, int(row), told(shape), expected, advice)
    assert first is not None  # a table has rows
    if 4 * len(listed.files) * prod(first) > MAX_BYTES:
        got, expected = f"{len(listed.files)} of {told(first)}", "at most 8 GiB as float32"
        raise _error(listed.labels.where, "", got, expected, "Use smaller images.")
    return first


def _files(folder: Path, names: tuple[str, ...], table: Table) -> Iterator[Path]:
    """Yield each row's file, links followed, if that is inside the folder."""
    root, seen = folder.resolve(), set[str]()
    for row, name in zip(table.rows, names, strict=True):
        place = _inside(root, name)
        if place is None or name in seen:
            got = "another row's image" if name in seen else "no file inside the folder"
            expected = "an image of its own, by its path relative to the folder"
            advice = "Correct the row, or bring the image."
            raise _error(table.where, f"row {row}", got, expected, advice)
        seen.add(name)
        yield place


def _inside(root: Path, name: str) -> Path | None:
    if ".." in PurePosixPath(name).parts:
        return None
    try:
        place = (root / name).resolve()
        return place if place.is_relative_to(root) and place.is_file() else None
    except (OSError, ValueError, RuntimeError):  # a name too long, with NUL; links in a circle
        return None


def _check_unnamed(folder: Path, names: tuple[str, ...], where: str) -> None:
    known, unnamed = set(names), 0
    for path in folder.rglob("*"):
        is_image = path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        unnamed += is_image and path.relative_to(folder).as_posix() not in known
    if unnamed:
        got = f"{unnamed} image{'s' if unnamed > 1 else ''} in the folder without a row"
        raise _error(where, "", got, "one row per image", "Add the rows, or remove the images.")


@contextmanager
def _opened(file: Path, row: int, listed: Labelled) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # has its own limit
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                yield image
    except Image.DecompressionBombError as error:
        raise _too_large(listed, row) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        got, expected = "another or a damaged file", "a PNG or JPEG image that can be read"
        raise _refusal(listed, row, got, expected, "Export the image again.") from error


def _shape(image: Image.Image, row: int, listed: Labelled) -> Shape:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(listed, row)
    if image.mode not in GREATEST:
        advice = "Save it in grey or RGB, without transparency or palette."
        raise _refusal(listed, row, f"an image of mode {image.mode}", "grey or RGB", advice)
    return (3 if image.mode == "RGB" else 1, image.height, image.width)


def _channels_first(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def told(shape: Shape) -> str:
    """Say what images of a shape are.

    >>> told((1, 20, 30))
    '30 x 20 pixels in grey'
    """
    channels, height, width = shape
    return f"{width} x {height} pixels in {'RGB' if channels == 3 else 'grey'}"


def _too_large(listed: Labelled, row: int) -> DataError:
    got, expected = "an image that is too large", f"at most {MAX_PIXELS:,} pixels"
    return _refusal(listed, row, got, expected, "Scale the images down.")


def _refusal(listed: Labelled, row: int, got: str, expected: str, advice: str) -> DataError:
    return _error(listed.labels.where, f"row {row}", got, expected, advice)


def _error(where: str, key: str, got: str, expected: str, advice: str) -> DataError:
    return DataError(Problem(where, key, got, expected, advice))
