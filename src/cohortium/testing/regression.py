"""A small task without torch: least squares by mini-batch gradient descent, in numpy.

Fast and seeded, for tests of plans, actors and engines. It has no block kernel.

Legend: F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cohortium.learning.task import Cursor, Trained, TrainJob
from cohortium.records import Part, SiteData
from cohortium.types import ArraySpec, Layout, Params, SiteId, Statistics, Update, derive_rng


class LeastSquares:
    """Fit y by x w + b with steps of `lr` on batches of `batch_size` rows.

    Args:
        features: length of w.
        lr: learning rate.
        batch_size: rows per step; the last batch of an epoch may be shorter.
    """

    metrics = ("loss",)
    statistics: Mapping[str, tuple[int, ...]] = {"loss": (2,)}

    def __init__(self, features: int, *, lr: float = 0.05, batch_size: int = 8) -> None:
        self.layout = Layout(
            (ArraySpec("w", (features,), "float32"), ArraySpec("b", (1,), "float32"))
        )
        self.lr, self.batch_size = np.float32(lr), batch_size

    def initial(self, seed: int) -> Params:
        """Return normal parameters."""
        size = self.layout.sizes["float32"]
        drawn = derive_rng(seed, "init").normal(size=size).astype(np.float32)
        return Params(self.layout, {"float32": drawn})

    def train(self, jobs: Sequence[TrainJob]) -> list[Trained]:
        """Train each site from its own parameters."""
        return [self._train(job) for job in jobs]

    def block_size(self, job: TrainJob) -> int:
        """There is no kernel."""
        del job
        return 1

    def evaluate(self, params: Params, data: Part) -> Statistics:
        """Return the sum of squared errors, and the number of rows."""
        wb = params.buffers["float32"].astype(np.float64)
        error = data.x.astype(np.float64) @ wb[:-1] + wb[-1] - data.y.astype(np.float64)
        return {"loss": np.array([np.square(error).sum(), len(data)])}

    def value(self, metric: str, statistics: Statistics) -> float | None:
        """Return the mean squared error."""
        total, rows = statistics[metric]
        return float(total / rows) if rows else None

    def _train(self, job: TrainJob) -> Trained:
        wb = job.params.buffers["float32"].astype(np.float32)
        ones = np.ones((len(job.data), 1), np.float32)
        x = np.concatenate([job.data.x.astype(np.float32), ones], axis=1)
        y = job.data.y.astype(np.float32)
        cursor = job.cursor
        for _ in range(self._steps(job)):
            order = derive_rng(job.seed, "batches", job.site, cursor.epoch).permutation(len(x))
            rows = order[cursor.position : cursor.position + self.batch_size]
            error = x[rows] @ wb - y[rows]
            wb = wb - self.lr * (x[rows].T @ error) / np.float32(len(rows))
            end = cursor.position + len(rows)
            cursor = Cursor(cursor.epoch, end) if end < len(x) else Cursor(cursor.epoch + 1, 0)
        update = Update(Params(self.layout, {"float32": wb}), float(len(job.data)))
        return Trained(update, cursor)

    def _steps(self, job: TrainJob) -> int:
        if job.work.steps is not None:
            return job.work.steps
        return (job.work.epochs or 1) * -(-len(job.data) // self.batch_size)


def hospitals(
    rows: Mapping[str, int], *, features: int = 3, seed: int = 0, held_out: int = 5
) -> dict[SiteId, SiteData]:
    """Return simulated hospitals whose records follow one linear rule, with a shift of their own.

    Args:
        rows: training rows by name.
        features: F.
        seed: of the records.
        held_out: test rows, and validation rows, of each.
    """
    rule = derive_rng(seed, "rule").normal(size=features)

    def part(name: str, use: str, n: int) -> Part:
        rng = derive_rng(seed, name, use)
        x = rng.normal(loc=derive_rng(seed, name).normal(scale=0.5), size=(n, features))
        y = x @ rule + rng.normal(scale=0.1, size=n)
        return Part(x.astype(np.float32), y.astype(np.float32))

    return {
        SiteId(name): SiteData(
            part(name, "train", n),
            part(name, "validation", held_out),
            part(name, "test", held_out),
        )
        for name, n in rows.items()
    }
