"""Models from a study and from Python."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import sys
import traceback
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from cohortium.errors import ModelError, StudyError
from cohortium.learning.losses import BceWithLogits, CrossEntropy, Mse
from cohortium.learning.models import (
    MODELS,
    NO_FILES,
    Code,
    Ensemble,
    Files,
    Linear,
    Mlp,
    Model,
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


FILES = {"model.py": NET.encode()}


def build(model: Model, *, files: Files = NO_FILES, outputs: int = 1) -> nn.Module:
    return model.source(inputs=(3,), outputs=outputs, files=files)()


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
        model.source(inputs=(28, 28), outputs=1)


@pytest.mark.parametrize("settings", ["{}", '{"hidden": []}', '{"hidden": [0]}', '{"hidden": 64}'])
def test_an_mlp_wants_widths(settings: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(MODELS["mlp"]).validate_json(settings)


def test_every_kind_builds_a_module() -> None:
    settings = {
        "linear": "{}",
        "mlp": '{"hidden": [4]}',
        "code": '{"file": "model.py", "build": "Net", "args": {"width": 2}}',
    }
    for kind in MODELS:
        model: Model = TypeAdapter(MODELS[kind]).validate_json(settings[kind])
        assert build(model, files=FILES)(torch.zeros(5, 3)).shape == (5, 1)


@pytest.mark.parametrize("name", ["Net", "build"])
def test_code_may_be_a_class_or_a_function(name: str) -> None:
    model = Code(file="model.py", build=name, args={"width": 2})
    source = model.source(inputs=(3,), outputs=1, files=FILES)
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
def test_code_that_does_not_build_is_refused(code: Code, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(code, files=FILES)


def refused(text: str, name: str = "Net") -> str:
    with pytest.raises(ModelError) as refusal:
        build(Code(file="sub/model.py", build=name), files={"sub/model.py": text.encode()})
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("text", ["import nothing_of_this_name", "def", "1 / 0", "\0", "# \udcff"])
def test_code_that_does_not_run_is_refused(text: str) -> None:
    content = text.encode(errors="surrogateescape")
    with pytest.raises(ModelError, match=r"model\.py: got \w+Error"):
        build(Code(file="model.py", build="Net"), files={"model.py": content})
    assert not [name for name in sys.modules if name.endswith(sha(content))]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import helper", "move its code here, or install the package 'helper'."),
        ("from helper.nets import Net", "install the package 'helper'."),
        ("def Net():\n    import helper", "move its code here, or install the package 'helper'."),
        ("from . import helper", "move its code here."),
        ("from .helper import Net", "move its code here."),
    ],
)
def test_an_import_of_a_file_beside_it_says_that_there_is_one_file(text: str, words: str) -> None:
    message = refused(text)
    assert "No file beside sub/model.py is imported" in message
    assert message.endswith(words)


@pytest.mark.parametrize(
    "text", ["from torch import nope", "import torch.nope", "raise ImportError('needs a GPU')"]
)
def test_an_import_that_fails_for_another_reason_does_not_speak_of_files(text: str) -> None:
    assert refused(text).endswith("expected a file that runs")


def test_two_files_of_one_name_do_not_meet() -> None:
    code = Code(file="model.py", build="Net", args={"width": 2})
    other = {"model.py": NET.replace("[:, :1]", "[:, :2]").encode()}
    first, second = build(code, files=FILES), build(code, files=other)
    assert first(torch.zeros(1, 3)).shape == (1, 1)
    assert second(torch.zeros(1, 3)).shape == (1, 2)
    assert type(first).__module__ == f"cohortium_bundle_{sha(FILES['model.py'])}"
    assert type(second).__module__ == f"cohortium_bundle_{sha(other['model.py'])}"


def test_each_source_runs_the_code_in_a_fresh_module() -> None:
    code = Code(file="model.py", build="Net", args={"width": 2})
    first, second = build(code, files=FILES), build(code, files=FILES)
    assert type(first) is not type(second)
    assert type(first).__module__ == type(second).__module__


LATE = """
import dataclasses
from torch import nn

@dataclasses.dataclass
class Sizes:
    width: "int"
    inner: "Sizes | None" = None

class Net(nn.Module):
    sizes = Sizes(3)

    def forward(self, x):
        # \x0c a page ends here
        return self.width
"""


def test_tracebacks_and_inspect_show_the_code_that_ran() -> None:
    net = build(Code(file="model.py", build="Net"), files={"model.py": LATE.encode()})
    assert inspect.getsource(type(net)) == LATE[LATE.index("class Net") :]
    assert inspect.getsource(net.forward).endswith("        return self.width\n")
    with pytest.raises(AttributeError) as failed:
        net(torch.zeros(1))
    (line,) = [
        f for f in traceback.extract_tb(failed.value.__traceback__) if "bundle" in f.filename
    ]
    assert line.filename == f"<bundle {sha(LATE.encode())}>/model.py"
    assert line.line == "return self.width"


def test_dataclasses_of_the_code_find_their_module() -> None:
    net: Any = build(Code(file="model.py", build="Net"), files={"model.py": LATE.encode()})
    assert dataclasses.asdict(net.sizes) == {"width": 3, "inner": None}
    assert get_type_hints(type(net.sizes))["width"] is int


def test_the_code_does_not_inherit_how_this_package_is_compiled() -> None:
    text = "from torch import nn\ndef Net(size: int = 1): return nn.Linear(3, size)\n"
    build(Code(file="model.py", build="Net"), files={"model.py": text.encode()})
    module = sys.modules[f"cohortium_bundle_{sha(text.encode())}"]
    assert module.Net.__annotations__ == {"size": int}  # "int" with `from __future__ import …`


def test_the_file_may_declare_its_encoding() -> None:
    text = "# coding: latin-1\nfrom torch import nn\ndef Net(): return nn.Linear(3, len('é'))\n"
    net = build(Code(file="model.py", build="Net"), files={"model.py": text.encode("latin-1")})
    assert net(torch.zeros(1, 3)).shape == (1, 1)


@pytest.mark.parametrize("files", [NO_FILES, {"other.py": NET.encode()}])
def test_a_file_that_the_bundle_lacks_is_refused(files: Files) -> None:
    with pytest.raises(
        StudyError, match=r"net\.py: task\.model\.file: got .*Bundle\.of\(study"
    ) as e:
        build(Code(file="net.py", build="Net"), files=files)
    assert "\n" not in str(e.value)


def test_no_file_is_read_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.py").write_text("raise RuntimeError('from disk')")
    monkeypatch.chdir(tmp_path)
    for file in ("model.py", str(tmp_path / "model.py")):
        with pytest.raises(StudyError):
            build(Code(file=file, build="Net"))
    build(Code(file="model.py", build="Net", args={"width": 1}), files=FILES)


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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cohortium.learning.pytorch.find_spec", lambda name: None)
    code = Code(file="model.py", build="Net", args={"width": 2})
    for model in (Linear(), Mlp(hidden=(3,)), code):
        with pytest.raises(ModelError, match=r'pip install "cohortium\[torch\]"'):
            build(model, files=FILES)
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
