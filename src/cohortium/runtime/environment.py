"""What a result depends on beside the study: versions, processor, system."""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("cohortium", "numpy", "torch", "scikit-learn", "safetensors")


def environment() -> dict[str, str]:
    """Return versions of what computes, the kind of processor, and the system; no host name."""
    found = {"python": platform.python_version(), "system": f"{sys.platform} {platform.machine()}"}
    found["processor"] = _processor()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
