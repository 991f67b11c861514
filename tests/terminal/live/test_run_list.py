"""The list of runs on the live screen: order, filters and the view, also with 10,000 runs; keys; the cost so far."""
from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from src import run_folder
from src.submission.batch import journal
from src.submission.batch.journal import SLURM, Journal, Units
from src.submission.slurm.client import Queue
from src.submission.status.observation import Observation, Run
from src.submission.status.observe import SlurmView, observe
from src.submission.status.states import State
from src.terminal.live import cost, keys, list_page
from src.terminal.live.keys import KeyReader
from src.terminal.live.list_page import ListPage
from src.terminal.live.reader import Batch, Reader
from src.terminal.live.run_list import RunList
from tests.analysis.make_batch import make_empty_batch
from tests.terminal import live_batch


def published(observations: list[Observation]) -> Reader:
    """A reader that has read some batches, and goes on when `read` is called."""
    reader = Reader(lambda slurm: observations, 5.0, None, lambda: None)
    reader._publish(reader._read_files(SlurmView()), SlurmView(), is_over=False)
    return reader


def read(reader: Reader) -> None:
    """Read all results that are wanted."""
    reader._read_details(reader._wanted)
    reader._wanted = []


@pytest.fixture
def many(tmp_path: Path) -> Reader:
    """A reader of a batch of 10,000 runs, none of which has a folder."""
    states = ("done", "pending", "pending", "running", "done", "failed")
    runs = {name: Run(name, str(tmp_path / name), None, 1, None, State(states[index % len(states)], "a reason"))
            for index, name in enumerate(f"{index:05d}_big+bas_lr={index % 7}+seed={index}" for index in range(10_000))}
    return published([Observation(str(tmp_path), journal.History(), runs, True)])


def only_batch(reader: Reader) -> Batch:
    assert reader.snapshot is not None
    batch, = reader.snapshot.batches
    return batch


def test_page_of_10000_runs_scrolls_and_finds(many: Reader) -> None:
    page = ListPage(many, lambda *_: None)
    for columns, lines in ((80, 24), (100, 30), (130, 40)):
        rows = [row.plain for row in page.lines(columns, lines)]
        assert len(rows) == lines and all(len(row) <= columns for row in rows)
        assert "3,333/10,000 runs" in "\n".join(rows) and "1,666 failed" in "\n".join(rows)
        assert rows[-3].strip().startswith("10,000 of 10,000 runs")
    assert len(many._wanted) < 40, "only the results in view are read"
    page.press(keys.END)
    assert any("> 09996" in row.plain for row in page.lines(80, 24)), "runs that have ended come last"
    for key in "/seed=4242":
        page.press(key)
    page.press(keys.ENTER)
    rows = [row.plain for row in page.lines(80, 24)]
    assert sum(" 04242 " in row for row in rows) == 1 and "  1 of 10,000 runs" in rows[-3]
    page.press(keys.ESCAPE)
    for _ in range(7):
        page.press("s")
    page.lines(80, 24)
    assert len(many._wanted) == 10_000, "the results of all runs are read to sort by the best"


def test_message_hides_no_keys_and_goes_away(many: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: 100.0, time=time.time)
    monkeypatch.setattr(list_page, "time", clock)
    assert many.snapshot is not None
    many.snapshot = many.snapshot._replace(is_over=True)
    page = ListPage(many, lambda *_: None)

    def bottom() -> list[str]:
        rows = [row.plain for row in page.lines(80, 24)]
        assert len(rows) == 24
        return rows[-2:]

    bottom()
    page.press(keys.END)
    page.press("x")
    assert bottom()[0] == "this run is done: there is nothing to cancel"
    assert "every run has ended or is stuck" in bottom()[1] and bottom()[1].startswith("q quit")
    clock.monotonic = lambda: 121.0
    assert "cancel" not in bottom()[0] and bottom()[1].startswith("q quit")
    page.show_message("cancelling …", math.inf)
    clock.monotonic = lambda: 1e6
    assert bottom()[0] == "cancelling …", "until the result is there"
    page.press("j")
    assert bottom()[0] != "cancelling …"


