"""Linear models: one matrix applied to the flattened sample."""
from __future__ import annotations

import math

import torch
from torch import nn


class Linear(nn.Linear):
    """[n, *input_shape] -> [n, output_dim]: logistic regression with the loss log, least squares with mse."""

    def __init__(self, input_shape: tuple[int, ...], output_dim: int, bias: bool = True) -> None:
        super().__init__(math.prod(input_shape), output_dim, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(1))
