"""W2 in pfl: FederatedAveraging with SimulatedBackend, as its PyTorch tutorial shows.

One process, which costs the least CPU time; pfl shards a cohort over processes where wall time
counts. pfl does not shuffle a user's rows, so the plain loop that it is compared with takes them in
turn as well. It always evaluates its first iteration, which is the round left out of the figures
per round.
"""

from __future__ import annotations

import functools
import time

import pfl
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from benchmarks import measure, plain
from benchmarks.workloads import W2, SmallSites

SETTINGS = {"api": "FederatedAveraging, SimulatedBackend, PyTorchModel", "processes": 1}


class Mlp(nn.Sequential):
    """W2's MLP with the two methods pfl asks for."""

    def __init__(self, workload: SmallSites) -> None:
        super().__init__(*plain.mlp(workload))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the value to minimise."""
        self.train()
        return nn.functional.cross_entropy(self(x), y)

    @torch.no_grad()
    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Weighted]:
        """Return the metrics of a user."""
        self.eval()
        correct = (self(x).argmax(1) == y).sum().item()
        return {"accuracy": Weighted(correct, len(y))}


class Clock(TrainingProcessCallback):
    """Notes when every round ended."""

    def __init__(self) -> None:
        self.marks = [time.monotonic()]

    def after_central_iteration(
        self,
        aggregate_metrics: Metrics,  # noqa: ARG002
        model: PyTorchModel,  # noqa: ARG002
        *,
        central_iteration: int,  # noqa: ARG002
    ) -> tuple[bool, Metrics]:
        """Note the moment; never stop."""
        self.marks.append(time.monotonic())
        return False, Metrics()


def run(size: measure.Size) -> measure.Outcome:
    """Run W2."""
    torch.set_num_threads(1)
    workload, clock = size.w2(), Clock()
    users = _users(workload)
    module = Mlp(workload)
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        algorithm_params=_algorithm(size),
        backend=SimulatedBackend(
            training_data=users, val_data=users, postprocessors=[WeightByDatapoints()]
        ),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=workload.epochs,
            local_learning_rate=workload.lr,
            local_batch_size=workload.batch,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[clock],
    )
    final = {name: value.numpy() for name, value in module.state_dict().items()}
    return measure.Outcome(pfl.__version__, clock.marks, final, SETTINGS)


def _algorithm(size: measure.Size) -> NNAlgorithmParams:
    return NNAlgorithmParams(
        central_num_iterations=size.rounds,
        evaluation_frequency=size.rounds + 1,
        train_cohort_size=size.sites,
        val_cohort_size=0,
    )


def _users(workload: SmallSites) -> FederatedDataset:
    @functools.cache
    def user(site: int) -> Dataset:
        return PyTorchTensorDataset(plain.tensors(workload.site(site)), user_id=str(site))

    sites = list(range(workload.sites))
    return FederatedDataset(user, get_user_sampler("minimize_reuse", sites))


if __name__ == "__main__":
    verify = functools.partial(plain.verify, orders=SmallSites.in_turn)
    measure.main("W2", "pfl", run, verify, sites=W2.sites, rounds=W2.rounds)
