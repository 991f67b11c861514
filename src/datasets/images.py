"""Image data sets through timm: folders, and those of torchvision, Hugging Face, tfds and WebDataset."""
from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.checks.registered_names import task_of
from src.config import Config
from src.datasets.data import Data, Lazy, Split
from src.datasets.image_splits import UNREADABLE, IndexedSplit, StreamedSplit
from src.datasets.on_device import kept
from src.datasets.splits import Slice, parse_split
from src.datasets.transforms import Transforms, transforms_of
from src.errors import DataError, UserError
from src.io import download, files, machine

_PACKAGES = {"torch": "torchvision", "tfds": "tensorflow-datasets tensorflow-cpu", "hfds": "datasets",
             "wds": "webdataset", "": "timm"}  # what pip installs for each kind of source
_STREAMED = ("tfds", "wds")


@dataclass(frozen=True, eq=False)
class Source:
    """One split as its source has it. classes: their names; labels: [n] class indices, None if only reading tells;
    image: the i-th as a PIL image, or None if samples come in their own order, from `stream`.
    """

    what: str
    length: int
    classes: tuple[str, ...]
    labels: np.ndarray | None = None
    image: Callable[[int], Any] | None = None
    stream: Callable[[], Iterator[tuple[Any, int]]] | None = None
    path: Callable[[int], str] = lambda index: ""


def load(config: Config, folder: Path, names: Sequence[str]) -> Data:
    """The splits of data_splits_map, read while they are used, or as bytes for data_on_device. DataError says what
    cannot be had, and why."""
    if task_of(config.loss, config.targets) != "classification":
        raise DataError(f"{config.dataset} has classes, and loss {config.loss} is of numbers", where="loss",
                        hint="try loss: log")
    kind = _kind(config.dataset)
    wanted = {text: _parts(kind, text) for text in config.data_splits_map.values()}
    sources = {part.source: _open(config, folder, part.source) for parts in wanted.values() for part in parts}
    behind_train = wanted.get(config.data_splits_map.get("train", ""), next(iter(wanted.values())))
    classes = sources[behind_train[0].source].classes
    for source in sources.values():
        _check_classes(source, classes)
    transforms = transforms_of(config, _first(sources[behind_train[0].source]))
    made = {text: _split(config, [(sources[part.source], part) for part in parts], classes, transforms)
            for text, parts in wanted.items()}
    splits = {key: made[text] for key, text in config.data_splits_map.items()}
    if config.data_on_device:
        first = next(iter(splits.values()))
        assert isinstance(first, Split)
        return kept(config, Data(splits, "classification", classes, tuple(first.x.shape[1:])))
    return Data(splits, "classification", classes, transforms.shape, {"images": transforms.about()})


def fetch(config: Config, folder: Path, names: Sequence[str]) -> str:
    """Let the source download and prepare its splits; their sizes. DataError as in `load`."""
    found = {name: _open(config, folder, name) for text in config.data_splits_map.values()
             for name in (part.source for part in _parts(_kind(config.dataset), text))}
    return ", ".join(f"{name} has {source.length:,} images" for name, source in found.items())


def _kind(dataset: str) -> str:
    """torch, tfds, hfds or wds; '' for a folder of images."""
    family, kind = dataset.split("/", 2)[:2]
    return "" if family == "folder" else kind


def _parts(kind: str, text: str) -> tuple[Slice, ...]:
    """The slices of a split; tfds takes its own expressions as they are."""
    return (Slice(text),) if kind == "tfds" else parse_split(text)


