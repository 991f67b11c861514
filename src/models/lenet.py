"""LeNet-5 in its modern form, for images of at least 4 × 4 pixels."""
from __future__ import annotations

import torch
from torch import nn

from src.models.layers import image_size


class LeNet(nn.Module):
    """LeNet-5: [n, c, h, w] -> [n, output_dim]. 61,706 parameters for 1 × 32 × 32 (or 28 × 28) and ten classes.

    LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, Proc. IEEE 1998, with later
    conventions: rectifiers, max-pooling, full connections between the maps of the first two layers, and a linear
    output.
    The first convolution of the paper has inputs of 32 pixels a side, the second of 14. A smaller side is padded by two
    pixels on both ends, so that the convolution keeps its length: 28 × 28 gives the maps of the paper, and 8 × 8 gives
    16 maps of 2 × 2.
    """

    def __init__(self, input_shape: tuple[int, ...], output_dim: int) -> None:
        super().__init__()
        channels, *sides = image_size("tiny/lenet", input_shape)
        first = tuple(2 * (side < 32) for side in sides)
        sides = [(side + 2 * pad - 4) // 2 for side, pad in zip(sides, first, strict=True)]
        second = tuple(2 * (side < 14) for side in sides)
        sides = [(side + 2 * pad - 4) // 2 for side, pad in zip(sides, second, strict=True)]
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=first), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5, padding=second), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(
            nn.Linear(16 * sides[0] * sides[1], 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
            nn.Linear(84, output_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))
