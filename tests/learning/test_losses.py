"""The losses, and how their outputs are read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cohortium.errors import ModelError
from cohortium.learning.losses import LOSSES, Bce, BceWithLogits, CrossEntropy, Loss, Mse
from cohortium.learning.torch_losses import TorchLoss

PARTS: dict[str, Loss] = {
    "bce": Bce(),
    "bce-with-logits": BceWithLogits(),
    "cross-entropy": CrossEntropy(),
    "mse": Mse(),
}
KINDS = list(LOSSES)


def example(kind: str, rows: int = 6) -> tuple[Tensor, Tensor]:
    output = torch.randn(rows, 3) if kind == "cross-entropy" else torch.randn(rows)
    if kind == "bce":
        output = output.sigmoid()
    target = torch.randint(0, 3 if kind == "cross-entropy" else 2, (rows,))
    return output, target if kind == "cross-entropy" else target.float()


def built(kind: str) -> TorchLoss:
    return PARTS[kind].build()


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_that_of_the_rows(kind: str) -> None:
    output, target = example(kind)
    loss = built(kind)
    torch.testing.assert_close(loss.mean(output, target), loss.rows(output, target).mean())
    assert loss.rows(output, target).shape == target.shape


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cross-entropy"])
def test_one_output_may_be_a_column(kind: str) -> None:
    output, target = example(kind)
    loss = built(kind)
    assert torch.equal(loss.mean(output, target), loss.mean(output[:, None], target))
    assert torch.equal(loss.rows(output, target), loss.rows(output[:, None], target))
    assert torch.equal(loss.scores(output), loss.scores(output[:, None]))
    assert loss.accepts((6,), rows=6, outputs=1)
    assert loss.accepts((6, 1), rows=6, outputs=1)
    assert not loss.accepts((6, 2), rows=6, outputs=1)
    assert not loss.accepts((), rows=1, outputs=1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_of_equal_outputs_is_that_output(kind: str) -> None:
    output, _ = example(kind)
    loss = built(kind)
    averaged = loss.average(torch.stack([output, output]))
    torch.testing.assert_close(loss.scores(averaged), loss.scores(output))


@pytest.mark.parametrize("kind", KINDS)
def test_the_scores_of_an_average_are_the_mean_of_the_scores(kind: str) -> None:
    outputs = torch.stack([example(kind)[0] for _ in range(4)])
    loss = built(kind)
    mean = torch.stack([loss.scores(output) for output in outputs]).mean(0)
    torch.testing.assert_close(loss.scores(loss.average(outputs)), mean)


def test_an_average_of_logits_is_stable_far_from_zero() -> None:
    logits = torch.tensor([[500.0, -500.0], [500.0, -500.0]])
    torch.testing.assert_close(built("bce-with-logits").average(logits), logits[0])


def test_the_average_of_classes_is_the_log_of_the_mean_probability() -> None:
    outputs = torch.stack([example("cross-entropy")[0] for _ in range(4)])
    mean = outputs.softmax(-1).mean(0)
    torch.testing.assert_close(built("cross-entropy").average(outputs), mean.log())


def test_losses_are_those_of_pytorch() -> None:
    output, target = example("cross-entropy")
    assert torch.equal(
        built("cross-entropy").mean(output, target), functional.cross_entropy(output, target)
    )
    output, target = example("bce-with-logits")
    probability = built("bce").mean(output.sigmoid(), target)
    torch.testing.assert_close(built("bce-with-logits").mean(output, target), probability)
    assert built("mse").rows(torch.tensor([3.0]), torch.tensor([1.0])).tolist() == [4.0]


def test_without_pytorch_the_advice_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cohortium.learning.pytorch.find_spec", lambda name: None)
    for part in PARTS.values():
        with pytest.raises(ModelError, match=r'pip install "cohortium\[torch\]"'):
            part.build()


def test_every_kind_is_tried_here() -> None:
    assert {kind: type(part) for kind, part in PARTS.items()} == {k: LOSSES[k] for k in LOSSES}
