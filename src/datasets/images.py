"""Image data sets: folders, and through timm those of torchvision, Hugging Face, tfds and WebDataset."""
from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.checks.registered_names import STREAMED_KINDS, task_of
from src.checks.splits import Slice, overlaps, parse_split
from src.config import Config
from src.datasets.data import Data, Lazy, Split
from src.datasets.image_folder import find_images, is_ignored
from src.datasets.image_splits import UNREADABLE, IndexedSplit, StreamedSplit
from src.datasets.on_device import to_on_device
from src.datasets.transforms import Transforms, transforms_of
from src.errors import DataError, UserError, listed, summarize
from src.io import download, files, machine

_PACKAGES = {"torch": "torchvision", "tfds": "tensorflow-datasets tensorflow-cpu", "hfds": "datasets",
             "wds": "webdataset", "": "timm"}  # the packages that each kind needs


@dataclass(frozen=True, eq=False)
class ImageSource:
    """One split of a data set. A source has either `image`, or `stream` if samples can only be read in its own order.

    name: of the split, for messages
    length: number of samples
    classes: names of the classes
    labels: [n] class indices; None if only reading the samples yields them
    image: returns the i-th sample as a PIL image
    stream: yields all samples, PIL images and labels
    path: returns the file of the i-th sample, or ""
    """

    name: str
    length: int
    classes: tuple[str, ...]
    labels: np.ndarray | None = None
    image: Callable[[int], Any] | None = None
    stream: Callable[[], Iterator[tuple[Any, int]]] | None = None
    path: Callable[[int], str] = lambda index: ""


def load(config: Config, folder: Path, names: Sequence[str]) -> Data:
    """Return the splits of data_splits_map, which are read while they are used, or as bytes for data_on_device.

    DataError if something is missing or does not fit.
    """
    if task_of(config.loss, config.targets) != "classification":
        raise DataError(f"{config.dataset} has classes, and loss {config.loss} needs numbers", where="loss",
                        hint="try loss: log")
    kind = _kind(config.dataset)
    slices = {text: _slices(kind, text) for text in config.data_splits_map.values()}
    sources = {part.source: _open(config, folder, part.source) for parts in slices.values() for part in parts}
    train = slices.get(config.data_splits_map.get("train", ""), next(iter(slices.values())))
    reference = sources[train[0].source]
    for source in sources.values():
        _check_classes(source, reference.classes)
    transforms = transforms_of(config, _first_image(reference))
    cut = {text: _split(config, [(sources[part.source], part) for part in parts], reference.classes, transforms)
           for text, parts in slices.items()}
    splits = {key: cut[text] for key, text in config.data_splits_map.items()}
    about = overlaps({key: slices[text] for key, text in config.data_splits_map.items()},
                     {name: source.length for name, source in sources.items()})
    if config.data_on_device:
        first = next(iter(splits.values()))
        assert isinstance(first, Split)
        return to_on_device(config, Data(splits, "classification", reference.classes, tuple(first.x.shape[1:]), about))
    return Data(splits, "classification", reference.classes, transforms.shape, {"images": transforms.about(), **about})


def fetch(config: Config, folder: Path, names: Sequence[str]) -> str:
    """Download and prepare the splits that are missing. Return their sizes. DataError as in `load`."""
    sources = {name: _open(config, folder, name) for text in config.data_splits_map.values()
               for name in (part.source for part in _slices(_kind(config.dataset), text))}
    return ", ".join(f"{name} has {source.length:,} images" for name, source in sources.items())


def _kind(dataset: str) -> str:
    """Return torch, tfds, hfds or wds; "" for a folder of images."""
    family, kind = dataset.split("/", 2)[:2]
    return "" if family == "folder" else kind


def _slices(kind: str, text: str) -> tuple[Slice, ...]:
    """Return the slices of a split expression. tfds evaluates its own expressions."""
    return (Slice(text),) if kind == "tfds" else parse_split(text)


