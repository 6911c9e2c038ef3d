"""Training and evaluation of PyTorch modules, on the contract of `task.LocalTask`.

One module serves all sites: its parameters are views of a flat buffer into which a site's values
are copied. There is no optimizer object, no copy of the module and no state dict per site. Blocks
of sites of a model that is a stack of linear layers are trained together (`linear_stack.py`).

Legend: N rows, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import gcd

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import deterministic

from cohortium.errors import ModelError, Problem
from cohortium.learning.algorithm import LocalAlgorithm
from cohortium.learning.batches import Feed, Shuffler, Walk
from cohortium.learning.flat import ALIGNMENT, FlatModule, gradients_of
from cohortium.learning.linear_stack import SLOPES, LinearStack, layers_of
from cohortium.learning.losses import Loss
from cohortium.learning.metrics import Measures, Metric, Predictions
from cohortium.learning.models import ModuleSource
from cohortium.learning.optimizers import Optimizer
from cohortium.learning.plain import Plain
from cohortium.learning.task import Trained, TrainJob
from cohortium.records import Part
from cohortium.types import Array, Layout, Params, Statistics, Update, derive_seed

CHUNK_BYTES = 4 << 20
"""Size of the inputs that are evaluated at a time."""

Batch = tuple[Tensor, Tensor]


class TorchTask:
    """Training and evaluation of one study's model.

    Not for use by several threads at once: they would share one module.

    Args:
        source: builds a fresh module, initialised from PyTorch's global generator.
        outputs: values per row that the model returns: 1, or the number of classes.
        loss: what training makes small.
        optimizer: how a site updates its parameters.
        algorithm: how a site changes its gradient.
        metrics: name to metric; "loss" is added.
        batch_size: rows per batch; the last one of an epoch may be shorter.

    Raises:
        ModelError: the module cannot be built, or its state cannot be shared as named arrays.
    """

    def __init__(
        self,
        *,
        source: ModuleSource,
        outputs: int,
        loss: Loss,
        optimizer: Optimizer,
        algorithm: LocalAlgorithm,
        metrics: Mapping[str, Metric],
        batch_size: int,
    ) -> None:
        self._source, self._outputs, self._loss = source, outputs, loss.build()
        self._optimizer, self._algorithm, self._batch_size = optimizer, algorithm, batch_size
        self._measures = Measures(metrics)
        self._flat = self._build(seed=0)
        self._module = self._flat.module
        self._gradients = gradients_of(self._flat)
        self._draws = _draws_random_numbers(self._module)
        self._shuffler = Shuffler()
        self._stack = self._linear_stack()

    @property
    def layout(self) -> Layout:
        return self._flat.layout

    @property
    def metrics(self) -> tuple[str, ...]:
        return self._measures.names

    @property
    def statistics(self) -> Mapping[str, tuple[int, ...]]:
        return self._measures.shapes

    def initial(self, seed: int) -> Params:
        """Return what `torch.manual_seed(seed)` and building the model give; an instance's own."""
        params = self._build(seed=seed).read()
        if params.layout != self.layout:
            got = "other parameters with another seed"
            raise ModelError(Problem("<model>", "", got, "the same names, shapes and dtypes"))
        return params

    def train(self, jobs: Sequence[TrainJob]) -> list[Trained]:
        """Train sites, each from its own `params`; results in the order of `jobs`.

        One job, and every job of a model without a kernel, runs on the module itself. Other jobs
        run in blocks of sites with similar numbers of rows.
        """
        trained: dict[int, Trained] = {}
        for block in self._blocks(jobs):
            trained.update(zip(block, self._train_block([jobs[i] for i in block]), strict=True))
        return [trained[i] for i in range(len(jobs))]

    def block_size(self, job: TrainJob) -> int:
        return 1 if self._stack is None else self._stack.block_size(job)

    def evaluate(self, params: Params, data: Part) -> Statistics:
        """Return the additive statistics of every metric; zeros where there are no rows."""
        self._flat.load(params)
        self._module.eval()
        with torch.no_grad(), _reproducible(derive_seed(0, "evaluate") if self._draws else None):
            return self._measures.statistics(self._predictions(data))

    def value(self, metric: str, statistics: Statistics) -> float | None:
        return self._measures.value(metric, statistics)

    def check(self, params: Params, data: Part) -> None:
        """Try a whole batch of a site and the short one that ends its epochs; change nothing.

        Raises:
            ModelError: the module fails, its output has the wrong shape, or the loss is not a
                number at once.
        """
        for rows in sorted({min(self._batch_size, len(data)), len(data) % self._batch_size} - {0}):
            self._flat.load(params)
            self._module.train()
            with _reproducible(0):
                self._check_batch(_aligned(data.x[:rows]), _aligned(data.y[:rows]))

    def _build(self, *, seed: int) -> FlatModule:
        with _reproducible(seed):
            return FlatModule(self._source())

    def _linear_stack(self) -> LinearStack | None:
        layers = layers_of(self._module, self.layout)
        if layers is None or type(self._loss) not in SLOPES:
            return None
        if layers[-1].outputs != self._outputs:
            return None
        return LinearStack(
            layers,
            layout=self.layout,
            loss=self._loss,
            optimizer=self._optimizer,
            algorithm=self._algorithm,
            batch_size=self._batch_size,
        )

    def _blocks(self, jobs: Sequence[TrainJob]) -> list[list[int]]:
        """Return the jobs' indices in blocks of similar numbers of rows, most first."""
        stack = self._stack
        if stack is None:
            return [[i] for i in range(len(jobs))]
        order = sorted(range(len(jobs)), key=lambda i: -len(jobs[i].data))
        fitting = [i for i in order if stack.fits(jobs[i])]
        blocks = [[i] for i in order if not stack.fits(jobs[i])]
        while fitting:
            sites = stack.block_size(jobs[fitting[0]])
            blocks.append(fitting[:sites])
            fitting = fitting[sites:]
        return blocks

    def _train_block(self, jobs: Sequence[TrainJob]) -> list[Trained]:
        if self._stack is None or len(jobs) == 1:
            return [self._train_one(job) for job in jobs]
        return self._stack.train(jobs)

    def _train_one(self, job: TrainJob) -> Trained:
        walk = Walk(job, batch_size=self._batch_size, shuffler=self._shuffler)
        self._flat.load(job.params)
        self._module.train()
        seed = derive_seed(job.seed, "module", job.site, job.round) if self._draws else None
        with _reproducible(seed):
            self._descend(walk.batches(partial(self._batches, job.data)))
        return Trained(Update(self._flat.read(), float(len(job.data))), walk.cursor)

    def _descend(self, batches: Iterator[Batch]) -> None:
        module, mean, gradients = self._module, self._loss.mean, self._gradients
        adjust, pieces = self._algorithm.adjust, gradients.pieces
        is_plain = isinstance(self._algorithm, Plain)
        anchors = pieces if is_plain else [piece.clone() for piece in pieces]
        runs = [self._optimizer.begin(piece) for piece in pieces]
        for x, y in batches:
            gradients.clear()
            torch.autograd.backward(mean(module(x), y))
            for piece, gradient, anchor, run in zip(
                pieces, gradients.read(), anchors, runs, strict=True
            ):
                if gradient is not None:
                    adjust(gradient, piece, anchor)
                    run.step(piece, gradient)

    def _batches(self, data: Part, feed: Feed) -> Iterator[Batch]:
        """Yield batches cut from rows that are gathered a few megabytes at a time."""
        window = max(1, CHUNK_BYTES * len(data) // max(1, feed.width * data.x.nbytes))
        for rows_TB in feed.windows(window):
            yield from zip(_gather(data.x, rows_TB), _gather(data.y, rows_TB), strict=True)

    def _predictions(self, data: Part) -> Iterator[Predictions]:
        chunk = max(self._batch_size, CHUNK_BYTES * len(data) // max(1, data.x.nbytes))
        for begin in range(0, len(data), chunk):
            part = Part(data.x[begin : begin + chunk], data.y[begin : begin + chunk])
            output, target = self._module(_aligned(part.x)).double(), _aligned(part.y)
            if target.is_floating_point():
                target = target.double()
            losses = self._loss.rows(output, target)
            scores = self._loss.scores(output).numpy()
            yield Predictions(scores, part.y.astype(np.float64), losses.numpy())

    def _check_batch(self, x: Tensor, y: Tensor) -> None:
        try:
            output = self._module(x)
            self._check_output(output, rows=len(y))
            self._gradients.clear()
            loss = self._loss.mean(output, y)
            torch.autograd.backward(loss)
        except _MODULE_ERRORS as error:
            got = f"{type(error).__name__} for {_shaped(x)}: {error}".splitlines()[0]
            expected = "a module that trains on such a batch"
            advice = "A batch of one row breaks BatchNorm: use GroupNorm, or another batch_size."
            raise _refusal(got, expected, advice if len(y) == 1 else "") from error
        if not bool(torch.isfinite(loss)):
            advice = "Look at the features' scale, and at values that are missing or infinite."
            raise _refusal(f"a loss of {loss.item()} on the first batch", "a finite loss", advice)

    def _check_output(self, output: object, *, rows: int) -> None:
        got = _shaped(output) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        if not self._loss.accepts(shape, rows=rows, outputs=self._outputs):
            last = f"{self._outputs}" if self._outputs > 1 else "1"
            expected = f"an output of shape ({rows}, {last})"
            advice = "Let the model return one row of outputs per row of the batch."
            raise _refusal(f"{got} for a batch of {rows} rows", expected, advice)


_MODULE_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    KeyError,
    ImportError,
)
"""What a module raises on inputs that it was not made for, or where a library is missing."""


def _refusal(got: str, expected: str, advice: str) -> ModelError:
    return ModelError(Problem("<model>", "forward", got, expected, advice))


def _shaped(tensor: Tensor) -> str:
    return f"a tensor of shape {tuple(tensor.shape)} and dtype {tensor.dtype}"


def _aligned(array: Array) -> Tensor:
    """Return a copy of an array where PyTorch allocates, so that bits do not vary by its place."""
    tensor = _empty(array.shape, array)
    np.copyto(tensor.numpy(), array)
    return tensor


def _gather(array: Array, rows_TB: NDArray[np.int64]) -> Sequence[Tensor]:
    """Return T batches of an array's rows; each is as long as its row numbers are not negative.

    Each begins at a multiple of `ALIGNMENT`, as a tensor of its own would.
    """
    steps, width = rows_TB.shape
    unit = ALIGNMENT // gcd(ALIGNMENT, max(1, array[:1].nbytes))
    slot = -(-width // unit) * unit
    places_TB = np.pad(rows_TB, ((0, 0), (0, slot - width))) if slot > width else rows_TB
    tensor = _empty((steps, slot, *array.shape[1:]), array)
    array.take(places_TB, axis=0, out=tensor.numpy(), mode="clip")
    lengths = (rows_TB >= 0).sum(1).tolist()
    if slot == width == min(lengths):
        return tensor.unbind()
    return [batch[:n] for batch, n in zip(tensor.unbind(), lengths, strict=True)]


def _empty(shape: tuple[int, ...], like: Array) -> Tensor:
    return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, like.dtype)).dtype)


