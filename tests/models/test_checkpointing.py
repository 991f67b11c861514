from __future__ import annotations

import copy
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from src.config import Config, check_parameters
from src.errors import ConfigError
from src.models.checkpointing import Segments, enable, segments
from src.models.factory import make_model
from tests.texts import make_folder


def held(model: nn.Module, x: Any) -> tuple[torch.Tensor, int]:
    """The output, and how many numbers the graph of the forward pass keeps beside the parameters."""
    kept: dict[int, int] = {}
    own = {parameter.data_ptr() for parameter in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return model(x), sum(kept.values())


def twice(name: str, shape: tuple[int, ...], **options: Any) -> tuple[nn.Module, nn.Module]:
    made = []
    for on in (False, True):
        torch.manual_seed(0)
        made.append(make_model(Config.from_dict({"model": name, "grad_checkpointing": on, **options}), shape, 5))
    return made[0], made[1]


def compare(usual: nn.Module, other: nn.Module, x: Any) -> None:
    """Three passes forward and back are the same, dropout and running statistics too, and less is kept."""
    assert usual.state_dict().keys() == other.state_dict().keys()
    for _ in range(3):
        outputs, sizes = [], []
        for model in (usual, other):
            torch.manual_seed(1)
            model.train()
            output, size = held(model, x)
            output.square().mean().backward()
            outputs.append(output)
            sizes.append(size)
        assert torch.equal(*outputs)
        assert sizes[1] < 0.8 * sizes[0]
        for mine, theirs in zip(usual.parameters(), other.parameters(), strict=True):
            assert mine.grad is not None
            assert theirs.grad is not None
            assert torch.equal(mine.grad, theirs.grad)
        for mine, theirs in zip(usual.buffers(), other.buffers(), strict=True):
            assert torch.equal(mine, theirs)
    usual.eval()
    other.eval()
    assert torch.equal(usual(x), other(x))


@pytest.mark.parametrize("name", ["tiny/resnet_20", "tiny/resnet_50", "tiny/vgg_11", "tiny/wrn_16_1_.3"])
def test_same_gradients_with_less_kept(name: str) -> None:
    usual, other = twice(name, (3, 32, 32))
    compare(usual, other, torch.rand(4, 3, 32, 32))
    assert copy.deepcopy(other).state_dict().keys() == usual.state_dict().keys()


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit", "timm/resnet18"])
def test_models_of_timm_by_their_own_way(name: str) -> None:
    pytest.importorskip("timm")
    usual, other = twice(name, (3, 32, 32))
    compare(usual, other, torch.rand(4, 3, 32, 32))


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_transformers_by_their_own_way(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = make_folder(tmp_path / "model", kind)
    usual, other = twice(f"hf/{folder}", (), dataset="hf/reviews.csv", data_dir=str(tmp_path))
    ids = torch.randint(3, 10, (4, 6))
    compare(usual, other, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def test_a_copy_is_a_model_of_its_own() -> None:
    """An averaged model is a deep copy: it must use its own weights."""
    _, model = twice("tiny/resnet_20", (1, 8, 8))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in chain(copied.parameters(), copied.buffers()):
            parameter.zero_()
    x = torch.rand(2, 1, 8, 8)
    assert not copied(x).any()
    assert model(x).any()


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_segments_cover_all_and_keep_what_is_overwritten_together(in_place: list[bool]) -> None:
    found = segments(in_place)
    assert list(chain(*found)) == list(range(len(in_place)))
    assert not any(in_place[segment.start] for segment in found[1:])
    assert len(found) <= len(in_place) ** 0.5 + 1


def test_in_place_layers() -> None:
    def layers() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(*(layer for _ in range(5) for layer in (nn.Linear(8, 8), nn.Hardswish(inplace=True))))
    usual, other = nn.Sequential(layers()), nn.Sequential(layers())
    enable(other, "mine")
    assert isinstance(other[0], Segments)
    for model in (usual, other):
        model(torch.ones(2, 8) - 3).sum().backward()
    for mine, theirs in zip(usual.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["linear", "linear/no_bias", "tiny/lenet"])
def test_small_models_are_refused_before_submission(model: str) -> None:
    with pytest.raises(ConfigError, match=f"grad_checkpointing: {model} is too small"):
        check_parameters({"model": model, "grad_checkpointing": True})
    check_parameters({"model": model, "grad_checkpointing": False})


def test_a_model_with_nothing_to_checkpoint() -> None:
    class Refusing(nn.Linear):
        def set_grad_checkpointing(self, enable: bool = True) -> None:
            assert not enable, "not supported"
    for model in (nn.Linear(2, 2), Refusing(2, 2), nn.Sequential(nn.Linear(2, 2))):
        with pytest.raises(ConfigError, match="grad_checkpointing: mine does not support .*set_grad_checkpointing"):
            enable(model, "mine")
