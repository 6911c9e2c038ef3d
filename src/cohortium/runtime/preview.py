"""What would leave each site in a round, before anything runs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from cohortium.runtime.bench import Bench
from cohortium.types import VALIDATION

FLOAT64 = 8


def preview(bench: Bench) -> dict[str, Any]:
    """Check a study, its data and its model; return what each site would share, as JSON values.

    Raises:
        InvalidInputError: something does not fit.
    """
    study, task = bench.study, bench.task(bench.study)
    bench.initial(study, task)
    prefixes = ("", VALIDATION) if study.data.split.validation > 0 else ("",)
    statistics = task.statistics if study.task.evaluate else {}
    shapes = {prefix + name: shape for prefix in prefixes for name, shape in statistics.items()}
    return {
        "study": study.study.name,
        "digest": bench.bundle.digest,
        "sites": [
            {**asdict(prepared.summary), "trains": site in bench.trains}
            for site, prepared in bench.sites.items()
        ],
        "leaves": {
            "arrays": [asdict(spec) for spec in task.layout.specs],
            "array_bytes": task.layout.nbytes,
            "statistics": shapes,
            "statistics_bytes": FLOAT64 * sum(math.prod(shape) for shape in shapes.values()),
        },
    }
