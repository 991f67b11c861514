"""Split expressions: train, train[:80%], train[-500:], train[:10%]+test."""
from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from src.checks import registered_names
from src.errors import DataError

if TYPE_CHECKING:
    import numpy as np


class Slice(NamedTuple):
    """A split of a source, or a part of it. start and stop are as written: '80%', '1000', '-500' or None.

    The whole split keeps the order of its file. A part is taken from a permutation of the split, so that parts of a
    file that is sorted by class have similar distributions. All parts of a split use the same permutation: train[:80%]
    and train[80%:] are disjoint and cover the split. Within a part, samples keep the order of the file.
    """

    source: str
    start: str | None = None
    stop: str | None = None
    whole: bool = True

    def bounds(self, n: int) -> tuple[int, int]:
        """Return the half-open range of the part in a permutation of n samples. DataError if out of range."""
        low = 0 if self.start is None else _position(self.start, n)
        high = n if self.stop is None else _position(self.stop, n)
        if not 0 <= low <= n or not 0 <= high <= n:
            raise DataError(f"'{self}' is out of range", where="data_splits_map",
                            allowed=f"split '{self.source}' has {n} samples")
        return low, high

    def size(self, n: int) -> int:
        """Return the number of samples of the part in a split of n. DataError if it is empty or out of range."""
        low, high = self.bounds(n)
        if low >= high:
            raise DataError(f"'{self}' is empty", where="data_splits_map",
                            allowed=f"split '{self.source}' has {n} samples")
        return high - low

    def indices(self, n: int, seed: int) -> np.ndarray | None:
        """Return the sorted indices of the part in a split of n samples; None for the whole split."""
        import numpy as np  # not needed to check a config

        low, size = self.bounds(n)[0], self.size(n)
        return None if self.whole else np.sort(permutation(n, seed)[low:low + size])

    def __str__(self) -> str:
        return self.source if self.whole else f"{self.source}[{self.start or ''}:{self.stop or ''}]"


def _position(bound: str, n: int) -> int:
    """Convert a bound. p% is n·p/100 rounded to the nearest integer, halves up; -p% is (100-p)%; -k is n-k."""
    if bound.endswith("%"):
        from fractions import Fraction  # loads decimal

        percent = Fraction(bound[:-1])
        percent = percent + 100 if bound.startswith("-") else percent
        return math.floor(n * percent / 100 + Fraction(1, 2))
    return int(bound) + (n if bound.startswith("-") else 0)


def parse_split(text: str) -> tuple[Slice, ...]:
    """Return the slices of a split expression, which `+` joins. DataError if it is invalid."""
    slices = []
    for part in text.split("+"):
        match = registered_names.SLICE.fullmatch(part)
        if not match:
            raise DataError(f"invalid split '{text}'", where="data_splits_map", allowed=registered_names.SPLIT_FORMS)
        slices.append(Slice(match[1], match[3], match[4], whole=match[2] is None))
    return tuple(slices)


def overlaps(slices: Mapping[str, tuple[Slice, ...]], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return a fact for config.yaml, {overlaps: {'train, val': 360}}: how many samples two splits share.

    slices: of each split, by name; sizes: the number of samples of each source. Empty if no two splits overlap.
    """
    shared = {f"{one}, {other}": sum(_count_shared(part, other_part, sizes[part.source])
                                     for part in slices[one] for other_part in slices[other]
                                     if part.source == other_part.source in sizes)
              for one, other in itertools.combinations(slices, 2)}
    overlapping = {names: samples for names, samples in shared.items() if samples}
    return {"overlaps": overlapping} if overlapping else {}


def _count_shared(one: Slice, other: Slice, n: int) -> int:
    """Return how many of the n samples of their source both slices contain: they share its permutation."""
    (low, high), (other_low, other_high) = one.bounds(n), other.bounds(n)
    return max(0, min(high, other_high) - max(low, other_low))


def permutation(n: int, seed: int) -> np.ndarray:
    """Return the permutation of n samples for seed_split; it never changes, on any machine.

    NumPy guarantees that RandomState's streams stay the same. Hashing separates the stream from those of other seeds.
    """
    import hashlib

    import numpy as np

    digest = hashlib.sha256(f"split {seed} of {n}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4").astype(np.uint32)).permutation(n)
