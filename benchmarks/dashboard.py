"""The live page: how far it is behind the files, what it costs when nothing happens, and 10,000 runs in it."""
from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gather import EPOCHS, MEASURES, make_runs
from src import run_folder
from tests.analysis.chromium import Tab, chromium

RUNS, RUNNING, MANY = 2_000, 100, 10_000
CHANGES = 10
SETTLE = 45.0  # seconds after the last change until nothing is left to do
IDLE = 60.0  # seconds in which the CPU time is measured
METRIC = "val/last/accuracy"
PROGRAM = Path(__file__).parent.parent / "experiments.py"
WAIT = "new Promise(done => {{ const wait = () => {0} ? done() : setTimeout(wait, 5); wait(); }})"


def measure(program: str, watch: str) -> list[tuple[str, float, float | None]]:
    """Return (label, value, limit). program: Chromium; watch: a script that sets window.firstView."""
    with tempfile.TemporaryDirectory() as root:
        batch = make_runs(root, RUNS)
        running = [Path(batch, name) for name in run_folder.run_names(batch)[:RUNNING]]
        for folder in running:
            (folder / run_folder.DONE).unlink()
        with chromium(program, Path(root, "profile")) as tab, _dashboard(batch, root) as (process, address):
            _open(tab, address, watch)
            behind = [_seconds_behind(tab, number, running[number]) for number in range(CHANGES)]
            time.sleep(SETTLE)
            share = _core_share(process.pid)
    return [(f"live page of {RUNS:,} runs, {RUNNING} of them running: a new epoch is shown after, in s",
             statistics.median(behind), 1.0),
            ("the longest of these times, in s", max(behind), None),
            ("share of a core while nothing happens and a browser is there, in %", 100 * share, 2.0),
            *_many(program, watch)]


def _many(program: str, watch: str) -> list[tuple[str, float, float | None]]:
    with tempfile.TemporaryDirectory() as root:
        batch, rows = make_runs(root, MANY), []
        for what, limit in (("read for the first time", None), ("read before", 10.0)):
            with chromium(program, Path(root, what)) as tab, _dashboard(batch, root) as (_, address):
                seconds = _open(tab, address, watch)
                rows.append((f"live page of {MANY:,} runs, {what}: first view after, in s", seconds, limit))
                assert "curves show only" in tab.js("document.getElementById('subtitle').textContent")
                assert tab.js("gridiron.store.count") == MANY
    return rows


@contextlib.contextmanager
def _dashboard(batch: str, root: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of the command, and the address of its page."""
    command = [sys.executable, str(PROGRAM), "dashboard", batch, "--json"]
    environment = {**os.environ, "XDG_STATE_HOME": root}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        try:
            yield process, Path(json.loads(process.stdout.readline())["address_file"]).read_text().strip()
        finally:
            process.send_signal(signal.SIGINT)


def _open(tab: Tab, address: str, watch: str) -> float:
    """Open the page. Return seconds until it shows the table and the charts in view."""
    tab.resize(1280, 900)
    tab.call("Page.addScriptToEvaluateOnNewDocument", source=watch)
    start = time.perf_counter()
    tab.visit(address)
    tab.js(WAIT.format("window.firstView"))
    return time.perf_counter() - start


def _seconds_behind(tab: Tab, index: int, folder: Path) -> float:
    """Add an epoch to a run. Return seconds until the page has it."""
    time.sleep(1.0 + 0.17 * index)  # at different times of the server's pauses
    row = [EPOCHS + 1, 13 * (EPOCHS + 1), time.time(), *[0.5] * len(MEASURES)]
    start = time.perf_counter()
    with open(folder / run_folder.STATS, "a", encoding="utf-8") as file:
        file.write(",".join(map(str, row)) + "\n")
    tab.js(WAIT.format(f"gridiron.store.curve('{METRIC}', {index}).epoch.at(-1) === {EPOCHS + 1}"))
    return time.perf_counter() - start


def _core_share(process: int) -> float:
    """Return the CPU time that a process uses per second."""
    def used() -> float:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, start = used(), time.perf_counter()
    time.sleep(IDLE)
    return (used() - before) / (time.perf_counter() - start)
