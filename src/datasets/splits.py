"""Split expressions: train, train[:80%], train[-500:], train[:10%]+test."""
from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from src.checks import registered_names
from src.errors import DataError


@dataclass(frozen=True)
class Slice:
    """A split of a source, or a part of one. start and stop are as written: '80%', '1000', '-500' or None.

    The whole split keeps the order of its file. A part is taken of a permutation of the split, so that a file sorted
    by class gives parts alike; all parts of one split are taken of the same permutation, so that train[:80%] and
    train[80%:] have no sample in common and none is left out. Within a part, samples keep the order of the file.
    """

    source: str
    start: str | None = None
    stop: str | None = None
    whole: bool = True

    def bounds(self, n: int) -> tuple[int, int]:
        """The half-open range of places that the part takes of a split of n samples. DataError if out of range."""
        low = 0 if self.start is None else _place(self.start, n)
        high = n if self.stop is None else _place(self.stop, n)
        if not 0 <= low <= n or not 0 <= high <= n:
            raise DataError(f"'{self}' is out of range", where="data_splits_map",
                            allowed=f"split '{self.source}' has {n} samples")
        return low, high

    def indices(self, n: int, seed: int) -> np.ndarray | None:
        """The samples of the part in the order of the file, of a split of n; None for the whole split."""
        low, high = self.bounds(n)
        if low >= high:
            raise DataError(f"'{self}' is empty", where="data_splits_map",
                            allowed=f"split '{self.source}' has {n} samples")
        return None if self.whole else np.sort(permutation(n, seed)[low:high])

    def __str__(self) -> str:
        return self.source if self.whole else f"{self.source}[{self.start or ''}:{self.stop or ''}]"


def _place(bound: str, n: int) -> int:
    """A bound as a place. p% is n·p/100 rounded to the nearest, halves up; -p% is (100-p)%; -k is n-k."""
    if bound.endswith("%"):
        percent = Fraction(bound[:-1])
        percent = percent + 100 if bound.startswith("-") else percent
        return math.floor(n * percent / 100 + Fraction(1, 2))
    return int(bound) + (n if bound.startswith("-") else 0)


def parse_split(text: str) -> tuple[Slice, ...]:
    """The slices that `text` puts one after another. DataError if it is no split expression."""
    slices = []
    for part in text.split("+"):
        match = registered_names.SLICE.fullmatch(part)
        if not match:
            raise DataError(f"'{text}' is no split", where="data_splits_map", allowed=registered_names.SPLIT_FORMS)
        slices.append(Slice(match[1], match[3], match[4], whole=match[2] is None))
    return tuple(slices)


def permutation(n: int, seed: int) -> np.ndarray:
    """A permutation of n samples that seed_split and n determine, the same on every machine and in every year.

    NumPy promises that RandomState's streams never change. Hashing keeps the stream apart from those of other seeds.
    """
    digest = hashlib.sha256(f"split {seed} of {n}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4").astype(np.uint32)).permutation(n)
