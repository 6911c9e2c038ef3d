"""What a worker process may use of the machine."""

from __future__ import annotations

import os
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What a worker process may use; None leaves it unlimited.

    Attributes:
        memory_bytes: private memory of the process, libraries' own (about 250 MiB with PyTorch) and
            the records included.
        cpu_threads: threads that compute; None as many as `OMP_NUM_THREADS` or the processor says.
            The last bits of large models can depend on it.
        seconds: for one step.
        start_seconds: for starting the process, importing the framework and building the model.
        nice: added to the process's niceness.
        gpu: whether the process is given the machine's NVIDIA devices. Tasks of this version
            compute on the processor alone; study code that uses them does so by itself.
        tmp_bytes: of temporary files, where an isolation has room for them.
    """

    memory_bytes: int | None = None
    cpu_threads: int | None = None
    seconds: float | None = None
    start_seconds: float | None = 300.0
    nice: int = 10
    gpu: bool = False
    tmp_bytes: int = 64 * MIB

    @property
    def tasks(self) -> int:
        """Most threads of one worker: several pools of one per processor, and some."""
        return 256 + 8 * (os.cpu_count() or 1)


def size_told(size: int) -> str:
    """Return a number of bytes for people.

    >>> size_told(3 << 29), size_told(900)
    ('1.5 GiB', '900 bytes')
    """
    for unit, name in ((1 << 30, "GiB"), (MIB, "MiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"