def test_x_cancels_nothing_if_no_run_is_shown(many: Reader) -> None:
    page = ListPage(many, lambda *_: None)
    for key in ("/", *"no such run", keys.ENTER, "x"):
        page.lines(80, 24)
        page.press(key)
    assert not any("Cancel" in row.plain for row in page.lines(80, 24))
    page.press("X")
    words = " ".join(row.plain for row in page.lines(80, 24)).split()  # the path may take several lines
    assert "Cancel all of" in " ".join(words)


def test_selected_run_stays_selected_and_in_view(many: Reader) -> None:
    batch, runs = only_batch(many), RunList()
    runs.update(batch, {})
    assert [run.state.name for run in runs.runs[:1666]] == ["failed"] * 1666
    runs.move(1000)
    selected = runs.current()
    assert selected and selected in runs.window(20) and runs.top == 981
    runs.move(-5)
    assert runs.window(20) and runs.top == 981
    runs.order, runs.is_reversed = "run", True
    runs.update(batch, {})
    current = runs.current()
    assert current and current in runs.window(20) and runs.runs[0].name.startswith("09999")
    runs.text = "no such run"
    runs.update(batch, {})
    assert runs.current() is None and runs.window(20) == []


def test_idle_gpu_of_a_running_run_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "000_a"
    folder.mkdir()
    (folder / run_folder.GPU_IDLE).write_text(json.dumps(
        {"busy": 4.2, "minutes": 20, "cause": "data loading takes 83 % of the time", "ticket": 1, "number": 0}))
    running = Run("000_a", str(folder), run_folder.RunFolder.read(folder), 1, {"ticket": 1, "number": 0},
                  State("running", ""))
    reader = published([Observation(str(tmp_path), journal.History(), {"000_a": running}, True)])
    page = ListPage(reader, lambda *_: None)
    page.lines(130, 24)
    read(reader)
    assert "GPU 4 % busy in the last 20 min: data loading" in "\n".join(row.plain for row in page.lines(130, 24))


def test_sorts_by_parameter_and_best(tmp_path: Path) -> None:
    reader = published(observe([str(live_batch.make(tmp_path, 12))]))
    batch, runs = only_batch(reader), RunList()
    reader.want(batch, batch.observation.runs.values())
    read(reader)

    def sorted_by(order: str, is_reversed: bool = False) -> list[str]:
        runs.order, runs.is_reversed = order, is_reversed
        runs.update(batch, reader.details, reader.changes)
        return [run.name[:3] for run in runs.runs]

    assert sorted_by("bas_lr")[:4] == ["000", "001", "002", "003"]
    assert sorted_by("bas_lr", is_reversed=True)[0] == "011"
    best = sorted_by("best")
    values = [reader.details[str(tmp_path / "26-11-20-digits-quickstart" / run.name)].row.best for run in runs.runs]
    assert values[:-2] == sorted(filter(None, values), reverse=True) and values[-2:] == [None, None]
    assert sorted_by("best", is_reversed=True)[-2:] == best[-2:], "runs without a value stay last"
    assert sorted_by("epochs")[-1] in ("006", "009", "000", "001", "005", "007", "010", "011")
    assert set(batch.names.varying) < set(runs.orders(batch))


@pytest.mark.parametrize(("data", "expected"), [
    (b"j\x1b[A\x1bOB\x1b[5~\x1b[6~", ["j", keys.UP, keys.DOWN, keys.PAGE_UP, keys.PAGE_DOWN]),
    (b"\x1b[H\x1b[4~\x1b[Z\t\r\x7f", [keys.HOME, keys.END, keys.BACKTAB, keys.TAB, keys.ENTER, keys.BACKSPACE]),
    ("ä日".encode(), ["ä", "日"]), (b"\x1b\x1b[B", [keys.ESCAPE, keys.DOWN]),
    (b"\x1b[200~\x1b[1;5Ax\x00\x07", [keys.UP, "x"])])
