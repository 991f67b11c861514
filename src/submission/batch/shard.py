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
    """Part `number` of `of`, counted from 1: one run of each block of `of` successive runs, by their index alone.

    Which run of a block it is depends on a hash of the block's number. If it were always the first, a last axis of `of`
    values would be split into one value for each site.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def contains(self, name: str) -> bool:
        """Return whether a run belongs to this part."""
        index = run_folder.run_index(name)
        if index is None:
            return False
        block = hashlib.blake2b(b"%d" % (index // self.of), digest_size=8).digest()
        return (index + int.from_bytes(block, "big")) % self.of == self.number - 1

    def select(self, points: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return the points of a grid that belong to this part. JobSpecError if there are none."""
        selected = {name: spec for name, spec in points.items() if self.contains(name)}
        if not selected:
            raise JobSpecError(f"shard {self} of {len(points)} runs is empty", where="--shard",
                               hint="divide the batch into fewer parts")
        return selected

    def line(self, selected: int, total: int, date: str) -> str:
        """Describe the part at submission. date: of the batch, which other sites must pass if they submit later."""
        return f"shard      {self}: {selected:,} of {total:,} runs; other sites add --date {date} on another day"


def parse(text: str) -> Shard:
    """Parse k/n. JobSpecError if it is invalid."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise JobSpecError(f"invalid part '{text}'", where="--shard", allowed="k/n with k from 1 to n",
                           hint="--shard 1/2 at one site, --shard 2/2 at the other")
    return Shard(int(match[1]), int(match[2]))
