"""Image splits that are read during training: by loader processes, or as a stream in the order of the source.

Random numbers of augmentations depend on the seed of a pass and the index of a sample, whichever process loads the
sample and wherever a pass starts.
"""
from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from src.datasets.data import Batch
from src.datasets.transforms import Transforms, gain_and_shift
from src.errors import DataError

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError)  # raised by Pillow for broken files
# handled by the training process; loader processes ignore them
_TRAINING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_BUFFER = 2048  # size of the shuffle buffer of a stream, in samples

# (name of the source, function returning the i-th image, function returning its path, all labels, indices in the split)
Part = tuple[str, Callable[[int], Any], Callable[[int], str], np.ndarray, np.ndarray]
Key = tuple[int, int | None]  # (position in the split, seed of the augmentation or None)


class _Images(Dataset[Any]):
    """The dataset of the loader processes. A sample is (uint8 [c, h, w], label), or an error message."""

    def __init__(self, parts: list[Part], transforms: Transforms) -> None:
        self._parts, self._transforms = parts, transforms
        self._ends = np.cumsum([len(indices) for *_, indices in parts])

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | str:
        position, seed = key
        part = int(np.searchsorted(self._ends, position, side="right"))
        name, image, path, labels, indices = self._parts[part]
        index = int(indices[position - (int(self._ends[part - 1]) if part else 0)])
        try:
            return _transformed(image(index), seed, self._transforms), int(labels[index])
        except UNREADABLE as error:
            file = path(index)
            return f"sample {index} of {name}{f' ({file})' if file else ''} cannot be read: {error}"


