"""Train the runs of a worker as stacks: build them on shared data, and halve a stack that does not fit the device."""
from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from src import run_folder
from src.checks.stack_rules import STACKABLE_FIELDS
from src.config import OUTPUT_FIELDS, Config
from src.datasets.data import Data
from src.run_folder import RunFolder
from src.training.components import TrainingComponents, build
from src.training.stacked.member import Member
from src.training.stacked.run import OnStop, Outcome, train_members


class Run(Protocol):
    """A run that has been claimed. check: raises if a later attempt has taken over the run."""

    spec: Mapping[str, Any]
    folder: str
    check: Callable[[], None]


_loaded: dict[str, Data] = {}  # the data of the last config, which the runs of a stack share


def train_runs(runs: Sequence[Run], on_stop: OnStop | None = None, on_saved: Callable[[float], None] | None = None,
               ) -> Iterator[tuple[int, Outcome]]:
    """Train runs whose configs may be stacked. Yield the index and outcome of each run as soon as it has ended.

    Outcomes, on_stop and on_saved as for train_members. Runs that are not yielded are to be trained singly, or again.
    """
    parts, ended, is_stopped = [list(range(len(runs)))], set[int](), False
    while parts:
        part = parts.pop(0)
        if is_stopped:
            yield from ((index, run_folder.REQUEUED) for index in part)
            continue
        if len(part) == 1:  # a single run is faster
            continue
        members: list[Member] = []
        try:
            for index, outcome in _train_part(part, runs, members, on_stop, on_saved):
                ended.add(index)
                is_stopped |= outcome == run_folder.REQUEUED
                yield index, outcome
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            continue
        rest = [index for index in part if index not in ended]
        print(f"a stack of {len(part)} runs does not fit the memory: it is halved", flush=True)
        members.clear()
        _free_memory()
        parts[:0] = [half for half in (rest[:len(part) // 2], rest[len(part) // 2:]) if half]


def _train_part(part: Sequence[int], runs: Sequence[Run], members: list[Member], on_stop: OnStop | None,
                on_saved: Callable[[float], None] | None) -> Iterator[tuple[int, Outcome]]:
    """Build some of the runs into `members`, and train them together."""
    for index in part:
        run = runs[index]
        try:
            components = build_run(Config.from_dict(run.spec), run.folder)
            pause_after = RunFolder.read(run.folder).pause_epoch()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            yield index, error
            continue
        members.append(Member(index, components, run.folder, run.check, pause_after))
    if members:
        yield from train_members(members, on_stop, on_saved)


def build_run(config: Config, folder: str | None) -> TrainingComponents:
    """Build a run with the data of the last run, if its config differs from that one's in numbers and outputs alone."""
    differing = STACKABLE_FIELDS | OUTPUT_FIELDS
    key = repr({name: value for name, value in config.to_dict().items() if name not in differing})
    components = build(config, folder, data=_loaded.get(key))
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = components.data
    return components


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory could not be allocated, on a GPU or for the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
