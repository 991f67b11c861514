"""Shards: several sites get parts of one batch that have no run in common, by the numbers of the runs"""
from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from src import run_folder
from src.errors import JobSpecError
from src.submission.spec.grammar import Spec


class Shard(NamedTuple):
    """Part `number`, from 1 on, of `of`: one run of each `of` that follow one another, by their index alone.

    Which one it is depends on a hash of the block's number: were it always the first, a last axis of `of` values would
    be torn apart, one value for each site.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def contains(self, name: str) -> bool:
        """Whether a run is in it, by the index in front of its name."""
        index = run_folder.run_index(name)
        if index is None:
            return False
        block = hashlib.blake2b(b"%d" % (index // self.of), digest_size=8).digest()
        return (index + int.from_bytes(block, "big")) % self.of == self.number - 1

    def select(self, points: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return the points of a grid that belong to this part. JobSpecError if there are none."""
        selected = {name: spec for name, spec in points.items() if self.contains(name)}
        if not selected:
            raise JobSpecError(f"shard {self} of {len(points)} runs has none of them", where="--shard",
                               hint="cut the batch into fewer parts")
        return selected

    def line(self, mine: int, total: int, date: str) -> str:
        """What a submission says of it; date: of the batch, which the other sites give if it is not theirs."""
        return f"shard      {self}: {mine:,} of {total:,} runs; other sites add --date {date} on another day"


def parse(text: str) -> Shard:
    """k/n. JobSpecError if it is none."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise JobSpecError(f"'{text}' is no part of a batch", where="--shard", allowed="k/n with k from 1 to n",
                           hint="--shard 1/2 at one site, --shard 2/2 at the other")
    return Shard(int(match[1]), int(match[2]))