class IndexedSplit:
    """Images that can be read in any order.

    workers: the number of loader processes.
    repeats: copies of an image in a training batch, each augmented differently (Hoffer et al., Augment your batch,
    2020). A pass reads fewer images by this factor.
    """

    def __init__(self, parts: list[Part], transforms: Transforms, workers: int, repeats: int = 1,
                 device: torch.device | None = None) -> None:
        self._parts, self._transforms, self._workers, self._repeats = parts, transforms, workers, repeats
        self._device = device or torch.device("cpu")
        self.labels = np.concatenate([labels[indices] for *_, labels, indices in parts])
        self._normalize = _Normalize(transforms, self._device)
        self._loaders: dict[bool, tuple[_BatchSampler, DataLoader[Any]]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> IndexedSplit:
        """Return the same split with its batches on `device`."""
        return IndexedSplit(self._parts, self._transforms, self._workers, self._repeats, device)

    def batches(self, batch_size: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        """Yield the batches of a pass, as in src.datasets.data.Lazy."""
        yield from self._read(self._keys(order, batch_size, seed), training=order is not None)

    def some(self, batch_size: int, rows: Tensor) -> Iterator[Batch]:
        """Yield batches of the samples at `rows` [n], without augmentation."""
        yield from self._read([[(row, None) for row in part.tolist()] for part in rows.split(batch_size)], False)

    def _read(self, keys: list[list[Key]], training: bool) -> Iterator[Batch]:
        sampler, loader = self._loader(training)
        sampler.keys = keys
        first_seeds = [batch[0][1] for batch in keys]
        with _signals_blocked():  # a new process does not ignore these signals yet
            batches = iter(loader)
        for batch, seed in zip(batches, first_seeds, strict=True):
            if isinstance(batch, str):
                raise DataError(batch)
            yield self._normalize(batch[0], seed), batch[1].to(self._device, non_blocking=True)

    def close(self) -> None:
        """Stop the loader processes. Garbage collection would take half a minute, since they ignore SIGTERM."""
        for _plan, loader in self._loaders.values():
            if (running := getattr(loader, "_iterator", None)) is not None:
                running._shutdown_workers()
        self._loaders.clear()

    def _keys(self, order: Tensor | None, batch_size: int, seed: int) -> list[list[Key]]:
        """Return the keys of each batch."""
        if order is None:
            keys: list[Key] = [(row, None) for row in range(len(self))]
        elif self._repeats == 1:
            keys = [(row, _derive_seed(seed, row)) for row in order.tolist()]
        else:  # each batch keeps only its first images, repeated
            keys = []
            for rows in order.split(batch_size):
                first = rows[:-(-len(rows) // self._repeats)].tolist()
                keys += [(row, _derive_seed(seed, row, copy)) for row in first for copy in range(self._repeats)][
                    :len(rows)]
        return [keys[start:start + batch_size] for start in range(0, len(keys), batch_size)]

    def _loader(self, training: bool) -> tuple[_BatchSampler, DataLoader[Any]]:
        """Return a data loader, one for training and one for evaluation, created on first use.

        Its processes live as long as the split.
        """
        if training not in self._loaders:
            sampler = _BatchSampler()
            self._loaders[training] = sampler, DataLoader(
                _Images(self._parts, self._transforms), batch_sampler=sampler, collate_fn=_collate,
                num_workers=self._workers, persistent_workers=self._workers > 0, worker_init_fn=_begin_worker,
                pin_memory=self._device.type == "cuda", generator=torch.Generator())
        return self._loaders[training]


class StreamedSplit:
    """Images that are read in the order of the source. Training shuffles them with a buffer of 2048 samples.

    name: of the split, for messages.
    length: the number of samples in the stream.
    keep: [length] bool, the samples that belong to the split; None: all. The others are read and skipped.
    """

    streamed = True

    def __init__(self, name: str, length: int, stream: Callable[[], Iterator[tuple[Any, int]]], classes: int,
                 transforms: Transforms, device: torch.device | None = None, keep: np.ndarray | None = None) -> None:
        self._name, self._length, self._stream, self._classes = name, length, stream, classes
        self._transforms, self._device, self._keep = transforms, device or torch.device("cpu"), keep
        self._normalize = _Normalize(transforms, self._device)

    def __len__(self) -> int:
        return self._length if self._keep is None else int(self._keep.sum())

    def to(self, device: torch.device) -> StreamedSplit:
        """Return the same split with its batches on `device`."""
        return StreamedSplit(self._name, self._length, self._stream, self._classes, self._transforms, device,
                             self._keep)

    def batches(self, batch_size: int, order: Tensor | None, seed: int) -> Iterator[Batch]:
        """Yield the batches of a pass, as in src.datasets.data.Lazy.

        Only the length of `order` is used: the first len(self) - len(order) samples are skipped.
        """
        samples = self._samples(order, seed)
        while batch := list(itertools.islice(samples, batch_size)):
            numbers, x, y = zip(*batch, strict=True)
            first_seed = None if order is None else _derive_seed(seed, numbers[0])
            yield self._normalize(torch.stack(x), first_seed), torch.tensor(y).to(self._device)

    def _samples(self, order: Tensor | None, seed: int) -> Iterator[tuple[int, Tensor, int]]:
        """Yield the number in the stream, the image, and the label of each sample."""
        numbered = _shuffled(self._numbered(), seed) if order is not None else self._numbered()
        skipped = 0 if order is None else len(self) - len(order)
        for number, image, label in itertools.islice(numbered, skipped, None):
            if not 0 <= label < self._classes:
                raise DataError(f"sample {number} of {self._name} has the label {label}",
                                allowed=f"0 to {self._classes - 1}")
            sample_seed = None if order is None else _derive_seed(seed, number)
            yield number, _transformed(image, sample_seed, self._transforms), label

    def _numbered(self) -> Iterator[tuple[int, Any, int]]:
        stream, number = self._stream(), 0
        while number < self._length:
            try:
                image, label = next(stream)
            except StopIteration:
                raise DataError(f"{self._name} has {number} samples instead of {self._length}") from None
            except UNREADABLE as error:
                raise DataError(f"sample {number} of {self._name} cannot be read: {error}") from None
            if self._keep is None or self._keep[number]:
                yield number, image, label
            number += 1


class _BatchSampler:
    """The batches of a loader's next pass, as the keys of their samples."""

    def __init__(self) -> None:
        self.keys: list[list[Key]] = []

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Normalize:
    """Normalize a batch of bytes on the training device, and apply random erasing there."""

    def __init__(self, transforms: Transforms, device: torch.device) -> None:
        self._gain, self._shift = gain_and_shift(transforms.mean, transforms.std, device)
        self._device = device
        self._erasing: Any = copy.copy(transforms.erasing)
        if self._erasing is not None:
            self._erasing.device = str(device)

    def __call__(self, x: Tensor, seed: int | None) -> Tensor:
        """Return the normalized batch. seed: that of the first sample of the batch; None in evaluation."""
        x = x.to(self._device, non_blocking=True).float().mul_(self._gain).add_(self._shift)
        if self._erasing is not None and seed is not None:
            with _seeded(seed, self._device):
                x = self._erasing(x)
        return x


def _transformed(image: Any, seed: int | None, transforms: Transforms) -> Tensor:
    """Return a PIL image as the model's input, uint8 [c, h, w]. seed: None in evaluation."""
    if image.mode != transforms.mode:
        image = image.convert(transforms.mode)
    if seed is None:
        return transforms.evaluation(image)  # type: ignore[no-any-return]
    if get_worker_info() is not None:  # no other code uses the generators of a loader process
        _seed(seed)
        return transforms.train(image)  # type: ignore[no-any-return]
    with _seeded(seed, torch.device("cpu")):
        return transforms.train(image)  # type: ignore[no-any-return]


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # timm draws from it
    torch.default_generator.manual_seed(seed)  # torch.manual_seed, for all devices, takes longer than most transforms


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed all generators that augmentations use in the block. Restore their states afterwards."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        _seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _shuffled(samples: Iterator[tuple[int, Any, int]], seed: int) -> Iterator[tuple[int, Any, int]]:
    """Yield samples in random order, drawn from a buffer of _BUFFER samples."""
    generator, buffer = random.Random(seed), []
    for sample in samples:
        if len(buffer) < _BUFFER:
            buffer.append(sample)
            continue
        position = generator.randrange(_BUFFER)
        yield buffer[position]
        buffer[position] = sample
    generator.shuffle(buffer)
    yield from buffer


def _collate(samples: list[tuple[Tensor, int] | str]) -> tuple[Tensor, Tensor] | str:
    if message := next((sample for sample in samples if isinstance(sample, str)), None):
        return message
    x, y = zip(*samples, strict=True)
    return torch.stack(x), torch.tensor(y)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals, for this process and for those started in the block, until its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TRAINING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(_number: int) -> None:
    """Initialize a loader process: ignore signals, which the training process handles, and use one CPU."""
    for number in _TRAINING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


def _derive_seed(*parts: int) -> int:
    """Return a seed of 63 bits that depends on all parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1
