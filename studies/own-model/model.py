"""A network of one's own: any `torch.nn.Module` whose output has one value per row, the logit."""

from __future__ import annotations

from torch import Tensor, nn


class Net(nn.Module):
    """Two layers with normalisation, dropout, and a way past both of them.

    Args:
        inputs: features per row.
        width: of the hidden layer.
        dropout: share of hidden values that training leaves out.
    """

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout)
        )
        self.out = nn.Linear(width, 1)
        self.past = nn.Linear(inputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, shape (N, 1), of rows of shape (N, inputs)."""
        logits: Tensor = self.out(self.hidden(x)) + self.past(x)
        return logits
