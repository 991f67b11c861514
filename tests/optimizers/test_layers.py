from __future__ import annotations

import pytest
import torch
from torch import nn

from src.errors import ConfigError
from src.optimizers.factory import parameter_groups
from src.optimizers.layers import Freeze, layer_scales


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.relu = nn.ReLU()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.relu(self.stem(x))))


def by_name(model: nn.Module, scales: dict[nn.Parameter, float]) -> dict[str, float]:
    return {name: scales[parameter] for name, parameter in model.named_parameters()}


def test_each_part_learns_half_as_fast_as_the_next() -> None:
    model = Net()
    scales = by_name(model, layer_scales(model, 0.5, model.head))
    expected = {"stem.0": 1 / 32, "stem.1": 1 / 16, "body.0": 1 / 8, "body.1.0": 1 / 4, "body.1.1": 1 / 2, "head": 1}
    assert scales == {name: expected[name.rpartition(".")[0]] for name in scales}


def test_layers_of_timm_are_those_of_timm() -> None:
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    model = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=3, img_size=32)
    scales = layer_scales(model, 0.75, model.get_classifier())
    theirs = {parameter: group["lr_scale"] for group in param_groups_layer_decay(model, layer_decay=0.75)
              for parameter in group["params"]}
    assert scales == theirs
    named = dict(model.named_parameters())
    assert scales[named["head.weight"]] == 1


def test_groups_have_their_scaled_rates_and_decays() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    scales = layer_scales(model, 0.1, model[1])
    groups = parameter_groups(model, 0.5, 0.0, 2.0, scales)
    found = {(group["lr"], group["weight_decay"]): group["params"] for group in groups}
    number = {parameter: number for number, parameter in enumerate(model.parameters())}
    assert {key: [number[parameter] for parameter in params] for key, params in found.items()} \
        == {(0.2, 0.5): [0], (2.0, 0.5): [2], (0.2, 0.0): [1], (2.0, 0.0): [3]}


def test_single_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="only one layer"):
        layer_scales(nn.Linear(2, 2), 0.5, None)


def test_a_frozen_backbone_keeps_its_statistics_until_it_is_freed() -> None:
    model = Net()
    freeze = Freeze(model, model.head, until=3)
    batch_norm = model.stem[1]
    for epoch, frozen in ((1, True), (2, True), (3, False), (4, False)):
        freeze.apply(epoch)
        model.train()
        freeze.set_eval_mode()
        assert [parameter.requires_grad for parameter in model.parameters()] == [not frozen] * 10 + [True] * 2
        before = batch_norm.running_mean.clone()
        model(torch.randn(8, 4)).sum().backward()
        assert torch.equal(batch_norm.running_mean, before) == frozen
    again = Freeze(Net(), nn.Linear(1, 1), until=3)
    again.apply(5)  # a start that goes on after the backbone was freed
    assert all(parameter.requires_grad for parameter in again._model.parameters())
