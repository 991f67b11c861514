"""Read what is appended to the logs of a run until the run has ended."""
from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from src.archive import run_files
from src.errors import one_line
from src.submission.status import failures, retry_policy, states
from src.submission.status.observation import Run
from src.submission.status.observe import SlurmView, observe
from src.submission.status.wait import Poller
from src.submission.system.terminal import format_duration

_INTERVAL = 1.0  # seconds between reads


def observe_run(folder: str, slurm: SlurmView | None = None) -> Run:
    """Observe the run in a run folder. slurm: earlier answers of Slurm, as for observe."""
    observation, = observe([os.path.dirname(folder) or "."], slurm)
    return observation.runs[os.path.basename(os.path.abspath(folder))]


class Start(NamedTuple):
    """A start of a run. Fields as in the document of `logs`: number, in order from 1; how: LOST without a record."""

    number: int
    began: float
    ended: float | None
    how: str
    error: str
    host: str
    pid: int | None
    slurm_job: str | None

    def line(self) -> str:
        """Return `start 1: Mon 12:00 on node1 (Slurm job 7, pid 123), failed after 0:20: its error`."""
        when = time.strftime("%a %H:%M", time.localtime(self.began))
        where = ", ".join([*([f"Slurm job {self.slurm_job}"] if self.slurm_job else []),
                           *([f"pid {self.pid}"] if self.pid else [])])
        after = f" after {format_duration(self.ended - self.began)}" if self.ended else ""
        how = "left no record of its end (killed, or its node failed)" if self.how == states.LOST else (
            states.shown(self.how))
        return (f"start {self.number}: {when} on {self.host}{f' ({where})' if where else ''}, {how}{after}"
                f"{f': {one_line(self.error)}' if self.error else ''}")


def starts(run: Run) -> list[Start]:
    """Return the starts of a run, the first one first."""
    run_starts = []
    for number, (ticket, attempt_number) in enumerate(run.files.attempts if run.files else (), 1):
        record = run.files.attempt(ticket, attempt_number) if run.files else {}
        is_last = run.files is not None and number == len(run.files.attempts)
        how = record.get("how") or (run.state.name if is_last and run.state.name in retry_policy.ALIVE else states.LOST)
        run_starts.append(Start(number, record.get("start") or 0.0, record.get("end"), how, record.get("error") or "",
                                record.get("node") or record.get("host") or "an unknown host",
                                record.get("who", {}).get("pid"), record.get("slurm_job")))
    return run_starts


def read_from(path: str, start: int) -> tuple[str, int]:
    """Return the text of a file from byte `start` on, and the position of its end."""
    with run_files.open_binary(*os.path.split(path)) as file:
        file.seek(start)
        return file.read().decode(errors="replace"), file.tell()


def follow(folder: str, positions: Mapping[str, int], interval: float | None = None,
           show: Callable[[Run], object] = lambda _: None) -> Iterator[tuple[str, str] | str]:
    """Yield pairs of a path and the text that was appended to it, until the run has ended; then its state.

    positions: number of bytes that were read already, by path;
    interval: seconds between queries of Slurm, as for Poller;
    show: called with the run whenever it was observed.
    """
    ends, poller = dict(positions), Poller(interval)
    while True:
        run = poller.poll(lambda slurm: observe_run(folder, slurm))
        show(run)
        for path in failures.log_paths(run):
            text, ends[path] = read_from(path, ends.get(path, 0))
            if text:
                yield path, text
        if run.host:  # a copy: the run cannot be followed from here
            yield f"{run.state.name}, {run.state.why}" if run.state.why else run.state.name
            return
        if run.state.name not in (*retry_policy.ALIVE, states.NEW, states.UNKNOWN) and poller.is_current([run]):
            yield run.state.name
            return
        time.sleep(_INTERVAL)
