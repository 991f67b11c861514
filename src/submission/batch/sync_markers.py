"""Sync markers: which runs of a batch were downloaded from another machine, so that none of them is run here."""
from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from src import run_folder
from src.io import files, records

_FORMS: records.Forms = {
    "host": records.is_text, "time": records.is_time, "journals": records.list_of(records.is_text),
    "states": records.mapping_of(records.is_name, lambda value: records.list_of(records.is_text)(value) and len(value)
                                 == 2)}


class SyncMarker(NamedTuple):
    """The last download of a batch from another machine.

    host: name of that machine
    time: when it was completed, unix seconds; 0 before it was complete for the first time
    journals: tokens of the submissions there
    states: by run name, the state of the run there and the reason
    """

    host: str
    time: float
    journals: frozenset[str]
    states: Mapping[str, tuple[str, str]]

    def when(self) -> str:
        """Format the time, as `26-11-20 12:34`."""
        if not self.time:
            return "an incomplete download"
        return time.strftime("%y-%m-%d %H:%M", time.localtime(self.time))


def read_all(submissions: str, names: Iterable[str]) -> list[SyncMarker]:
    """Read the markers among the files `names` of a batch's folder of submissions, the newest first."""
    markers = []
    for name in filter(run_folder.is_sync_marker, names):
        value = records.fields(files.read_json(os.path.join(submissions, name)), _FORMS)
        if "host" in value:
            states = {run: (state, reason) for run, (state, reason) in value.get("states", {}).items()}
            markers.append(SyncMarker(value["host"], value.get("time", 0.0), frozenset(value.get("journals", ())),
                                      states))
    return sorted(markers, key=lambda marker: -marker.time)


def read_host(batch: str, host: str) -> SyncMarker:
    """Read the marker of a host; an empty one if there is none."""
    folder = os.path.join(batch, run_folder.SUBMISSIONS)
    markers = read_all(folder, [run_folder.sync_marker_name(host)])
    return markers[0] if markers else SyncMarker(host, 0.0, frozenset(), {})


def write(batch: str, marker: SyncMarker) -> None:
    """Write a marker into a batch."""
    folder = os.path.join(batch, run_folder.SUBMISSIONS)
    files.make_folder(folder)
    files.write_json(os.path.join(folder, run_folder.sync_marker_name(marker.host)),
                     {**marker._asdict(), "journals": sorted(marker.journals)})
