"""Models that a study may name, and the table of them.

A model is its settings until `source` is called: reading a study needs no PyTorch. What `source`
returns builds a fresh module each time, initialised from PyTorch's global generator as a plain
script would.

To add one: a part with `source`, and a line in `MODELS`.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import decode_source, module_from_spec
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from cohortium.errors import ModelError, Problem, StudyError
from cohortium.learning.losses import Loss
from cohortium.learning.pytorch import require_torch
from cohortium.part import part
from cohortium.registry import Registry
from cohortium.types import ArraySpec, Layout, Params

if TYPE_CHECKING:
    from torch.nn import Module

ModuleSource = Callable[[], "Module"]
Files = Mapping[str, bytes]
"""The files of a study's bundle: path as the study names it, to content."""

NO_FILES: Files = MappingProxyType({})
PYTHON = "<python>"


class Model(Protocol):
    """Settings of a model."""

    def source(
        self, *, inputs: tuple[int, ...], outputs: int, files: Files = NO_FILES
    ) -> ModuleSource:
        """Return what builds a fresh module.

        Args:
            inputs: shape of one row, without the batch.
            outputs: values per row: 1, or the number of classes.
            files: those of the study's bundle: what its digest covers, and nothing else, is read.

        Raises:
            StudyError: the bundle holds no file that the settings name.
            ModelError: the model cannot be built, or PyTorch is not installed.
        """


@part
class Linear:
    """One linear layer: logistic regression, or linear regression. Its outputs are logits."""

    framework: Annotated[
        Literal["torch", "numpy"],
        Field(
            description="`numpy` trains without PyTorch, with the loss `bce-with-logits`, "
            "`cross-entropy` or `mse`, the optimizer `sgd` and the algorithm `plain` or `fedprox`."
        ),
    ] = "torch"

    def source(
        self,
        *,
        inputs: tuple[int, ...],
        outputs: int,
        files: Files = NO_FILES,  # noqa: ARG002
    ) -> ModuleSource:
        features = row_width(inputs, "linear")
        require_torch()
        from cohortium.learning import modules

        return lambda: modules.linear(inputs=features, outputs=outputs)


@part
class Mlp:
    """Linear layers with ReLU between them (a multilayer perceptron). Its outputs are logits."""

    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1, le=65536)], ...],
        Field(min_length=1, description="Width of each hidden layer, such as [64]."),
    ]

    def source(
        self,
        *,
        inputs: tuple[int, ...],
        outputs: int,
        files: Files = NO_FILES,  # noqa: ARG002
    ) -> ModuleSource:
        features = row_width(inputs, "mlp")
        require_torch()
        from cohortium.learning import modules

        return lambda: modules.mlp(inputs=features, hidden=self.hidden, outputs=outputs)


@part
class Code:
    """A module from a Python file beside the study. Sites run this file: they approve its bytes."""

    file: Annotated[
        str,
        Field(
            min_length=1, max_length=255, description="The file, relative to the study's folder."
        ),
    ]
    build: Annotated[
        str,
        Field(
            min_length=1,
            description="A torch.nn.Module class in it, or a function that returns one.",
        ),
    ]
    args: Annotated[
        dict[str, Any], Field(description="Keyword arguments that it is called with.")
    ] = Field(default_factory=dict)

    def source(
        self,
        *,
        inputs: tuple[int, ...],  # noqa: ARG002
        outputs: int,  # noqa: ARG002
        files: Files = NO_FILES,
    ) -> ModuleSource:
        if self.file not in files:
            advice = "Read the study from its file, or with Bundle.of(study, folder=...)."
            got, expected = "a file that the study's bundle lacks", "a file of the bundle"
            raise StudyError(Problem(self.file, "task.model.file", got, expected, advice))
        require_torch()
        found = getattr(_execute(files[self.file], self.file), self.build, None)
        if not callable(found):
            raise ModelError(
                Problem(
                    self.file,
                    self.build,
                    "nothing to call by this name",
                    "a torch.nn.Module class, or a function that returns a module",
                    "Correct task.model.build, or add it to the file.",
                )
            )
        return _called(found, self.args, where=self.file)


@dataclass(frozen=True)
class PythonModel:
    """A model that was handed over in Python. Made by `from_python`."""

    build: ModuleSource

    def source(
        self,
        *,
        inputs: tuple[int, ...],  # noqa: ARG002
        outputs: int,  # noqa: ARG002
        files: Files = NO_FILES,  # noqa: ARG002
    ) -> ModuleSource:
        return self.build


@dataclass(frozen=True)
class Ensemble:
    """Copies of a model side by side: the mean of their scores.

    The arrays of copy i carry the prefix "i."; `join_members` makes them from trained copies.
    """

    base: Model
    members: int
    loss: Loss

    def source(
        self, *, inputs: tuple[int, ...], outputs: int, files: Files = NO_FILES
    ) -> ModuleSource:
        build = self.base.source(inputs=inputs, outputs=outputs, files=files)
        average = self.loss.build().average
        from cohortium.learning import modules

        return lambda: modules.Average([build() for _ in range(self.members)], average)


