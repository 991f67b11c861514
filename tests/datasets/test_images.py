from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src import machine
from src.config import Config
from src.datasets import images
from src.datasets.factory import fetch, make_data
from src.errors import DataError
from tests import mnist
from tests.conftest import ROOT


def _config(dataset: str, folder: Path, **options: Any) -> Config:
    return Config.from_dict({"dataset": dataset, "data_dir": str(folder), "data_on_device": True,
                             "data_download": False, **options})


def _idx(array: np.ndarray) -> bytes:
    """A file of MNIST's format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def as_torchvision_wants(shared_data: Path, tmp_path: Path) -> Path:
    """A folder with MNIST where torchvision looks for it: 8,000 images to train on and 2,000 to test."""
    x, y = mnist.make_dataset(Config(data_dir=str(shared_data)))["test"]
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, rows in (("train", slice(0, 8000)), ("t10k", slice(8000, None))):
        (raw / f"{name}-images-idx3-ubyte").write_bytes(_idx(x[rows, 0]))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(_idx(y[rows]))
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train and val, of two classes, 6 × 5 pixels whose red is the image's number."""
    for split, count in (("train", 8), ("val", 4)):
        for number in range(count):
            path = tmp_path / split / ("cat", "dog")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (5, 6), (number, 100, 200)).save(path)
    return tmp_path


def test_mnist_of_torchvision(as_torchvision_wants: Path, shared_data: Path) -> None:
    config = _config("timm/torch/mnist", as_torchvision_wants, data_splits_map={
        "train": "train[:90%]", "val": "train[90%:]", "test": "test"})
    data = make_data(config)
    assert [len(split) for split in data.splits.values()] == [7200, 800, 2000]
    assert data.input_shape == (1, 28, 28) and data.classes == tuple(range(10))
    whole = make_data(_config("timm/torch/mnist", as_torchvision_wants, data_splits_map={"train": "train+test"}))
    split: Any = whole.splits["train"]
    x, y = mnist.make_dataset(Config(data_dir=str(shared_data)))["test"]
    assert torch.equal(split.images, torch.from_numpy(x)) and torch.equal(split.y, torch.from_numpy(y).long())
    assert fetch(config).startswith("timm/torch/mnist: present")


def test_a_folder_of_images(folder: Path) -> None:
    data = make_data(_config("timm/torch/image_folder", folder, data_splits_map={"train": "train", "val": "val"}))
    train: Any = data.splits["train"]
    assert data.input_shape == (3, 6, 5) and data.classes == (0, 1)
    assert train.images[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]  # class by class
    assert train.y.tolist() == [0] * 4 + [1] * 4
    assert train.images[0, :, 3, 2].tolist() == [0, 100, 200]


def test_images_of_hugging_face_from_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(folder / "cache"))
    data = make_data(_config(f"timm/hfds/{folder / 'train'}", folder / "cache", data_splits_map={"train": "train"}))
    train: Any = data.splits["train"]
    assert len(train) == 8 and train.images[:, 2].unique().tolist() == [200]


TFDS = """
import sys, importlib.resources, importlib.resources.abc
import timm.data  # before tensorflow, as train.py has it
import numpy as np, tensorflow as tf
sys.modules["importlib_resources"] = importlib.resources  # a builder asks for this backport
import tensorflow_datasets as tfds
from src.config import Config
from src.datasets.factory import make_data

features = {"image": tfds.features.Image(shape=(6, 5, 3)), "label": tfds.features.ClassLabel(num_classes=2)}
columns = {"image": np.stack([np.full((6, 5, 3), i, np.uint8) for i in range(8)]), "label": np.arange(8) % 2}
tfds.dataset_builders.store_as_tfds_dataset(
    name="dots", version="1.0.0", features=tfds.features.FeaturesDict(features), data_dir=sys.argv[1],
    split_datasets={"train": tf.data.Dataset.from_tensor_slices(columns)})
config = Config(dataset="timm/tfds/dots", data_dir=sys.argv[1], data_on_device=True, data_download=False,
                data_splits_map={"train": "train[:75%]", "val": "train[75%:]"})
for split in make_data(config).splits.values():
    numbers = split.images[:, 0, 0, 0]
    assert split.images.shape[1:] == (3, 6, 5) and (numbers % 2 == split.y).all()
    print(*numbers.tolist())
"""


def test_a_set_of_tensorflow_datasets(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow_datasets")  # which loads tensorflow only when it is used
    done = subprocess.run([sys.executable, "-c", TFDS, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    assert done.returncode == 0, done.stderr
    train, val = done.stdout.splitlines()[-2:]
    assert len(train.split()) == 6 and sorted(map(int, f"{train} {val}".split())) == list(range(8))


def test_a_broken_image_is_named(folder: Path) -> None:
    (folder / "train" / "cat" / "2.png").write_bytes((folder / "train" / "cat" / "2.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"image 1 of split 'train' of timm/torch/image_folder .*cat/2\.png"):
        make_data(_config("timm/torch/image_folder", folder, data_splits_map={"train": "train"}))


def test_images_of_several_sizes(folder: Path) -> None:
    Image.new("RGB", (7, 6)).save(folder / "train" / "dog" / "1.png")
    with pytest.raises(DataError, match=r"several sizes: number 4 is \[3, 6, 7\], the first is \[3, 6, 5\]"):
        make_data(_config("timm/torch/image_folder", folder, data_splits_map={"train": "train"}))


def test_images_too_many_for_the_memory_are_told_with_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 700)
    with pytest.raises(DataError, match=r"takes 0\.0 GiB as bytes, and 0\.0 GiB of memory are free"):
        make_data(_config("timm/torch/image_folder", folder, data_splits_map={"train": "train"}))
    monkeypatch.setattr(machine, "available_memory", lambda: 720)
    make_data(_config("timm/torch/image_folder", folder, data_splits_map={"train": "train"}))


def test_who_comes_second_waits_for_the_download_of_the_first(as_torchvision_wants: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    there, away = as_torchvision_wants / "MNIST", as_torchvision_wants / "away"
    there.rename(away)
    downloads = []

    def download(self: Any) -> None:
        downloads.append(1)
        time.sleep(0.3)
        away.rename(there)

    monkeypatch.setattr(MNIST, "download", download)
    config = _config("timm/torch/mnist", as_torchvision_wants, data_download=True)
    threads = [threading.Thread(target=fetch, args=(config,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert downloads == [1]
    assert not list(as_torchvision_wants.glob(".*fetching*"))
    assert len(make_data(config).splits["train"]) == 8000


@pytest.mark.parametrize(("dataset", "options", "message"), [
    ("timm/torch/mnist", {}, "timm/torch/mnist cannot be had: Dataset not found.*prefetch"),
    ("timm/torch/nonesuch", {}, "cannot be had: Unknown torchvision dataset nonesuch"),
    ("timm/torch/mnist", {"data_splits_map": {"train": "validation"}}, "no split 'validation'.*allowed: train, test"),
    ("timm/torch/image_folder", {"data_splits_map": {"train": "training"}}, "no split 'training'.*allowed: train, val"),
    ("timm/torch/mnist", {"data_on_device": False}, "data_on_device: images of .* set data_on_device: true"),
])
def test_what_is_not_there_is_a_user_error(folder: Path, dataset: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_data(_config(dataset, folder, **options))


def test_a_missing_library_gives_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(DataError, match="pip install timm$"):
        images.fetch(_config("timm/torch/mnist", folder), folder, ["train"])