def _open(config: Config, folder: Path, split: str) -> Source:
    """A split of the data set. DataError, in one line, if it is not there and cannot be had."""
    kind, what = _kind(config.dataset), f"split '{split}' of {config.dataset}"
    try:
        from timm.data import create_dataset
    except ImportError:
        raise DataError(f"{config.dataset} needs timm, which is not installed", hint="pip install timm") from None
    name, root = config.dataset.removeprefix("timm/"), str(folder)
    if not kind:
        name, root = "", str(_folder_of_images(config, folder, split))
    elif kind == "hfds":
        name = _local(name, folder)
    elif kind == "wds":
        root = str(folder / name.removeprefix("wds/"))
    def create(may_download: bool = False) -> Any:
        return create_dataset(name, root=root, split=split, search_split=False, **(
            {"download": may_download} if kind in ("torch", "tfds") else {}))

    def find() -> Any:
        with contextlib.suppress(Exception):  # each library has its own kinds for what is not there
            return create()

    try:
        made = create() if not config.data_download or kind not in ("torch", "tfds") else download.once(
            folder / f".{name.replace('/', '-')}.fetching", config.dataset, find, lambda: create(may_download=True))
    except (ImportError, NameError, AttributeError) as error:
        raise DataError(f"{config.dataset} needs a package that is not installed: {error}",
                        hint=f"pip install {_PACKAGES[kind]}") from None
    except UserError:
        raise
    except Exception as error:
        raise DataError(f"{what} cannot be opened: {' '.join(str(error).split())[:300] or type(error).__name__}",
                        where="dataset", hint=download.PREFETCH if kind else None) from None
    return _streamed(what, made) if kind in _STREAMED else _indexed(what, made)


def _folder_of_images(config: Config, folder: Path, split: str) -> Path:
    root = folder / files.expand_path(config.dataset.partition("/")[2], "dataset")
    place = root / split
    if not place.is_dir():
        there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else None
        raise DataError(f"{config.dataset} has no folder {place}", where="data_splits_map", allowed=there,
                        hint="a folder for each split, in it one for each class, in those the images")
    return place


def _local(name: str, folder: Path) -> str:
    """hfds/NAME with a folder under data_dir in place of a name, if there is one."""
    place = folder / name.removeprefix("hfds/")
    return f"hfds/{place}" if place.exists() else name


def _indexed(what: str, made: Any) -> Source:
    """A data set of torchvision, or one of timm's with a reader."""
    reader = getattr(made, "reader", None)
    if reader is None:
        labels = getattr(made, "targets", None)
        names = getattr(made, "classes", None) or [str(label) for label in sorted(set(map(int, labels)))]
        return Source(what, len(made), tuple(map(str, names)), _labels(made, labels), lambda index: made[index][0])
    by_name: Mapping[str, int] = reader.class_to_idx
    if hasattr(reader, "samples"):  # a folder: paths and labels
        labels = [label for _path, label in reader.samples]
    else:  # Hugging Face: the column alone
        labels = list(reader.dataset[reader.label_key])
        by_name = by_name or {str(label): label for label in sorted(set(labels))}
    classes = tuple(str(name) for name in sorted(by_name, key=lambda name: by_name[name]))
    return Source(what, len(labels), classes, _labels(made, labels), lambda index: _opened(reader[index][0]),
                  path=lambda index: str(reader.filename(index)))


def _labels(made: Any, labels: Any) -> np.ndarray:
    """[n] as the metadata has them, else as reading all samples tells."""
    if labels is None:
        labels = [made[index][1] for index in range(len(made))]
    return np.asarray(labels, dtype=np.int64)


def _opened(stream: Any) -> Any:
    from PIL import Image

    with stream:
        image = Image.open(stream)
        image.load()
    return image


def _streamed(what: str, made: Any) -> Source:
    by_name = made.reader.class_to_idx or {}
    classes = tuple(str(name) for name in sorted(by_name, key=lambda name: by_name[name]))
    length = made.reader.num_samples or sum(1 for _ in made)
    if not classes:
        classes = tuple(map(str, range(1 + max(int(label) for _image, label in made))))
    return Source(what, length, classes, stream=lambda: ((image, int(label)) for image, label in made))


def _first(source: Source) -> Any:
    """An image of the source, to see its size and channels."""
    if not source.length:
        raise DataError(f"{source.what} is empty", where="dataset")
    return _readable(source, 0) if source.image else next(iter(source.stream()))[0]  # type: ignore[misc]


def _readable(source: Source, index: int) -> Any:
    """An image of a source that has them by index. DataError, which names it, if it cannot be read."""
    assert source.image
    try:
        return source.image(index)
    except UNREADABLE as error:
        where = source.path(index)
        raise DataError(f"sample {index} of {source.what}{f' ({where})' if where else ''} cannot be read: {error}"
                        ) from None


