"""What local algorithms do to a gradient."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from cohortium.learning.algorithm import LOCAL_ALGORITHMS, LocalAlgorithm
from cohortium.learning.fedprox import FedProx
from cohortium.learning.plain import Plain

EXAMPLES: dict[str, LocalAlgorithm] = {"plain": Plain(), "fedprox": FedProx(mu=0.5)}


@pytest.mark.parametrize("kind", list(LOCAL_ALGORITHMS))
def test_every_kind_treats_a_block_as_its_sites(kind: str) -> None:
    """One definition serves shapes (P,) and (K, P); parameters and anchor are left alone."""
    algorithm = EXAMPLES[kind]
    assert LOCAL_ALGORITHMS.kind_of(algorithm) == kind
    gradient, parameters, anchor = torch.randn(3, 4, 5)
    block = gradient.clone()
    before = parameters.clone(), anchor.clone()
    algorithm.adjust(block, parameters, anchor)
    for site in range(4):
        alone = gradient[site].clone()
        algorithm.adjust(alone, parameters[site], anchor[site])
        assert torch.equal(block[site], alone)
    assert torch.equal(parameters, before[0])
    assert torch.equal(anchor, before[1])


def test_plain_changes_nothing() -> None:
    gradient = torch.randn(3)
    before = gradient.clone()
    Plain().adjust(gradient, torch.randn(3), torch.randn(3))
    assert torch.equal(gradient, before)


def test_fedprox_adds_the_gradient_of_its_proximal_term() -> None:
    parameters, anchor = torch.randn(2, 6, dtype=torch.float64)
    parameters.requires_grad_()
    (0.7 / 2 * (parameters - anchor).square().sum()).backward()
    gradient = torch.zeros(6, dtype=torch.float64)
    FedProx(mu=0.7).adjust(gradient, parameters.detach(), anchor)
    torch.testing.assert_close(gradient, parameters.grad)


@pytest.mark.parametrize("settings", ["{}", '{"mu": -0.1}', '{"mu": "0.1"}', '{"mu": null}'])
def test_fedprox_refuses_a_strength_out_of_range(settings: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(FedProx).validate_json(settings)