def test_keys_arrive_whole_or_in_parts(data: bytes, expected: list[str]) -> None:
    assert KeyReader().feed(data) == expected
    reader = KeyReader()
    assert [key for byte in data for key in reader.feed(bytes([byte]))] == expected


def test_escape_alone_is_a_key_if_nothing_follows() -> None:
    reader = KeyReader()
    assert reader.feed(b"\x1b") == [] and reader.is_incomplete
    assert reader.feed(b"") == [keys.ESCAPE] and not reader.is_incomplete


def test_refresh_queries_slurm_at_once_and_otherwise_the_intervals_hold() -> None:
    asked: list[bool] = []

    def look(slurm: SlurmView) -> list[Observation]:
        asked.append(slurm.is_due)
        slurm.was_queried, slurm.queue = slurm.is_due, Queue(True)
        run = Run("000_a", "b/000_a", None, 1, None, State("running"))
        return [Observation("b", journal.History(), {"000_a": run}, True)]

    reader = Reader(look, 0.01, None, lambda: None)
    reader.start()
    deadline = time.monotonic() + 300
    while len(asked) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    reader.refresh()
    while not any(asked[3:]) and time.monotonic() < deadline:
        time.sleep(0.01)
    reader.stop()
    reader.join(60)
    assert asked[:3] == [True, False, False] and sum(asked) == 2
    assert reader.snapshot and reader.snapshot.slurm_time and not reader.error


@pytest.mark.parametrize(("spans", "seconds"), [
    ([], 0.0), ([(0, 5), (2, 9)], 9.0), ([(10, 20), (0, 5)], 15.0), ([(0, 9), (2, 3), (8, 8.5)], 9.0)])
def test_spans_that_overlap_count_once(spans: list[tuple[float, float]], seconds: float) -> None:
    assert cost.total_seconds(spans) == seconds


def test_cost_is_time_times_requested_resources(tmp_path: Path) -> None:
    """Two slots of a worker share a job; a run that was requeued has two starts; one run asks for more GPUs."""
    batch = Path(make_empty_batch(tmp_path, "26-11-20-a"))
    (batch / "job.yaml").write_text("job_details: {name: a}\nparameters: {SBATCH: [{gpus: 2}]}\n")
    script = tmp_path / "submit.sh"
    script.write_text("#!/bin/bash\n#SBATCH --cpus-per-task=4 --gpus=1\n")
    names = [f"00{index}_a" for index in range(4)]
    book = Journal(str(batch), journal.new_token())
    book.record_plan(SLURM, dict.fromkeys(names, 1), Units(), script=str(script), sbatch={"cpus_per_task": 8})
    starts = [(0, "7", 0, 3600), (1, "7", 1800, 3600), (2, "8", 0, 1800), (2, "8", 7200, 9000), (3, "9", 0, 3600)]
    for number, (index, job, start, end) in enumerate(starts):
        folder = batch / names[index]
        folder.mkdir(exist_ok=True)
        (folder / run_folder.SPEC).write_text("batch_size: 8\n" + ("SBATCH: {gpus: 2}\n" if index == 3 else ""))
        (folder / run_folder.DONE).write_text("completed\n")
        (folder / run_folder.attempt_name(1, number)).write_text(json.dumps(
            {"ticket": 1, "number": number, "slurm_job": job, "start": 1000 + start, "end": 1000 + end,
             "how": "completed"}))
    observation, = observe([str(batch)])
    reader = cost.CostReader()
    for _ in range(2):  # the second time from what was kept
        assert reader.read(observation, 1e6) == "4.0 GPU-hours, 24 CPU-hours so far"
    script.unlink()
    assert cost.CostReader().read(observation, 1e6) == "", "what a job requested is unknown"
