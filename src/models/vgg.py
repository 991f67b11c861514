"""VGG networks with batch norm and one linear layer, for small images."""
from __future__ import annotations

import torch
from torch import nn

from src.models.layers import conv3x3, image_size, init_he

# convolutions per stage, from columns A, B, D and E of table 1 of the paper
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (1, 2, 4, 8, 8)  # channels of the stages, in multiples of the first stage's


class VGG(nn.Module):
    """A VGG network [n, c, h, w] -> [n, output_dim], for images of at least 32 × 32 pixels, halved by five poolings.

    Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition, ICLR 2015. Batch norm
    (Ioffe, Szegedy, ICML 2015) replaces the biases of the convolutions. The mean over pixels and one linear layer
    replace the three fully connected layers, which hold most parameters of the original.
    width: the channels of the first stage.
    """

    def __init__(self, depth: int, input_shape: tuple[int, ...], output_dim: int, width: int = 64) -> None:
        super().__init__()
        channels, _, _ = image_size(f"tiny/vgg_{depth}", input_shape)
        layers: list[nn.Module] = []
        for count, factor in zip(STAGES[depth], WIDTHS, strict=True):
            for _ in range(count):
                layers += [conv3x3(channels, factor * width), nn.BatchNorm2d(factor * width), nn.ReLU()]
                channels = factor * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, output_dim)
        init_he(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean(dim=(2, 3)))