@contextmanager
def _reproducible(seed: int | None) -> Iterator[None]:
    """Use deterministic operations; seed PyTorch's global generator. All is restored after.

    Args:
        seed: None where nothing draws random numbers.
    """
    state = None if seed is None else torch.get_rng_state()
    settings = _determinism()
    _set_determinism(1, False)  # filling memory would cost a pass over every new tensor
    if seed is not None:
        torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        _set_determinism(*settings)
        if state is not None:
            torch.set_rng_state(state)


def _determinism() -> tuple[int, bool]:
    fills_memory = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    return torch.get_deterministic_debug_mode(), fills_memory


def _set_determinism(mode: int, fills_memory: bool) -> None:
    """Set PyTorch's mode: 0 is off, 1 warns where an operation is not deterministic, 2 raises.

    `torch.use_deterministic_algorithms` does the same and imports PyTorch's compiler, a second.
    """
    torch.set_deterministic_debug_mode(mode)
    deterministic.fill_uninitialized_memory = fills_memory  # type: ignore[attr-defined]


_QUIET = frozenset(
    {
        nn.Sequential, nn.ModuleList, nn.Identity, nn.Flatten, nn.Unflatten, nn.Linear, nn.Bilinear,
        nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
        nn.ConvTranspose3d, nn.Embedding, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
        nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
        nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid,
        nn.Softmax, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d,
        nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    }
)  # fmt: skip


def _draws_random_numbers(module: nn.Module) -> bool:
    """Tell whether a module may draw random numbers: all but known layers might."""
    return any(type(part) not in _QUIET for part in module.modules())
