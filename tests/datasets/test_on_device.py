"""Images on the device against timm's and torchvision's transforms of the same images."""
from __future__ import annotations

import dataclasses
import itertools
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

from src.config import Config
from src.datasets import data as samples
from src.datasets.factory import make_data
from src.datasets.on_device import OnDevice, Recipe
from src.datasets.resampling import ATTEMPTS, random_crops, windows
from src.errors import ConfigError, DataError
from src.io import yaml_io
from src.training.setup.out_of_memory import check_gpu_memory
from src.training.steps.batches import shuffled_batches
from tests.conftest import trust_modules
from train import train as run_training

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def _images(samples: int, height: int, width: int, channels: int = 3) -> Tensor:
    """Smooth ones with an edge, as photographs are."""
    generator = torch.Generator().manual_seed(samples)
    coarse = 255 * torch.rand(samples, channels, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    images[:, :, height // 2:, width // 3:] *= 0.3
    return images.byte()


def _pil(image: Tensor) -> Image.Image:
    return vision.to_pil_image(image)


def _split(images: Tensor, **options: Any) -> OnDevice:
    recipe = Recipe(**{"size": (24, 24), "mean": MEAN, "std": STD, **options})
    return OnDevice(images, torch.arange(len(images)), recipe)


def _training(split: OnDevice, seed: int = 0) -> Tensor:
    """A pass in order, in values from 0 to 255."""
    x = torch.cat([x for x, _ in split.batches(7, torch.arange(len(split)), seed)])
    std, mean = (torch.tensor(values)[:, None, None] for values in (split.recipe.std, split.recipe.mean))
    return (x * std + mean) * 255


@pytest.mark.parametrize(("sides", "size", "crop_pct", "interpolation"), [
    ((32, 32), (32, 32), 1.0, "bilinear"), ((32, 32), (28, 28), 0.875, "bilinear"),
    ((32, 32), (24, 24), 0.875, "bicubic"), ((32, 48), (64, 64), 0.9, "bicubic"), ((61, 40), (24, 24), 1.0, "bilinear"),
    ((28, 28), (32, 32), 1.0, "bicubic"), ((40, 33), (33, 33), 1.0, "bilinear"),
])
def test_evaluation_is_timms(sides: tuple[int, int], size: tuple[int, int], crop_pct: float, interpolation: str
                             ) -> None:
    from timm.data import create_transform

    images = _images(5, *sides)
    slow = create_transform((3, *size), is_training=False, interpolation=interpolation, mean=MEAN, std=STD,
                            crop_pct=crop_pct)
    expected = torch.stack([slow(_pil(image)) for image in images])
    split = _split(images, size=size, crop_pct=crop_pct, interpolation=interpolation, padding=4, hflip=0.5)
    found = torch.cat([x for x, _ in split.batches(2, None, 0)])
    level = 1 / (255 * min(STD))
    assert (found - expected).abs().max() <= (1.6 if interpolation == "bilinear" else 3) * level  # rounded twice
    assert (found - expected).abs().mean() <= 0.6 * level


@given(st.integers(0, 99), st.integers(0, 5), st.booleans(), st.booleans())
@settings(max_examples=25)
def test_windows_are_crops_and_flips(seed: int, padding: int, vflip: bool, hflip: bool) -> None:
    images = _images(4, 9, 12)
    generator = torch.Generator().manual_seed(seed)
    top, left = (torch.randint(2 * padding + 1, (4,), generator=generator) for _ in range(2))
    padded = pad(images, (padding,) * 4)
    found = windows(padded, top, left, (9, 12), torch.tensor([vflip] * 4), torch.tensor([hflip, not hflip] * 2))
    for number, image in enumerate(found):
        expected = vision.crop(vision.pad(images[number], [padding] * 4), int(top[number]), int(left[number]), 9, 12)
        expected = vision.vflip(expected) if vflip else expected
        expected = vision.hflip(expected) if hflip == (number % 2 == 0) else expected
        assert torch.equal(image, expected)


@pytest.mark.parametrize(("interpolation", "most"), [("bilinear", 1.6), ("bicubic", 4.0)])
@pytest.mark.parametrize("size", [(24, 24), (60, 50)])
def test_resized_parts_are_pillows(interpolation: str, most: float, size: tuple[int, int]) -> None:
    images = _images(30, 40, 36)
    split = _split(images, size=size, scale=(0.1, 1.0), interpolation=interpolation, hflip=0.5, vflip=0.3)
    found = _training(split, seed=5)
    draws = torch.rand(30, split.recipe.draws, generator=torch.Generator().manual_seed(5))
    for number, box in enumerate(zip(*random_crops((40, 36), (0.1, 1.0), (3 / 4, 4 / 3), draws[:, 3:]), strict=True)):
        image = vision.resized_crop(_pil(images[number]), *map(int, box), list(size), InterpolationMode(interpolation))
        image = vision.vflip(image) if draws[number, 0] < 0.3 else image
        image = vision.hflip(image) if draws[number, 1] < 0.5 else image
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert (found[number] - expected).abs().max() <= most
        assert (found[number] - expected).abs().mean() <= 0.6


@pytest.mark.parametrize(("sides", "scale", "ratio"), [
    ((32, 32), (0.08, 1.0), (3 / 4, 4 / 3)), ((30, 50), (0.6, 1.0), (1.0, 1.0)), ((20, 90), (0.9, 1.0), (0.8, 1.2))])
def test_parts_are_distributed_as_those_of_timm(sides: tuple[int, int], scale: tuple[float, float],
                                                ratio: tuple[float, float]) -> None:
    from timm.data.transforms import RandomResizedCropAndInterpolation

    random.seed(0)
    image = Image.new("RGB", sides[::-1])
    theirs = torch.tensor([RandomResizedCropAndInterpolation.get_params(image, scale, ratio) for _ in range(4000)])
    draws = torch.rand(4000, 2 + 2 * ATTEMPTS, generator=torch.Generator().manual_seed(0))
    ours = torch.stack(random_crops(sides, scale, ratio, draws), dim=1)
    assert (ours[:, :2] >= 0).all() and (ours[:, 0] + ours[:, 2] <= sides[0]).all()
    assert (ours[:, 1] + ours[:, 3] <= sides[1]).all()
    for column in range(4):  # of each number, the distance between the two empirical distributions (Kolmogorov-Smirnov)
        at = torch.arange(max(sides) + 1)
        one, other = ((numbers[:, column, None] <= at).float().mean(0) for numbers in (ours, theirs))
        assert (one - other).abs().max() < 0.05  # 0.036 is passed once in a hundred


def test_crops_and_flips_have_the_statistics_of_the_slow_path() -> None:
    from torchvision import transforms

    images = _images(1500, 24, 24)
    slow = transforms.Compose([transforms.RandomCrop((24, 24), padding=4), transforms.RandomHorizontalFlip(0.5),
                               transforms.ToTensor()])
    torch.manual_seed(0)
    expected = 255 * torch.stack([slow(_pil(image)) for image in images])
    found = _training(_split(images, padding=4, hflip=0.5), seed=1)
    torch.testing.assert_close(found.mean((0, 2, 3)), expected.mean((0, 2, 3)), rtol=0.01, atol=0.0)
    torch.testing.assert_close(found.std((0, 2, 3)), expected.std((0, 2, 3)), rtol=0.01, atol=0.0)
    torch.testing.assert_close(found.mean((0, 1)), expected.mean((0, 1)), rtol=0, atol=5.0)  # black at the edges


def test_each_place_and_each_flip_is_as_likely_as_the_others() -> None:
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 2, 3] = 255
    split = _split(image.expand(9000, 1, 5, 5), size=(5, 5), mean=(0.0,), std=(1.0,), padding=1, hflip=0.25)
    where = (_training(split) > 128).float().mean((0, 1))
    assert where.sum() == pytest.approx(1)
    # from column 3 by -1, 0, 1, or mirrored from column 1; from row 2 by -1, 0, 1
    torch.testing.assert_close(where[1:4].sum(1), torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    torch.testing.assert_close(where.sum(0), torch.tensor([1, 1, 4, 3, 3]) / 12, atol=0.02, rtol=0)


def test_augmentation_depends_only_on_seed_and_index() -> None:
    split = _split(_images(40, 24, 24), padding=4, hflip=0.5)
    order = torch.randperm(40)
    in_order = _training(split, seed=3)
    torch.manual_seed(9)
    for batch_size, rows in ((7, order), (40, order), (1, order[25:])):
        batches = list(split.batches(batch_size, rows, 3))
        y = torch.cat([y for _, y in batches])
        assert y.tolist() == rows.tolist()
        again = _split(split.images[y], size=(24, 24))
        assert not torch.equal(torch.cat([x for x, _ in batches]), torch.cat([x for x, _ in again.batches(9, None, 0)]))
        std, mean = torch.tensor(STD)[:, None, None], torch.tensor(MEAN)[:, None, None]
        found = (torch.cat([x for x, _ in batches]) * std + mean) * 255
        torch.testing.assert_close(found, in_order[rows])
    assert not torch.equal(in_order, _training(split, seed=4))


def test_interrupted_pass_continues_at_its_position() -> None:
    split = _split(_images(40, 24, 24), scale=(0.3, 1.0), hflip=0.5, interpolation="random")
    whole = list(itertools.islice(shuffled_batches(split, 8, 0, torch.device("cpu")), 12))
    rest = list(itertools.islice(shuffled_batches(split, 8, 0, torch.device("cpu"), start=3), 9))
    for (x, y), (other_x, other_y) in zip(whole[3:], rest, strict=True):
        assert torch.equal(y, other_y)
        torch.testing.assert_close(x, other_x)
    assert not torch.equal(whole[0][0], whole[5][0])  # another pass


def test_small_batches_are_made_in_blocks_and_are_the_same() -> None:
    split = _split(_images(30, 24, 24), scale=(0.2, 1.0), hflip=0.5, interpolation="random")
    one = list(split.batches(4, torch.arange(30), 0))
    before, samples.BLOCK_BYTES = samples.BLOCK_BYTES, 1
    try:
        other = list(split.batches(4, torch.arange(30), 0))
    finally:
        samples.BLOCK_BYTES = before
    assert [len(y) for _, y in one] == [4] * 7 + [2]
    for (x, y), (other_x, other_y) in zip(one, other, strict=True):
        assert torch.equal(y, other_y)
        torch.testing.assert_close(x, other_x)


def test_without_crops_training_sees_what_evaluation_sees() -> None:
    split = _split(_images(6, 30, 26), crop_pct=0.9)
    evaluated = torch.cat([x for x, _ in split.batches(4, None, 0)])
    trained = torch.cat([x for x, _ in split.batches(4, torch.arange(6), 0)])
    torch.testing.assert_close(trained, evaluated)
    flipped = OnDevice(split.images, split.y, dataclasses.replace(split.recipe, hflip=1.0, vflip=1.0))
    torch.testing.assert_close(torch.cat([x for x, _ in flipped.batches(4, torch.arange(6), 0)]), evaluated.flip(2, 3))


MODULE = """
import torch

def _bytes(samples):
    return torch.randint(256, (samples, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(samples))

def make(config):
    return {"train": (_bytes(60), [0, 1, 2] * 20), "test": (_bytes(30), [0, 1, 2] * 10)}

def numbers(config):
    return {"train": (_bytes(6).float(), [0, 1] * 3)}
"""
SPEC: dict[str, Any] = {"dataset": "images_of_mine:make", "data_on_device": True, "seed_model": 0, "seed_training": 0,
                        "model": "tiny/lenet", "batch_size": 16, "train_length": 2, "base_lr": 0.05}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "images_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    trust_modules(monkeypatch, tmp_path, "images_of_mine")
    yield
    sys.modules.pop("images_of_mine", None)


@pytest.mark.usefixtures("module")
def test_images_stay_bytes_and_are_normalized_by_those_of_train() -> None:
    data = make_data(Config.from_dict({**SPEC, "crop_padding": 2, "hflip": 0.5, "data_splits_map": {
        "train": "train[:50%]", "val": "train[50%:]", "test": "test", "again": "test"}}))
    train, val, test = (data.splits[name] for name in ("train", "val", "test"))
    assert [(len(split), split.images.dtype) for split in (train, val, test)] == [(30, torch.uint8)] * 3
    assert data.splits["again"] is test
    assert data.input_shape == (3, 12, 10) and data.classes == (0, 1, 2)
    x, _ = next(train.batches(30, None, 0))
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3))
    assert val.recipe == train.recipe
    assert data.about["images"] == {
        "size": (12, 10), "mean": train.recipe.mean, "std": train.recipe.std, "padding": 2, "scale": None,
        "ratio": (0.75, 4 / 3), "hflip": 0.5, "vflip": 0.0, "interpolation": "bilinear",
        "crop_pct": 1.0}


