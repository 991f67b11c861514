from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from src.training.stacked.layers import SmallImageConv2d, replace_layers


@settings(deadline=None, max_examples=40)
@given(channels=st.tuples(st.integers(1, 3), st.integers(1, 3)), kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
       stride=st.integers(1, 3), padding=st.integers(0, 2), image=st.tuples(st.integers(4, 9), st.integers(4, 8)),
       bias=st.booleans())
def test_small_images_are_convolved_as_by_torch(channels: tuple[int, int], kernel: tuple[int, int], stride: int,
                                                padding: int, image: tuple[int, int], bias: bool) -> None:
    layer = nn.Conv2d(*channels, kernel, stride, padding, bias=bias).double()
    x = torch.randn(2, channels[0], *image, dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    gradients = torch.autograd.grad(expected.square().sum(), [x, *layer.parameters()])
    assert type(replace_layers(layer)) is SmallImageConv2d
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()]), gradients)


def test_other_convolutions_are_left_as_they_are() -> None:
    layers = [nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(1, 1, 3, dilation=2), nn.Conv2d(1, 1, 3, padding="same"),
              nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), nn.Conv1d(1, 1, 3)]
    assert [type(replace_layers(layer)) for layer in layers] == [nn.Conv2d] * 4 + [nn.Conv1d]
