"""What a batch has from other machines: marks that a sync leaves, so that nobody here takes those runs for its own"""
from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from src import run_folder
from src.io import files


class SyncMarker(NamedTuple):
    """host: where it came from; time: when, unix seconds, 0 before it was all here; journals: of the submissions there;
    states: what that machine said of each run then, as pairs of state and why."""

    host: str
    time: float
    journals: frozenset[str]
    states: Mapping[str, tuple[str, str]]

    def when(self) -> str:
        """`26-11-20 12:34`, or that it is not all here."""
        if not self.time:
            return "a time before all of it came"
        return time.strftime("%y-%m-%d %H:%M", time.localtime(self.time))


def read_all(submissions: str, names: Iterable[str]) -> list[SyncMarker]:
    """The marks among the files of a batch's folder of submissions, the newest first."""
    found = []
    for name in filter(run_folder.is_sync_marker, names):
        value = files.read_json(os.path.join(submissions, name))
        if isinstance(value, dict) and "host" in value:
            states = {run: (str(pair[0]), str(pair[1])) for run, pair in value.get("states", {}).items()}
            found.append(SyncMarker(str(value["host"]), value.get("time", 0.0), frozenset(value.get("journals", ())),
                                    states))
    return sorted(found, key=lambda copy: -copy.time)


def read_host(batch: str, host: str) -> SyncMarker:
    """The mark of a host, an empty one if there is none."""
    folder = os.path.join(batch, run_folder.SUBMISSIONS)
    return next(iter(read_all(folder, [run_folder.sync_marker_name(host)])), SyncMarker(host, 0.0, frozenset(), {}))


def write(batch: str, copy: SyncMarker) -> None:
    """Leave a mark."""
    folder = os.path.join(batch, run_folder.SUBMISSIONS)
    os.makedirs(folder, exist_ok=True)
    files.write_json(os.path.join(folder, run_folder.sync_marker_name(copy.host)),
                     {**copy._asdict(), "journals": sorted(copy.journals)})
