"""Image sets that timm finds, of torchvision, tensorflow-datasets, Hugging Face or a folder, read as bytes."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from src import fetching, machine
from src.config import Config
from src.datasets.data import Source
from src.errors import DataError

_SPLITS = ("train", "test")  # of torchvision's sets
_GIB = 2**30


def load(config: Config, folder: Path, names: Sequence[str]) -> dict[str, Source]:
    """All images of the splits `names`, uint8 [n, c, h, w], with their classes. DataError if the set or a split is not
    there, cannot be fetched, does not fit into memory, or has images of several sizes, or one that cannot be read."""
    if not config.data_on_device:
        raise DataError(f"images of {config.dataset} are kept on the training device", where="data_on_device",
                        hint="set data_on_device: true")
    return {name: Source(*_bytes(f"split '{name}' of {config.dataset}", _open(config, folder, name)))
            for name in names}


def fetch(config: Config, folder: Path, names: Sequence[str]) -> str:
    """Make the set present under `folder`. DataError as in `load`."""
    for name in names:
        _open(config, folder, name)
    return f"present in {folder}"


def _open(config: Config, folder: Path, split: str) -> Any:
    """The split as a data set of pairs of an image and a class, which may be indexed or not."""
    source, _, name = config.dataset.removeprefix("timm/").partition("/")
    if name == "image_folder":
        allowed = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ()
    else:
        allowed = _SPLITS if source == "torch" else (split,)
    if split not in allowed:
        raise DataError(f"{config.dataset} has no split '{split}' in {folder}", where="data_splits_map",
                        allowed=allowed or None)
    if not config.data_download or source not in ("torch", "tfds") or name == "image_folder":
        return _create(config, folder, split, download=False)

    def find() -> Any:
        with contextlib.suppress(DataError):
            return _create(config, folder, split, download=False)

    # both splits come with one download
    return fetching.once(folder / f".{source}-{name.replace('/', '-')}.fetching", config.dataset, find,
                         lambda: _create(config, folder, split, download=True))


def _create(config: Config, folder: Path, split: str, download: bool) -> Any:
    try:
        from timm.data import create_dataset

        return create_dataset(config.dataset.removeprefix("timm/"), root=str(folder), split=split, is_training=False,
                              download=download)
    except ImportError as error:
        raise DataError(f"{config.dataset} cannot be read: {error}", where="dataset",
                        hint=f"pip install {(error.name or 'timm').partition('.')[0]}") from None
    except Exception as error:  # each of the libraries has kinds of its own for what is missing or cannot be fetched
        raise DataError(f"{config.dataset} cannot be had: {' '.join(str(error).split())[:300]}", where="dataset",
                        hint=fetching.PREFETCH) from error


def _bytes(what: str, dataset: Any) -> tuple[Tensor, Tensor]:
    """uint8 [n, c, h, w] and [n] float64."""
    if hasattr(dataset, "data") and hasattr(dataset, "targets"):  # torchvision's small sets are arrays already
        images = torch.as_tensor(dataset.data)
        images = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
        return images, torch.as_tensor(dataset.targets).double()
    images, labels = torch.empty(0, dtype=torch.uint8), torch.zeros(len(dataset), dtype=torch.float64)
    for place, (image, label) in enumerate(_samples(what, dataset)):
        pixels = torch.from_numpy(np.atleast_3d(np.asarray(image)).copy()).permute(2, 0, 1)
        if not place:
            _check_room(what, len(dataset), pixels)
            images = torch.empty((len(dataset), *pixels.shape), dtype=torch.uint8)
        if pixels.shape != images.shape[1:]:
            raise DataError(f"images of {what} have several sizes: number {place} is {list(pixels.shape)}, the first "
                            f"is {list(images.shape[1:])}", where="data_on_device", hint="resize them to one")
        images[place], labels[place] = pixels, label
    return images, labels


def _samples(what: str, dataset: Any) -> Iterator[tuple[Any, int]]:
    if isinstance(dataset, IterableDataset):
        yield from dataset
        return
    if hasattr(dataset, "_max_retries"):
        dataset._max_retries = 1  # else timm puts the next image in the place of one that it cannot read
    for index in range(len(dataset)):
        try:
            yield dataset[index]
        except (OSError, RuntimeError, SyntaxError, ValueError) as error:  # as Pillow tells of broken files
            files = getattr(dataset, "samples", None)
            raise DataError(f"image {index} of {what} cannot be read{f' ({files[index][0]})' if files else ''}: "
                            f"{error}", where="dataset") from None


def _check_room(what: str, samples: int, pixels: Tensor) -> None:
    wanted, room = samples * pixels.numel(), machine.available_memory()
    if wanted > room:
        raise DataError(f"{what} takes {wanted / _GIB:.1f} GiB as bytes, and {room / _GIB:.1f} GiB of memory are free",
                        where="data_on_device", hint="ask for more memory")
