"""Models from a study and from Python."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from cohortium.errors import ModelError, StudyError
from cohortium.learning.losses import BceWithLogits, CrossEntropy, Mse
from cohortium.learning.models import (
    MODELS,
    Code,
    Ensemble,
    Linear,
    Mlp,
    Model,
    bundle_file,
    from_python,
    join_members,
)
from cohortium.types import Params

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width, depth=1):
        super().__init__()
        self.layer = nn.Linear(3, width)

    def forward(self, x):
        return self.layer(x)[:, :1]

def build(width):
    return Net(width)

def number():
    return 3

def broken():
    raise RuntimeError("no such luck")

constant = 5
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "model.py").write_text(NET)
    (tmp_path / "outside.py").write_text(NET)
    return folder


def build(model: Model, *, bundle: Path | None = None, outputs: int = 1) -> nn.Module:
    return model.source(inputs=(3,), outputs=outputs, bundle=bundle)()


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    a, b = ours.state_dict(), theirs.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_built_in_models_are_initialised_as_a_plain_script_does_it() -> None:
    torch.manual_seed(5)
    ours = build(Linear(), outputs=2)
    torch.manual_seed(5)
    assert same(ours, nn.Linear(3, 2))
    torch.manual_seed(5)
    ours = build(Mlp(hidden=(8, 4)))
    torch.manual_seed(5)
    plain = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1))
    assert same(ours, plain)


@pytest.mark.parametrize("model", [Linear(), Mlp(hidden=(4,))])
def test_built_in_models_want_vectors(model: Model) -> None:
    with pytest.raises(ModelError, match=r"rows of shape \(28, 28\).*vectors"):
        model.source(inputs=(28, 28), outputs=1, bundle=None)


@pytest.mark.parametrize("settings", ["{}", '{"hidden": []}', '{"hidden": [0]}', '{"hidden": 64}'])
def test_an_mlp_wants_widths(settings: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(MODELS["mlp"]).validate_json(settings)


def test_every_kind_builds_a_module(bundle: Path) -> None:
    settings = {
        "linear": "{}",
        "mlp": '{"hidden": [4]}',
        "code": '{"file": "model.py", "build": "Net", "args": {"width": 2}}',
    }
    for kind in MODELS:
        model: Model = TypeAdapter(MODELS[kind]).validate_json(settings[kind])
        assert build(model, bundle=bundle)(torch.zeros(5, 3)).shape == (5, 1)


@pytest.mark.parametrize("name", ["Net", "build"])
def test_code_may_be_a_class_or_a_function(bundle: Path, name: str) -> None:
    model = Code(file="model.py", build=name, args={"width": 2})
    source = model.source(inputs=(3,), outputs=1, bundle=bundle)
    first, second = source(), source()
    assert first is not second
    assert isinstance(first, nn.Module)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (Code(file="model.py", build="Net"), "no argument 'width'"),
        (Code(file="model.py", build="Net", args={"width": 1, "wdth": 1}), "argument 'wdth'"),
        (Code(file="model.py", build="Missing"), "nothing to call by this name"),
        (Code(file="model.py", build="constant"), "nothing to call by this name"),
        (Code(file="model.py", build="number"), "a int from the call"),
        (Code(file="model.py", build="broken"), "RuntimeError: no such luck"),
    ],
)
def test_code_that_does_not_build_is_refused(bundle: Path, code: Code, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(code, bundle=bundle)


@pytest.mark.parametrize("text", ["import nothing_of_this_name", "def", "1 / 0"])
def test_code_that_does_not_run_is_refused(bundle: Path, text: str) -> None:
    (bundle / "model.py").write_text(text)
    with pytest.raises(ModelError, match=r"model\.py: got \w+Error"):
        build(Code(file="model.py", build="Net"), bundle=bundle)


def test_equal_code_in_two_bundles_does_not_meet(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.py").write_text(NET.replace("[:, :1]", "[:, :2]"))
    code = Code(file="model.py", build="Net", args={"width": 2})
    first, second = build(code, bundle=bundle), build(code, bundle=other)
    assert first(torch.zeros(1, 3)).shape == (1, 1)
    assert second(torch.zeros(1, 3)).shape == (1, 2)


@pytest.mark.parametrize(
    "file", ["../outside.py", "sub/../../outside.py", "/etc/passwd", "C:/model.py", "a\\b.py", "."]
)
def test_a_path_that_leaves_the_bundle_is_refused(bundle: Path, file: str) -> None:
    with pytest.raises(StudyError, match=r"task\.model\.file"):
        build(Code(file=file, build="Net"), bundle=bundle)


def test_a_link_out_of_the_bundle_is_refused(bundle: Path) -> None:
    (bundle / "link.py").symlink_to(bundle.parent / "outside.py")
    with pytest.raises(StudyError, match="a link out of the study's folder"):
        bundle_file("link.py", bundle=bundle)
    (bundle / "inner.py").symlink_to(bundle / "model.py")
    assert bundle_file("inner.py", bundle=bundle).name == "model.py"


def test_a_file_that_is_not_python_is_refused(bundle: Path) -> None:
    (bundle / "model.txt").write_text(NET)
    with pytest.raises(StudyError, match=r"model\.txt.*ends in \.py"):
        build(Code(file="model.txt", build="Net"), bundle=bundle)


def test_a_missing_file_and_a_missing_bundle_are_refused(bundle: Path) -> None:
    with pytest.raises(StudyError, match="no such file"):
        bundle_file("net.py", bundle=bundle)
    with pytest.raises(StudyError, match="without a folder"):
        bundle_file("model.py", bundle=None)


class Net(nn.Module):
    def __init__(self, width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(3, width, bias=bias)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


def test_an_instance_keeps_its_weights_and_is_copied() -> None:
    instance = Net(2)
    model = from_python(instance)
    first = build(model)
    assert same(first, instance)
    with torch.no_grad():
        instance.layer.weight.zero_()
        first.layer.weight.fill_(1)  # type: ignore[union-attr, operator]
    again = build(model)
    assert not same(again, instance)
    assert not same(again, first)


def test_a_class_a_function_and_a_partial_are_called() -> None:
    for model in (
        from_python(Net, {"width": 2}),
        from_python(lambda: Net(2)),
        from_python(functools.partial(Net, 2)),
        from_python(nn.Sequential),
    ):
        torch.manual_seed(1)
        first = build(model)
        torch.manual_seed(1)
        assert same(build(model), first)


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        (Net, None, r"no argument 'width'; expected Net\(width"),
        (Net, {"width": 2, "depth": 3}, "an unknown argument 'depth'"),
        (dict, None, "the class dict"),
        (3, None, "got int"),
        ("Net", None, "got str"),
        (lambda: 3, None, "a int from the call"),
        (lambda x: Net(x), None, "no argument 'x'"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(
    model: object, args: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(ModelError, match=message) as refusal:
        build(from_python(model, args))
    assert "\n" not in str(refusal.value)


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    module = nn.Linear(2, 1)
    module.cache = module.weight * 2
    with pytest.raises(ModelError, match="a module that can be copied"):
        from_python(module)


def test_without_pytorch_the_advice_says_how_to_install_it(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cohortium.learning.pytorch.find_spec", lambda name: None)
    code = Code(file="model.py", build="Net", args={"width": 2})
    for model in (Linear(), Mlp(hidden=(3,)), code):
        with pytest.raises(ModelError, match=r'pip install "cohortium\[torch\]"'):
            build(model, bundle=bundle)
    with pytest.raises(ModelError, match=r'pip install "cohortium\[torch\]"'):
        from_python(object())


@pytest.mark.parametrize(
    ("loss", "outputs", "scores"),
    [
        (BceWithLogits(), 1, torch.sigmoid),
        (CrossEntropy(), 3, lambda output: output.softmax(1)),
        (Mse(), 1, lambda output: output),
    ],
)
def test_an_ensemble_averages_its_members_scores(loss: Any, outputs: int, scores: Any) -> None:
    module = build(Ensemble(Mlp(hidden=(4,)), 3, loss), outputs=outputs)
    x = torch.randn(5, 3)
    members = [member(x) for member in module.children()]
    mean = torch.stack([scores(output) for output in members]).mean(0)
    torch.testing.assert_close(scores(module(x)), mean)


def test_an_ensembles_parameters_are_its_members() -> None:
    torch.manual_seed(0)
    bases = [build(Linear()) for _ in range(2)]
    joined = join_members([to_params(base) for base in bases])
    module = build(Ensemble(Linear(), 2, BceWithLogits()))
    assert joined.layout == to_params(module).layout
    assert np.array_equal(joined["1.weight"], to_params(bases[1])["weight"])


def to_params(module: nn.Module) -> Params:
    return Params.of({name: tensor.numpy() for name, tensor in module.state_dict().items()})