def _open(config: Config, folder: Path, split: str) -> ImageSource:
    """Open a split, downloaded if it is missing and may be. DataError, on one line, if that fails."""
    kind, split_name = _kind(config.dataset), f"split '{split}' of {config.dataset}"
    try:
        from timm.data import create_dataset
    except ImportError:
        raise DataError(f"{config.dataset} needs timm, which is not installed", hint="pip install timm") from None
    if not kind:
        return _folder_source(split_name, _folder_of_split(config, folder, split))
    name, root = config.dataset.removeprefix("timm/"), str(folder)
    if kind == "hfds":
        name = _with_local_path(name, folder)
    elif kind == "wds":
        root = str(folder / name.removeprefix("wds/"))

    def create(may_download: bool = False) -> Any:
        return create_dataset(name, root=root, split=split, search_split=False, **(
            {"download": may_download} if kind in ("torch", "tfds") else {}))

    def find() -> Any:
        with contextlib.suppress(Exception):  # each library has its own exceptions for a missing data set
            return create()

    try:
        dataset = create() if not config.data_download or kind not in ("torch", "tfds") else download.once(
            folder / f".{name.replace('/', '-')}.fetching", config.dataset, find, lambda: create(may_download=True))
    except (ImportError, NameError, AttributeError) as error:
        raise DataError(f"{config.dataset} needs a package that is not installed: {error}",
                        hint=f"pip install {_PACKAGES[kind]}") from None
    except UserError:
        raise
    except Exception as error:
        raise DataError(f"{split_name} cannot be opened: {summarize(error)}", where="dataset",
                        hint=download.PREFETCH) from None
    return _streamed_source(split_name, dataset) if kind in STREAMED_KINDS else _indexed_source(split_name, dataset)


def _folder_of_split(config: Config, folder: Path, split: str) -> Path:
    root = folder / files.expand_path(config.dataset.partition("/")[2], "dataset")
    if not (root / split).is_dir():
        splits = sorted(path.name for path in root.iterdir() if path.is_dir() and not is_ignored(path.name)
                        ) if root.is_dir() else None
        raise DataError(f"{config.dataset} has no folder {root / split}", where="data_splits_map", allowed=splits,
                        hint="expected a folder for each split, in it one for each class, in those the images")
    return root / split


def _folder_source(split_name: str, folder: Path) -> ImageSource:
    images = find_images(split_name, folder)
    paths = images.paths
    return ImageSource(split_name, len(paths), images.classes, np.asarray(images.labels, dtype=np.int64),
                       lambda index: _read_image(open(files.open_regular(paths[index], any_link=True), "rb")),
                       path=lambda index: os.path.relpath(paths[index], folder))


def _with_local_path(name: str, folder: Path) -> str:
    """Return hfds/PATH if the data set is a folder under data_dir, else the name of the hub."""
    path = folder / name.removeprefix("hfds/")
    return f"hfds/{path}" if path.exists() else name


def _indexed_source(split_name: str, dataset: Any) -> ImageSource:
    """Return the source of a data set of torchvision, or of one of timm with a reader."""
    reader = getattr(dataset, "reader", None)
    if reader is None:
        targets = _labels(dataset, getattr(dataset, "targets", None))
        names = getattr(dataset, "classes", None) or np.unique(targets).tolist()
        return ImageSource(split_name, len(dataset), tuple(map(str, names)), targets, lambda index: dataset[index][0])
    labels = list(reader.dataset[reader.label_key])  # Hugging Face: reads this column alone
    by_name: Mapping[str, int] = reader.class_to_idx or {str(label): label for label in sorted(set(labels))}
    classes = tuple(str(name) for name in sorted(by_name, key=lambda name: by_name[name]))
    return ImageSource(split_name, len(labels), classes, _labels(dataset, labels),
                       lambda index: _read_image(reader[index][0]), path=lambda index: str(reader.filename(index)))


def _labels(dataset: Any, labels: Any) -> np.ndarray:
    """Return [n] labels: those of the metadata, or, without them, of all samples."""
    if labels is None:
        labels = [dataset[index][1] for index in range(len(dataset))]
    return np.asarray(labels, dtype=np.int64)


def _read_image(stream: Any) -> Any:
    from PIL import Image

    with stream:
        try:
            image = Image.open(stream)
            image.load()
        except Image.DecompressionBombError as error:  # of no class in UNREADABLE
            raise ValueError(str(error)) from None
    return image


def _streamed_source(split_name: str, dataset: Any) -> ImageSource:
    by_name = dataset.reader.class_to_idx or {}
    classes = tuple(str(name) for name in sorted(by_name, key=lambda name: by_name[name]))
    length = dataset.reader.num_samples or sum(1 for _ in dataset)
    if not classes:
        classes = tuple(map(str, range(1 + max(int(label) for _image, label in dataset))))
    return ImageSource(split_name, length, classes, stream=lambda: ((image, int(label)) for image, label in dataset))


def _first_image(source: ImageSource) -> Any:
    """Return the first image, whose size and channels are the last default of the transforms."""
    if not source.length:
        raise DataError(f"{source.name} is empty", where="dataset")
    return _checked_image(source, 0) if source.image else next(iter(source.stream()))[0]  # type: ignore[misc]


