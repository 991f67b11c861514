"""Shards: disjoint parts of one batch for several sites, by the index of a run."""
from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from src import run_folder
from src.errors import JobSpecError
from src.submission.spec.grammar import Spec


class Shard(NamedTuple):
    """Shard `number` of `total`, counted from 1: one run of each block of `total` successive runs, by index alone.

    A hash of the block's number decides which run of a block it is. If shard 1 always had the first run, it would have
    only the first value of a last axis with `total` values.
    """

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def contains(self, name: str) -> bool:
        """Return whether a run belongs to this shard."""
        index = run_folder.run_index(name)
        if index is None:
            return False
        block = hashlib.blake2b(b"%d" % (index // self.total), digest_size=8).digest()
        return (index + int.from_bytes(block, "big")) % self.total == self.number - 1

    def select(self, points: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return the points of a grid that belong to this shard. JobSpecError if there are none."""
        selected = {name: spec for name, spec in points.items() if self.contains(name)}
        if not selected:
            raise JobSpecError(f"shard {self} of {len(points)} runs is empty", where="--shard",
                               hint="divide the batch into fewer shards")
        return selected

    def line(self, selected: int, total: int, date: str) -> str:
        """Describe the shard at submission. date: of the batch, which other sites must pass if they submit later."""
        return f"shard      {self}: {selected:,} of {total:,} runs; other sites add --date {date} on another day"


def parse(text: str) -> Shard:
    """Parse k/n. JobSpecError if it is invalid."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise JobSpecError(f"invalid shard '{text}'", where="--shard", allowed="k/n with k from 1 to n",
                           hint="--shard 1/2 at one site, --shard 2/2 at the other")
    return Shard(int(match[1]), int(match[2]))
