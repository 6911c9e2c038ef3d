"""Folders of images: what they become, and every way in which one is wrong."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cohortium.data import images as module
from cohortium.data.images import list_images, read_images, shape_of
from cohortium.errors import DataError

ImageFolder = Callable[..., Path]
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
RGB = np.arange(36, dtype=np.uint8).reshape(3, 4, 3) * 7


def read(folder: Path) -> Any:
    listed = list_images(folder, folder / "labels.csv")
    return read_images(listed, where=str(folder))


def test_grey_and_colour_become_numbers_from_0_to_1(image_folder: ImageFolder) -> None:
    grey = read(image_folder([GREY, GREY[::-1]], ["ill", "well"], name="grey"))
    assert (grey.x.dtype, grey.x.shape) == (np.float32, (2, 1, 3, 4))
    assert np.array_equal(grey.x[0, 0], GREY.astype(np.float32) / np.float32(255))
    assert grey.target.values.tolist() == ["ill", "well"]
    assert grey.target.rows.tolist() == [2, 3]
    colour = read(image_folder([RGB], [1], name="colour"))
    assert colour.x.shape == (1, 3, 3, 4)
    assert np.array_equal(colour.x[0, 2], RGB[..., 2].astype(np.float32) / np.float32(255))


def test_sixteen_and_one_bits_end_at_1_too(image_folder: ImageFolder) -> None:
    deep = np.array([[0, 257, 65535]], np.uint16)
    bits = np.array([[False, True, True]])
    x = read(image_folder([deep, bits], [0, 1])).x
    assert x[:, 0, 0].tolist() == [[0, float(np.float32(257) / np.float32(65535)), 1], [0, 1, 1]]


def test_a_jpeg_in_a_folder_inside_is_read(image_folder: ImageFolder) -> None:
    folder = image_folder([], [])
    (folder / "2024").mkdir()
    Image.fromarray(np.full((8, 8), 128, np.uint8)).save(folder / "2024" / "a.JPG", "JPEG")
    (folder / "labels.csv").write_text("label,file\n1,./2024/a.JPG\n", encoding="utf-8")
    assert read(folder).x.mean() == pytest.approx(128 / 255, abs=0.01)


def test_only_headers_are_read_for_the_shape(image_folder: ImageFolder) -> None:
    folder = image_folder([RGB], [0])
    content = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(content[: content.index(b"IDAT") + 8])
    listed = list_images(folder, folder / "labels.csv")
    assert shape_of(listed) == (3, 3, 4)
    with pytest.raises(DataError, match="row 2: got another or a damaged file"):
        read_images(listed, where="")


def labels(*lines: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")

    return write


def put(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def link_out(folder: Path) -> None:
    secret = folder.parent / "secret.png"
    (folder / "1.png").rename(secret)
    (folder / "1.png").symlink_to(secret)


def circle(folder: Path) -> None:
    (folder / "1.png").unlink()
    (folder / "1.png").symlink_to("1.png")


def image(pixels: Any, mode: str | None = None, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    made = Image.fromarray(np.asarray(pixels))
    (made if mode is None else made.convert(mode)).save(buffer, kind)
    return buffer.getvalue()


def vast(width: int, height: int) -> bytes:
    """Return a PNG that claims to be vast, as a bomb would."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


GIVEN = "file,label", "0.png,0"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (labels(*GIVEN), "got 1 image in the folder without a row; expected one row per image"),
        (labels(*GIVEN, "1.png,1", "2.png,1"), "row 4: got no file inside the folder"),
        (labels(*GIVEN, "1.png,1", "./1.png,0"), "row 4: got another row's image"),
        (labels(*GIVEN, "../films/1.png,1"), "row 3: got no file inside the folder"),
        (labels(*GIVEN, "/etc/hostname,1"), "row 3: got no file inside the folder"),
        (labels(*GIVEN, f"{'a' * 5000}.png,1"), "row 3: got no file inside the folder"),
        (labels(*GIVEN, ",1"), "row 3: got no file inside the folder"),
        (labels("name,label", "0.png,0"), "column 'file': got no such column; expected the col"),
        (labels("file,label"), "got no rows"),
        (lambda folder: (folder / "labels.csv").unlink(), "labels.csv: got no such file"),
        (link_out, "row 3: got no file inside the folder"),
        (circle, "row 3: got no file inside the folder"),
        (put("1.png", b""), "row 3: got another or a damaged file; expected a PNG or JPEG"),
        (put("1.png", b"GIF89a" + bytes(20)), "row 3: got another or a damaged file"),
        (put("1.png", image(GREY, kind="TIFF")), "row 3: got another or a damaged file"),
        (put("1.png", image(GREY)[:45]), "row 3: got another or a damaged file"),
        (put("1.png", image(GREY.T)), "got 3 x 4 pixels in grey; expected 4 x 3 pixels in grey"),
        (put("1.png", image(RGB)), "got 4 x 3 pixels in RGB; expected 4 x 3 pixels in grey, as in"),
        (put("1.png", image(RGB, "RGBA")), "an image of mode RGBA; expected grey or RGB. Save it"),
        (put("1.png", image(RGB, "P")), "an image of mode P; expected grey or RGB"),
        (put("1.png", image(RGB, "CMYK", "JPEG")), "an image of mode CMYK"),
        (put("1.png", vast(5000, 5000)), "row 3: got an image that is too large; expected at most"),
        (put("1.png", vast(12_000, 12_000)), "row 3: got an image that is too large"),
        (put("1.png", vast(60_000, 60_000)), "row 3: got an image that is too large"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_row(
    image_folder: ImageFolder, spoil: Callable[[Path], None], said: str
) -> None:
    folder = image_folder([GREY, GREY], [0, 1])
    spoil(folder)
    with pytest.raises(DataError) as caught:
        read(folder)
    assert said in str(caught.value)
    assert not any(name in str(caught.value) for name in ("0.png", "1.png", "2.png", "hostname"))


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got no such folder"):
        list_images(tmp_path / "nowhere", tmp_path / "labels.csv")


def test_more_images_than_fit_into_memory_are_refused(
    image_folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder([GREY, GREY], [0, 1])
    monkeypatch.setattr(module, "MAX_BYTES", 95)
    with pytest.raises(DataError, match="got 2 of 4 x 3 pixels in grey; expected at most 8 GiB"):
        read(folder)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4), st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_image_is_read_or_refused(
    tmp_path: Path, changes: Sequence[tuple[int, int]], data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG"]))
    content = bytearray(image(np.tile(RGB, (3, 3, 1)), kind=kind))
    for place, value in changes:
        content[place % len(content)] = value
    del content[data.draw(st.integers(1, len(content))) :]
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "labels.csv").write_text("file,label\na.png,0\n", encoding="utf-8")
    with suppress(DataError):
        x = read(tmp_path).x
        assert 0 <= x.min() <= x.max() <= 1
