"""The models NVFLARE's server builds by name; their first weights are the workload's."""

import torch
from torch import nn

from benchmarks import plain, workloads


class AddOne(nn.Module):
    """The parameters of W1 or W3 and nothing else.

    Args:
        workload: "W1" or "W3".
    """

    def __init__(self, workload: str) -> None:
        super().__init__()
        for name, values in getattr(workloads, workload).initial().items():
            self.register_parameter(name, nn.Parameter(torch.from_numpy(values)))


class Mlp(nn.Sequential):
    """W2's MLP 20-64-2."""

    def __init__(self) -> None:
        super().__init__(*plain.mlp())