@pytest.mark.usefixtures("module")
def test_further_sets_are_normalized_by_train_too() -> None:
    data = make_data(Config.from_dict({**SPEC, "data_splits_map": {"train": "train"}, "hflip": 0.5,
                                       "eval_datasets": {"other": "images_of_mine:make@test[:10]"}}))
    other = data.splits["other"]
    assert len(other) == 10 and other.recipe == data.splits["train"].recipe


@pytest.mark.usefixtures("module")
def test_pretrained_models_see_images_as_their_weights_did() -> None:
    spec = {**SPEC, "model": "timm/mobilenetv3_small_100.lamb_in1k", "model_pretrained": True}
    recipe = make_data(Config.from_dict(spec)).about["images"]
    assert (recipe["mean"], recipe["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    own = make_data(Config.from_dict({**spec, "model_pretrained": False})).about["images"]
    assert abs(own["mean"][0] - 0.5) < 0.01  # of random bytes


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("options", [
    {"crop_padding": 2, "hflip": 0.5, "mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1},
    {"scale": [0.2, 1], "vflip": 0.5, "model_input_shape": [3, 16, 16], "overfit_batches": 2, "grad_accum_steps": 2,
     "interpolation": "random", "crop_pct": 0.8}])
def test_a_run_is_repeated_by_its_config(tmp_path: Path, options: dict[str, Any]) -> None:
    stats = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        spec = {**SPEC, **options}
        if name == "other":
            spec = yaml_io.load_flat((tmp_path / "one/config.yaml").read_text(), "")
        run_training(spec, str(tmp_path / name), lambda: None)
        stats.append(pd.read_csv(tmp_path / name / "stats.csv")[["train/loss", "test/last/loss", "test/last/accuracy"]])
    pd.testing.assert_frame_equal(*stats)
    assert "(3, " not in (tmp_path / "one/config.yaml").read_text()


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(("options", "message"), [
    ({"dataset": "images_of_mine:numbers", "data_splits_map": {"train": "train"}}, "has no images as bytes"),
    ({"model_input_shape": [1, 12, 10]}, "images of 3 channels cannot be converted"),
    ({"crop_padding": 1, "model_input_shape": [3, 16, 16]}, "have no windows of"),
])
def test_options_that_images_do_not_allow_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_data(Config.from_dict({**SPEC, **options}))


@pytest.mark.parametrize(("options", "message"), [
    ({"dataset": "sklearn/digits"}, "data_on_device: samples of sklearn/digits are not images.*always kept on"),
    ({"data_on_device": False, "hflip": 0.5, "dataset": "train:train"}, "hflip: your own images can be augmented"),
    ({"crop_padding": 4, "scale": [0.5, 1.0]}, "crop_padding and scale both crop"),
    ({"ratio": [1.0, 1.0]}, "ratio needs scale"),
    ({"scale": [0.5, 1.5]}, "more than the whole image"),
    ({"scale": [1.0, 0.5]}, "scale: .* is not a range"),
    ({"scale": [0.5]}, "scale: .* is not a range"),
    ({"scale": [True, 1.0]}, "a list of numbers"),
    ({"hflip": 1.5}, "hflip: 1.5 is not a probability"),
    ({"crop_padding": -1}, "too small"),
    ({"crop_pct": 1.1}, "crop_pct: 1.1 is not a fraction"),
    ({"interpolation": "cubic"}, "unknown value 'cubic'.*bicubic"),
])
def test_invalid_image_options_are_rejected_at_submission(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_dict({"dataset": "timm/torch/cifar10", "data_on_device": True, **options})


def test_images_too_large_for_a_gpu_are_refused_with_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    split = _split(_images(50, 64, 64))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (500_000, 2**31))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    with pytest.raises(ConfigError, match=r"the images take 0\.0 GiB, and a GPU has 0\.0 of 2\.0 GiB free"):
        check_gpu_memory([split], torch.device("cuda"))
    check_gpu_memory([split], torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (700_000, 2**31))
    check_gpu_memory([split], torch.device("cuda"))  # 50 × 3 × 64 × 64 bytes, and 8 for each label
