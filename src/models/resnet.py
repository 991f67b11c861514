"""ResNets: the ImageNet family with a stem for small images, and the CIFAR family."""
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from src.models.layers import conv3x3, image_size, init_he

# depth -> (blocks per stage, whether they are bottlenecks), from table 1 of the paper
IMAGENET: dict[int, tuple[tuple[int, ...], bool]] = {
    18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True), 152: ((3, 8, 36, 3), True),
}


class Block(nn.Module):
    """A residual block: two 3 × 3 convolutions, or a bottleneck of 1 × 1, 3 × 3 and 1 × 1, added to a shortcut.

    A shortcut that changes shape is a 1 × 1 convolution (option B of the paper). With `padded` shortcuts it takes every
    second pixel and appends channels of zeros (option A, without parameters).
    """

    def __init__(self, channels_in: int, width: int, stride: int, bottleneck: bool, padded: bool) -> None:
        super().__init__()
        channels_out = 4 * width if bottleneck else width
        if bottleneck:  # the 3 × 3 convolution has the stride, as in torchvision
            self.residual = nn.Sequential(
                nn.Conv2d(channels_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                conv3x3(width, width, stride), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out))
        else:
            self.residual = nn.Sequential(
                conv3x3(channels_in, width, stride), nn.BatchNorm2d(width), nn.ReLU(),
                conv3x3(width, width), nn.BatchNorm2d(width))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = PaddedShortcut(stride, channels_out - channels_in) if padded else nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.residual(x) + self.shortcut(x))


class PaddedShortcut(nn.Module):
    """Skip pixels and append channels of zeros: [n, c, h, w] -> [n, c + added, ⌈h/stride⌉, ⌈w/stride⌉]."""

    def __init__(self, stride: int, added: int) -> None:
        super().__init__()
        self.stride, self.added = stride, added

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, 0, self.added))


class ResNet(nn.Module):
    """A ResNet [n, c, h, w] -> [n, output_dim], for images of at least 8 × 8 pixels.

    He, Zhang, Ren, Sun: Deep residual learning for image recognition, CVPR 2016.
    Depths 18, 34, 50, 101 and 152 are the ImageNet family. A 3 × 3 stem of stride 1 without max-pooling replaces the
    7 × 7 stem of stride 2, so that images of 32 × 32 keep their resolution.
    Depths 6n + 2 (20, 32, 44, 56, 110) are the CIFAR family of section 4.2: three stages of n blocks with 16, 32 and 64
    channels, and shortcuts without parameters.
    width: the channels of the first stage, doubled in each further stage; None: 64, or 16 in the CIFAR family.
    """

    def __init__(self, depth: int, input_shape: tuple[int, ...], output_dim: int, width: int | None = None) -> None:
        super().__init__()
        channels, _, _ = image_size(f"tiny/resnet_{depth}", input_shape)
        padded = depth not in IMAGENET
        counts, bottleneck = (((depth - 2) // 6,) * 3, False) if padded else IMAGENET[depth]
        width = width or (16 if padded else 64)
        self.stem = nn.Sequential(conv3x3(channels, width), nn.BatchNorm2d(width), nn.ReLU())
        blocks: list[nn.Module] = []
        inner = width
        for stage, count in enumerate(counts):
            for place in range(count):
                stride = 2 if stage > 0 and place == 0 else 1
                blocks.append(Block(inner, width << stage, stride, bottleneck, padded))
                inner = (width << stage) * (4 if bottleneck else 1)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inner, output_dim)
        init_he(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))
