"""What a worker process and its parent say to each other: typed MessagePack, then raw bytes.

    4 bytes, length n | n bytes of MessagePack | the arrays that the message speaks of, end to end

Nothing is ever unpickled. A request is answered by one reply. The process runs code that others
wrote, so its replies are read into bounded memory and believed only as far as they are checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from cohortium.types import Array

HEADER_BYTES = 16 << 20
"""Largest message without its arrays."""

PIECE = 1 << 20
_LENGTH = 4

Wait = Callable[[int, bool], None]
"""Returns when a file descriptor can be read, or (True) written."""

Text = Annotated[str, msgspec.Meta(max_length=4096)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Shape = Annotated[tuple[Count, ...], msgspec.Meta(max_length=32)]


OUT_OF_MEMORY = 77
"""With this status a process ends that finds no memory for what it is sent."""


class WireError(Exception):
    """What came is no message."""


# -- requests --------------------------------------------------------------------------------------


class Assign(msgspec.Struct, tag=True):
    """What to work on. After it: the files, then x and y of each part.

    Attributes:
        study: the study's tables as JSON.
        digest: the bundle's.
        fingerprint, where: the bundle's.
        files: path and size of each.
        site: the name under which it trains.
        inputs: shape of one row.
        arrays: shape and dtype of x and y of training, validation and test.
    """

    study: bytes
    digest: str
    fingerprint: str | None
    where: str
    files: list[tuple[str, int]]
    site: str
    inputs: tuple[int, ...]
    arrays: list[tuple[tuple[int, ...], str]]


class Begin(msgspec.Struct, tag=True):
    """Return the model that the study starts from."""


class Perform(msgspec.Struct, tag=True):
    """Run a step; see `runtime.events.Run`. After it: the model."""

    round: int
    attempt: int
    step: str
    op: Literal["train", "evaluate"]
    cursor: tuple[int, int] | None
    measure: bool


class Probe(msgspec.Struct, tag=True):
    """Attack the isolation; see `probes.py`."""

    targets: dict[str, str | int]


Request = Assign | Begin | Perform | Probe

# -- replies ---------------------------------------------------------------------------------------


class Ready(msgspec.Struct, tag=True):
    """The process is locked in, and listens."""


class Built(msgspec.Struct, tag=True):
    """The study's task is built, and its model fits the site's batches.

    Attributes:
        arrays: name, shape and dtype of what is shared.
        statistics: name and shape of every additive statistic.
        metrics: names.
        initial: digest of the model that the study starts from.
        environment: versions, processor, system.
    """

    arrays: list[tuple[Name, Shape, Name]]
    statistics: dict[Name, Shape]
    metrics: tuple[Name, ...]
    initial: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    environment: dict[Name, Text]


class Model(msgspec.Struct, tag=True):
    """After it: a model."""


class Performed(msgspec.Struct, tag=True):
    """What a step gave. After it: the model, if it trained.

    Attributes:
        weight: of the update.
        statistics: float64 values by name.
        cursor: the batch iterator's new place.
    """

    weight: float
    statistics: dict[Name, bytes]
    cursor: tuple[Count, Count] | None


class Refused(msgspec.Struct, tag=True):
    """The study or its model is wrong: the parts of each `errors.Problem`."""

    problems: Annotated[
        list[tuple[Text, Text, Text, Text, Text]], msgspec.Meta(min_length=1, max_length=100)
    ]


class Failed(msgspec.Struct, tag=True):
    """Study code raised; type and message."""

    reason: Text
    memory: bool = False


class Probed(msgspec.Struct, tag=True):
    """What was attempted, whether it was prevented, and what was seen."""

    found: list[tuple[Name, bool, Text]]


Reply = Ready | Built | Model | Performed | Refused | Failed | Probed


def send(fd: int, message: object, arrays: Iterable[Array | bytes] = (), *, wait: Wait) -> None:
    """Write a message and the arrays that belong to it.

    Args:
        fd: to write to.
        message: a request or a reply.
        arrays: what follows it.
        wait: is called before each write.

    Raises:
        OSError: nobody reads.
        WireError: the message is too large.
    """
    header = msgspec.msgpack.encode(message)
    if len(header) > HEADER_BYTES:
        raise WireError(f"a message of {len(header)} bytes without its arrays")
    _write(fd, memoryview(len(header).to_bytes(_LENGTH, "big") + header), wait)
    for array in arrays:
        _write(fd, memoryview(array) if isinstance(array, bytes) else _bytes_of(array), wait)


def receive(fd: int, kinds: Any, *, wait: Wait) -> Any:
    """Read a message of some kinds; the arrays that belong to it are still to be read.

    Raises:
        EOFError: the other end is closed.
        WireError: what came is no message of these kinds.
    """
    length = int.from_bytes(fill_bytes(fd, _LENGTH, wait=wait), "big")
    if length > HEADER_BYTES:
        raise WireError(f"a message of {length} bytes, and {HEADER_BYTES} are the most")
    try:
        return msgspec.msgpack.decode(fill_bytes(fd, length, wait=wait), type=kinds)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WireError(f"no message ({error})") from error


def fill_bytes(fd: int, size: int, *, wait: Wait) -> bytearray:
    """Read so many bytes."""
    content = bytearray(size)
    _read(fd, memoryview(content), wait)
    return content


def fill(fd: int, array: Array, *, wait: Wait) -> None:
    """Read an array's bytes into it. Raises EOFError where the other end is closed."""
    _read(fd, _bytes_of(array), wait)


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _read(fd: int, view: memoryview, wait: Wait) -> None:
    while view:
        wait(fd, False)
        count = os.readv(fd, [view])
        if not count:
            raise EOFError
        view = view[count:]


def _write(fd: int, view: memoryview, wait: Wait) -> None:
    while view:
        wait(fd, True)
        view = view[os.write(fd, view[:PIECE]) :]
