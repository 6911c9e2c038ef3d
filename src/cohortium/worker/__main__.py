"""A worker process: `python -m cohortium.worker CONFINEMENT`. Started by `worker.py` only."""

from __future__ import annotations

import os
import sys

from cohortium.worker.confinement import Confinement


def main() -> None:
    """Lock this process in, then serve whoever started it, until that closes its end."""
    Confinement.from_json(sys.argv[1]).apply()
    reading, writing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what study code prints is no message

    from cohortium.worker.service import serve  # starts threads: only now, or they are not locked
    from cohortium.worker.wire import OUT_OF_MEMORY

    try:
        serve(reading, writing)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
