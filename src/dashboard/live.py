"""Follow batches while a browser is there: find changed files, read those runs again, and publish what has changed.

The data of a run follows its files within a second. Tables over all runs take longer, and are rebuilt from time to
time; so is the whole document if runs or columns were added.
"""
from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from src import run_folder
from src.analysis.page import curves, details, document, plain, run_columns, sections
from src.analysis.page.document import Layout, View
from src.analysis.reading.results import Results, read_results
from src.dashboard.published import Published, curves_of
from src.dashboard.scan import Scan
from src.errors import one_line

Rows = list[dict[str, Any]]
Resources = Mapping[str, Sequence[Sequence[str]]]

# each task is repeated after at least PAUSE seconds, and so rarely that it takes at most the fraction SHARE of a core
_SCAN_PAUSE, _SCAN_SHARE, _LONGEST_SCAN_PAUSE = 0.5, 0.01, 10.0
_UPDATE_SHARE = 0.2
_FIND_PAUSE, _FIND_SHARE = 5.0, 0.002  # for batches that were submitted meanwhile
_OBSERVE_PAUSE, _OBSERVE_SHARE = 1.0, 0.05  # after files were created or removed in run folders
_QUIET_OBSERVE_PAUSE, _QUIET_OBSERVE_SHARE = 30.0, 0.005  # otherwise: processes may have died, and Slurm may answer
_BUILD_PAUSE, _BUILD_SHARE = 1.0, 0.2  # after a run came, started or ended
_QUIET_BUILD_PAUSE, _QUIET_BUILD_SHARE = 10.0, 0.05  # after new epochs
_RESOURCES_PAUSE = 1800.0  # between queries of accounting
_WATCHED_SECONDS = 60.0  # since the last request of a browser
_MAX_UPDATE = 1000  # changed runs; if there are more, everything is read again
_WAITING = ("new", "submitted", "pending", "stuck")


class _Task:
    """When something was done last, and how many CPU seconds it took."""

    def __init__(self) -> None:
        self.ended, self.cost = -1e9, 0.0

    def is_due(self, pause: float, share: float = 1.0) -> bool:
        return time.monotonic() - self.ended >= max(pause, self.cost / share)

    def __enter__(self) -> None:
        self._began = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.ended, self.cost = time.monotonic(), time.thread_time() - self._began


class _Background(_Task):
    """A task that takes long: it is done in another thread, once at a time. on_end: called with the error, if any."""

    def __init__(self, on_end: Callable[[Exception | None], None]) -> None:
        super().__init__()
        self._on_end, self._result, self.is_running = on_end, None, False

    def start(self, work: Callable[[], Any]) -> None:
        """Begin; `take` returns the result of `work` when it is there."""
        self.is_running, self._result = True, None
        threading.Thread(target=self._work, args=[work], daemon=True).start()

    def _work(self, work: Callable[[], Any]) -> None:
        error = None
        try:
            with self:
                self._result = work()
        except Exception as problem:  # files change while they are read: later they may be readable
            error = problem
        self.is_running = False
        self._on_end(error)

    def take(self) -> Any:
        """Return the result of work that has ended, once; None if there is none."""
        if self.is_running:
            return None
        result, self._result = self._result, None
        return result


