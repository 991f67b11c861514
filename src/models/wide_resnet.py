"""Wide residual networks."""
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from src.models.layers import conv3x3, image_size, init_he


class WideBlock(nn.Module):
    """A residual block: batch norm, rectifier and 3 × 3 convolution, twice, with dropout between, added to a shortcut.

    A shortcut that changes shape is a 1 × 1 convolution of the normalized, rectified input.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, drop: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels_in), conv3x3(channels_in, channels_out, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(channels_out), conv3x3(channels_out, channels_out)
        self.drop = nn.Dropout(drop)
        self.shortcut = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = functional.relu(self.norm1(x))
        residual = self.conv2(self.drop(functional.relu(self.norm2(self.conv1(active)))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """A wide residual network [n, c, h, w] -> [n, output_dim], for images of at least 8 × 8 pixels.

    Zagoruyko, Komodakis: Wide residual networks, BMVC 2016. The depth is 6n + 4, the widths of the stages are 16k, 32k
    and 64k. drop: the probability of dropout (section 2.4).
    """

    def __init__(self, depth: int, width: int, drop: float, input_shape: tuple[int, ...], output_dim: int) -> None:
        super().__init__()
        channels, _, _ = image_size(f"tiny/wrn_{depth}_{width}", input_shape)
        self.stem = conv3x3(channels, 16)
        blocks, inner = [], 16
        for stage in range(3):
            for place in range((depth - 4) // 6):
                stride = 2 if stage > 0 and place == 0 else 1
                blocks.append(WideBlock(inner, (16 * width) << stage, stride, drop))
                inner = (16 * width) << stage
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inner)
        self.head = nn.Linear(inner, output_dim)
        init_he(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(functional.relu(self.norm(self.blocks(self.stem(x)))).mean(dim=(2, 3)))