def _check_classes(source: Source, classes: tuple[str, ...]) -> None:
    """DataError unless the source has these classes, and its labels are among them."""
    if source.classes != classes:
        strange = [name for name in source.classes if name not in classes] or list(source.classes)
        raise DataError(f"{source.what} has other classes than the split train: {', '.join(strange[:10])}",
                        where="data_splits_map", allowed=", ".join(classes[:10]))
    if source.labels is None:
        return
    bad = np.flatnonzero((source.labels < 0) | (source.labels >= len(classes)))
    if len(bad):
        index = int(bad[0])
        raise DataError(f"sample {index} of {source.what} has the label {source.labels[index]}",
                        where=source.path(index) or None, allowed=f"0 to {len(classes) - 1}")


def _split(config: Config, parts: list[tuple[Source, Slice]], classes: tuple[str, ...],
           transforms: Transforms) -> Split | Lazy:
    if parts[0][0].stream:
        return _streamed_split(config, parts, len(classes), transforms)
    chosen = [(source, indices if (indices := part.indices(source.length, config.seed_split)) is not None
               else np.arange(source.length)) for source, part in parts]
    if config.data_on_device:
        _check_room(parts[0][0].what, sum(len(indices) for _, indices in chosen), _first(parts[0][0]),
                    transforms.shape[0])
        images = [_readable(source, int(index)) for source, indices in chosen for index in indices]
        labels = [label for source, indices in chosen for label in source.labels[indices]]  # type: ignore[index]
        return _bytes(parts[0][0].what, images, labels, transforms)
    # each source has labels and images: it is no stream
    given: Any = [(source.what, source.image, source.path, source.labels, indices) for source, indices in chosen]
    return IndexedSplit(given, transforms, min(config.num_workers, machine.allotted_cpus()), config.aug_repeats or 1)


def _streamed_split(config: Config, parts: list[tuple[Source, Slice]], classes: int, transforms: Transforms
                    ) -> Split | StreamedSplit:
    """Streams one after the other, each without what its slice leaves out."""
    what = " and ".join(dict.fromkeys(source.what for source, _ in parts))
    masks = [np.ones(source.length, bool) if (indices := part.indices(source.length, config.seed_split)) is None
             else np.isin(np.arange(source.length), indices) for source, part in parts]
    keep = np.concatenate(masks)

    def stream() -> Iterator[tuple[Any, int]]:
        for source, _part in parts:
            assert source.stream
            yield from itertools.islice(source.stream(), source.length)

    if config.data_on_device:
        images, labels = zip(*itertools.compress(stream(), keep), strict=True)
        return _bytes(what, list(images), labels, transforms)
    return StreamedSplit(what, len(keep), stream, classes, transforms, keep=None if keep.all() else keep)


def _bytes(what: str, images: list[Any], labels: Any, transforms: Transforms) -> Split:
    """All images as bytes. DataError if their sizes differ."""
    if len(sizes := {image.size for image in images}) > 1:
        raise DataError(f"images of {what} have different sizes, as {' and '.join(map(str, sorted(sizes)[:2]))}",
                        where="data_on_device", hint="leave it out: they are then read and resized one by one")
    pixels = np.stack([np.asarray(image.convert(transforms.mode)) for image in images])
    x = torch.from_numpy(pixels.reshape(*pixels.shape[:3], -1)).permute(0, 3, 1, 2).contiguous()
    return Split(x, torch.as_tensor(np.asarray(labels, dtype=np.int64)))


def _check_room(what: str, samples: int, image: Any, channels: int) -> None:
    """DataError unless that many images as bytes fit into memory."""
    wanted, room = samples * channels * image.size[0] * image.size[1], machine.available_memory()
    if wanted > room:
        raise DataError(f"{what} takes {wanted / 2**30:.1f} GiB as bytes, and {room / 2**30:.1f} GiB of memory are "
                        "free", where="data_on_device", hint="leave it out, or ask for more memory")