class Live:
    """Keeps a document of batches up to date, in threads: one scans files, and starts others for what takes long.

    observe: returns rows of the status table of batches, from the files and, at most as often as `watch` does, from
        Slurm;
    resources: returns what the batches' Slurm jobs used, as in `document.build`;
    find: returns further batches to show from now on;
    on_change: called by the thread after each change.
    """

    def __init__(self, batches: Sequence[str], observe: Callable[[list[str]], Rows],
                 resources: Callable[[], Resources], find: Callable[[], list[str]] = list,
                 on_change: Callable[[], object] = lambda: None) -> None:
        self.published, self.batches, self.paths = Published(), list(batches), list[str]()
        self._read_status, self._read_resources, self.on_change = observe, resources, on_change
        self._find, self._finding = find, _Task()
        self._wake, self._has_stopped, self._last_request = threading.Event(), False, time.monotonic()
        self._scan, self._layout = Scan(), Layout([], [], [], {}, [])
        self._status: dict[str, dict[str, Any]] = {}  # rows by path
        self._resources: Resources = {}
        self._ended: set[str] = set()
        self._has_events = self._has_epochs = True  # reasons to build the document
        self._has_moves = True  # reason to observe: files were created or removed
        self._scanning, self._updating, self._accounting = _Task(), _Task(), _Task()
        self._observing, self._building = _Background(self._end), _Background(self._end)
        self._curve_names: list[str] = []
        self.is_asleep = False  # until a browser is there
        self._reported = ""
        # runs that have changed since the document began to be made, and since they were observed
        self._updated, self._written = set[str](), set[str]()
        self._thread = threading.Thread(target=self._run, name="live page", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what it is doing."""
        self._has_stopped = True
        self._wake.set()
        self._thread.join(2)  # it may wait for a file system

    def touch(self) -> None:
        """Note that a browser is there."""
        self._last_request = time.monotonic()
        if self.is_asleep:
            self._wake.set()

    def details(self, key: str) -> dict[str, Any] | None:
        """Return the details of a run by its key; None for another key."""
        run = self.published.find(key)
        return run and details.run(*run)

    def notes(self, batch: int) -> list[dict[str, Any]]:
        """Return the notes of a batch as they are now."""
        return sections.batch_notes(self.batches[batch])

    def curves(self, metric: str) -> dict[str, Any] | None:
        """Return `curves` of the document with one metric, read now; None if no run has it, or the runs differ."""
        folders = self.published.folders
        results = read_results(folders)
        name = next((name for name in results.long.columns[2:] if plain.text(name) == metric), None)
        if name is None or results.config["folder"].tolist() != folders or results.long[name].dtype == object:
            return None
        return curves.encode(results.long, len(folders), [], only=name)[0]

    def _run(self) -> None:
        while not self._has_stopped:
            try:
                self.tick()
            except Exception as error:  # files change while they are read: later they may be readable
                self._end(error)
            pause = max(_SCAN_PAUSE, self._scanning.cost / _SCAN_SHARE, self._updating.cost / _UPDATE_SHARE)
            self._wake.wait(min(pause, _LONGEST_SCAN_PAUSE))
            self._wake.clear()
            self.is_asleep = time.monotonic() - self._last_request > _WATCHED_SECONDS
            if self.is_asleep:
                self._wake.wait()

    def _end(self, error: Exception | None) -> None:
        """Continue after a task. An error is printed once; what could not be read is read again."""
        message = f"{type(error).__name__}: {one_line(str(error))}" if error else ""
        self._has_events |= bool(message)
        if message and message != self._reported:
            print(f"warning: {message}", file=sys.stderr, flush=True)
            self._reported = message
        self._wake.set()

    def tick(self) -> None:
        """Scan the files once, and publish what has changed."""
        self._add_batches()
        with self._scanning:
            changed = self._scan.changed_runs(path for path in self.paths if path not in self._ended)
            has_runs = bool(self._scan.changed_batches(self.batches))
        self._has_events |= has_runs
        self._has_moves |= has_runs or any(changed.values())
        self._written |= changed.keys()
        paths = {*changed, *self._observe()}
        self._updating.cost = 0.0
        if built := self._building.take():
            self._publish(*built)
            paths |= self._updated
        self._updated |= paths
        with self._updating:
            self._update(paths)
        is_due = self._has_events and self._building.is_due(_BUILD_PAUSE, _BUILD_SHARE) or (
            self._has_epochs and self._building.is_due(_QUIET_BUILD_PAUSE, _QUIET_BUILD_SHARE))
        if is_due and not self._building.is_running and self._observing.ended > 0:
            self._start_build()

    def _add_batches(self) -> None:
        """Add batches that were submitted meanwhile."""
        if self._finding.is_due(_FIND_PAUSE, _FIND_SHARE):
            with self._finding:
                added = [batch for batch in self._find() if batch not in self.batches]
            self.batches = [*self.batches, *added]  # the server reads it in other threads

    def _observe(self) -> set[str]:
        """Observe the batches if that is due. Return the runs whose state has changed since the last time."""
        if not self._observing.is_running and (
                self._has_moves and self._observing.is_due(_OBSERVE_PAUSE, _OBSERVE_SHARE)
                or self._observing.is_due(_QUIET_OBSERVE_PAUSE, _QUIET_OBSERVE_SHARE)):
            self._has_moves, self._written = False, set()
            self._observing.start(self._read)
            return set()
        if (observed := self._observing.take()) is None:
            return set()
        before, self._status = self._status, {
            os.path.abspath(os.path.join(row["batch"], row["run"])): row for row in observed}
        return {path for path, row in self._status.items() if before.get(path) != row}

    def _read(self) -> Rows:
        """Return the status, and read the resources if that is due."""
        rows = self._read_status([batch for batch in self.batches if os.path.isdir(batch)])
        if self._accounting.is_due(_RESOURCES_PAUSE):
            with self._accounting:
                self._resources = self._read_resources()
        return rows

    def _update(self, paths: set[str]) -> None:
        """Read some runs again and publish their columns and new points."""
        indices = [index for index, path in enumerate(self.paths) if path in paths]
        if not indices:
            return
        results = read_results([self.paths[index] for index in indices[:_MAX_UPDATE]], cache=False)
        columns = document.update(results, self._rows(results), self._layout)
        if columns is None or columns["count"] != len(indices):  # the whole document must be rebuilt
            self._has_events = True
            return
        fresh = curves_of(results, self._curve_names, range(len(indices)))
        if self.published.update(indices, columns, {index: fresh[number] for number, index in enumerate(indices)}):
            self._has_epochs = True
            self.on_change()
        ended = {self.paths[index] for index, end in zip(indices, results.config["end"], strict=True)
                 if end not in (None, run_folder.PAUSED)} - self._ended
        self._ended |= ended
        self._has_events |= bool(ended)

    def _rows(self, results: Results) -> Rows:
        """Return the status rows of runs, updated by what their files show since they were observed."""
        rows = []
        for folder, end in zip(results.config["folder"], results.config["end"], strict=True):
            path = os.path.abspath(folder)
            row = {"batch": os.path.dirname(path), "run": os.path.basename(path), "state": "new", "why": "",
                   **self._status.get(path, {})}
            if end not in (None, run_folder.PAUSED):
                row |= {"state": run_columns.state_of_end(end), "why": ""}
            elif row["state"] in _WAITING and path in self._written:
                row["state"] = "running"
            rows.append(row)
        return rows

    def _start_build(self) -> None:
        """Rebuild the whole document. Until it is ready, runs are still updated."""
        self._has_events = self._has_epochs = False
        self._updated = set()
        batches = [batch for batch in self.batches if os.path.isdir(batch)]
        # stamps are taken before the files are read: what changes meanwhile is found later
        folders = [f"{os.path.abspath(batch)}/{name}" for batch in batches for name in run_folder.run_names(batch)]
        self._scan.changed_runs(set(folders).difference(self.paths))
        self._building.start(lambda: self._build(batches))

    def _build(self, batches: list[str]) -> tuple[View, document.Document]:
        results = read_results(batches)
        read, status = set(map(os.path.abspath, results.config["folder"])), self._status
        rows = self._rows(results) + [row for path, row in status.items() if path not in read]
        view = View(results, rows, self._resources, batches)
        return view, view.document(live=True)

    def _publish(self, view: View, whole: document.Document) -> None:
        config = view.results.config
        has_ended = config["end"].notna() & (config["end"] != run_folder.PAUSED)
        was_open = [bool(self.published.version) and path not in self._ended for path in view.paths]
        followed = np.flatnonzero(~has_ended | np.array(was_open, bool)).tolist()
        self._curve_names = whole["curves"]["metrics"]
        self.published.replace(whole, curves_of(view.results, self._curve_names, followed), config["folder"].tolist())
        self.paths, self._layout = view.paths, view.layout
        self._ended = {path for path, ended in zip(view.paths, has_ended, strict=True) if ended}
        self.on_change()
