"""Programs of the system that some tests drive.

The Debian packages that they are in are listed in `system-packages.txt`, beside this file.
"""

from __future__ import annotations

import os
import shutil

import pytest

_PLACES = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/usr/lib/squid"]
)


def find(program: str) -> str | None:
    """Return where a program is, also one that only administrators have in their path."""
    return shutil.which(program, path=_PLACES)


def need(*programs: str) -> None:
    """Skip the test that asks, or the module if it asks for all, naming what is missing.

    Where the variable CI is set nothing may be missing.
    """
    missing = [program for program in programs if find(program) is None]
    if not missing:
        return
    reason = f"not installed: {', '.join(missing)} (make system installs what tests drive)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)
