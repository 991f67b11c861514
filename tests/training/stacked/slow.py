"""A linear model that takes its time, so that a short training can be interrupted at any instant."""
from __future__ import annotations

import time

import torch
from torch import nn

SECONDS = 0.004  # of a forward pass


class SlowLinear(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(SECONDS)
        out: torch.Tensor = self.layer(x.flatten(1))
        return out


def make_model(input_shape: tuple[int, ...], output_dim: int) -> nn.Module:
    return SlowLinear(torch.Size(input_shape).numel(), output_dim)