def from_python(model: object, args: Mapping[str, Any] | None = None) -> PythonModel:
    """Return the model that a Python object stands for.

    Args:
        model: a torch module (copied now; its weights are the initial ones), a module class, or a
            function that builds one.
        args: keyword arguments of the class or function.

    Raises:
        ModelError: it is none of these, or its required arguments are missing.
    """
    require_torch()
    from torch.nn import Module

    if isinstance(model, Module):
        kept = _copied(model)
        return PythonModel(lambda: _copied(kept))
    if not callable(model) or (isinstance(model, type) and not issubclass(model, Module)):
        got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        expected = "a torch.nn.Module, a class of modules, or a function that builds one"
        raise ModelError(Problem(PYTHON, "model", got, expected))
    return PythonModel(_called(model, dict(args or {}), where=PYTHON))


def join_members(members: Sequence[Params]) -> Params:
    """Return an ensemble's parameters: those of its members, end to end, named "0.…", "1.…".

    >>> one = Params.of({"bias": np.zeros(2, np.float32)})
    >>> list(join_members([one, one]))
    ['0.bias', '1.bias']
    """
    specs = tuple(
        ArraySpec(f"{i}.{spec.name}", spec.shape, spec.dtype)
        for i, member in enumerate(members)
        for spec in member.layout.specs
    )
    dtypes = members[0].buffers
    buffers = {dtype: np.concatenate([m.buffers[dtype] for m in members]) for dtype in dtypes}
    return Params(Layout(specs), buffers)


def row_width(inputs: tuple[int, ...], kind: str) -> int:
    """Return the number of features in a row, for a kind of model that takes vectors.

    Raises:
        ModelError: rows are no vectors.
    """
    if len(inputs) == 1:
        return inputs[0]
    raise ModelError(
        Problem(
            PYTHON,
            "task.model.kind",
            f"{kind!r} for rows of shape {inputs}",
            "rows that are vectors of features",
            'Use kind = "code" with a module for such rows.',
        )
    )


def _execute(content: bytes, file: str) -> ModuleType:
    """Run the bytes of a bundle's file as a fresh module. Its name carries their hash."""
    sha = hashlib.sha256(content).hexdigest()[:16]
    name, shown = f"cohortium_bundle_{sha}", f"<bundle {sha}>/{file}"
    module = module_from_spec(ModuleSpec(name, None, origin=shown))
    module.__file__ = shown
    sys.modules[name] = module  # dataclasses in the file look their module up
    try:
        code = compile(content, shown, "exec", dont_inherit=True)
        text = decode_source(content)
        lines = [f"{line}\n" for line in text.split("\n")]  # for tracebacks, inspect.getsource
        linecache.cache[shown] = (len(text), None, lines, shown)
        exec(code, vars(module))  # noqa: S102 - sites approve these very bytes
    except Exception as error:
        sys.modules.pop(name, None)
        expected, advice = "a file that runs", _one_file(error, file)
        raise ModelError(Problem(file, "", _told(error), expected, advice)) from error
    return module


def _one_file(error: Exception, file: str) -> str:
    """Return what to do where a file of the bundle wants to import another one beside it."""
    if file == PYTHON or not isinstance(error, ImportError):
        return ""
    advice = f"No file beside {file} is imported, for sites approve this one: move its code here"
    if "relative import" in error.msg:
        return f"{advice}."
    if isinstance(error, ModuleNotFoundError) and error.name and "." not in error.name:
        return f"{advice}, or install the package {error.name!r}."
    return ""


def _called(build: Callable[..., object], args: dict[str, Any], *, where: str) -> ModuleSource:
    """Return a source that calls `build`, once its arguments are known to fit."""
    name = getattr(build, "__name__", type(build).__name__)
    _check_arguments(build, args, where=where, name=name)

    def source() -> Module:
        from torch.nn import Module

        try:
            module = build(**copy.deepcopy(args))
        except Exception as error:
            expected, advice = "a call that works", _one_file(error, where)
            raise ModelError(Problem(where, name, _told(error), expected, advice)) from error
        if not isinstance(module, Module):
            got = f"a {type(module).__name__} from the call"
            raise ModelError(Problem(where, name, got, "a torch.nn.Module"))
        return module

    return source


def _check_arguments(
    build: Callable[..., object], args: dict[str, Any], *, where: str, name: str
) -> None:
    parameters = inspect.signature(build).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in named if p.default is p.empty and p.name not in args]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [] if open_ended else sorted(args.keys() - {p.name for p in named})
    if not missing and not unknown:
        return
    got = f"no argument {missing[0]!r}" if missing else f"an unknown argument {unknown[0]!r}"
    expected = f"{name}({', '.join(str(p) for p in parameters)})"
    advice = "Give its arguments as args = {…}, or hand over a module instance."
    raise ModelError(Problem(where, "model", got, expected, advice))


def _copied(module: Module) -> Module:
    try:
        return copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        advice = "Hand over a function that builds the module."
        problem = Problem(PYTHON, "model", _told(error), "a module that can be copied", advice)
        raise ModelError(problem) from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


MODELS = Registry(
    "model",
    group="cohortium.models",
    builtin={
        "linear": "cohortium.learning.models:Linear",
        "mlp": "cohortium.learning.models:Mlp",
        "code": "cohortium.learning.models:Code",
    },
)