def _checked_image(source: ImageSource, index: int) -> Any:
    """Return an image of an indexed source. DataError, with its path, if it cannot be read."""
    assert source.image
    try:
        return source.image(index)
    except UNREADABLE as error:
        path = source.path(index)
        raise DataError(f"sample {index} of {source.name}{f' ({path})' if path else ''} cannot be read: {error}"
                        ) from None


def _check_classes(source: ImageSource, classes: tuple[str, ...]) -> None:
    """DataError unless the source has these classes, and its labels are among them."""
    if source.classes != classes:
        unknown = [name for name in source.classes if name not in classes]
        missing = [name for name in classes if name not in source.classes]
        problems = [f"{verb} {listed(names, 10)}" for verb, names in (
            ("has also", unknown), ("lacks", missing)) if names] or ["has them in another order"]
        raise DataError(f"{source.name} has other classes than the split train: it {' and '.join(problems)}",
                        where="data_splits_map", hint="each split needs the same classes")
    if source.labels is None:
        return
    invalid = np.flatnonzero((source.labels < 0) | (source.labels >= len(classes)))
    if len(invalid):
        index = int(invalid[0])
        raise DataError(f"sample {index} of {source.name} has the label {source.labels[index]}",
                        where=source.path(index) or None, allowed=f"0 to {len(classes) - 1}")


def _split(config: Config, parts: list[tuple[ImageSource, Slice]], classes: tuple[str, ...],
           transforms: Transforms) -> Split | Lazy:
    """Return slices of sources, one after another, as one split."""
    if parts[0][0].stream:
        return _streamed_split(config, parts, len(classes), transforms)
    chosen = [(source, indices if (indices := part.indices(source.length, config.seed_split)) is not None
               else np.arange(source.length)) for source, part in parts]
    if config.data_on_device:
        _check_memory(parts[0][0].name, sum(len(indices) for _, indices in chosen), _first_image(parts[0][0]),
                      transforms.shape[0])
        images = [_checked_image(source, int(index)) for source, indices in chosen for index in indices]
        labels = [label for source, indices in chosen for label in source.labels[indices]]  # type: ignore[index]
        return _bytes(parts[0][0].name, images, labels, transforms)
    # indexed sources have labels and images
    indexed: Any = [(source.name, source.image, source.path, source.labels, indices) for source, indices in chosen]
    return IndexedSplit(indexed, transforms, min(config.num_workers, machine.allotted_cpus()), config.aug_repeats or 1)


def _streamed_split(config: Config, parts: list[tuple[ImageSource, Slice]], classes: int, transforms: Transforms
                    ) -> Split | StreamedSplit:
    """Return slices of streams, one after another, as one split; samples outside of the slices are skipped."""
    name = " and ".join(dict.fromkeys(source.name for source, _ in parts))
    masks = [np.ones(source.length, bool) if (indices := part.indices(source.length, config.seed_split)) is None
             else np.isin(np.arange(source.length), indices) for source, part in parts]
    keep = np.concatenate(masks)

    def stream() -> Iterator[tuple[Any, int]]:
        for source, _part in parts:
            assert source.stream
            yield from itertools.islice(source.stream(), source.length)

    if config.data_on_device:
        images, labels = zip(*itertools.compress(stream(), keep), strict=True)
        return _bytes(name, list(images), labels, transforms)
    return StreamedSplit(name, len(keep), stream, classes, transforms, keep=None if keep.all() else keep)


def _bytes(name: str, images: list[Any], labels: Any, transforms: Transforms) -> Split:
    """Return all images as uint8 [n, c, h, w]. DataError if their sizes differ."""
    if len(sizes := {image.size for image in images}) > 1:
        raise DataError(f"images of {name} have different sizes, e.g. {' and '.join(map(str, sorted(sizes)[:2]))}",
                        where="data_on_device", hint="leave it out: they are then read and resized one by one")
    pixels = np.stack([np.asarray(image.convert(transforms.mode)) for image in images])
    x = torch.from_numpy(pixels.reshape(*pixels.shape[:3], -1)).permute(0, 3, 1, 2).contiguous()
    return Split(x, torch.as_tensor(np.asarray(labels, dtype=np.int64)))


def _check_memory(name: str, samples: int, image: Any, channels: int) -> None:
    """DataError unless that many images as bytes fit into memory."""
    required, available = samples * channels * image.size[0] * image.size[1], machine.available_memory()
    if required > available:
        raise DataError(f"{name} takes {required / 2**30:.1f} GiB as bytes, and {available / 2**30:.1f} GiB of memory "
                        "are free", where="data_on_device", hint="leave it out, or request more memory")
