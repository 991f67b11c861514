"""The status of batches: runs per state, epochs, time left and the best value."""
from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from src import run_folder
from src.io import yaml_io
from src.submission.batch.journal import History
from src.submission.status import notify, states, status, throughput
from src.submission.status.observation import Observation, Run
from src.submission.status.observe import observe
from src.submission.status.states import State

HEADER = "epoch,step,timestamp,train/loss,val/last/accuracy,val/av/accuracy,val/last/loss,test/last/accuracy\n"


def run(tmp_path: Path, name: str, state: str, stats: str = "", epochs: int | None = None, start: float = 0.0) -> Run:
    folder = tmp_path / name
    folder.mkdir()
    if stats:
        (folder / "stats.csv").write_text(stats)
    (folder / "config.yaml").write_text(yaml_io.dump_flat({"batch_size": 8, "facts": {"epochs": epochs}}))
    return Run(name, str(folder), run_folder.RunFolder.read(folder), 1, {"start": start}, State(state, "a reason"))


def observation(*runs: Run) -> Observation:
    return Observation("results/b", History(), {item.name: item for item in runs}, True)


def test_row_of_a_running_run(tmp_path: Path) -> None:
    stats = HEADER + "1,10,105,2.0,0.5,0.6,1.0,0.9\n2,20,109,1.0,0.7,0.65,0.9,0.95\n3,30,1"
    row, = status.rows([run(tmp_path, "000_a", "running", stats, epochs=10, start=100.0)], now=120.0)
    assert (row.epochs_done, row.epochs, row.metric, row.best) == (2, 10, "val/av/accuracy", 0.65)
    assert row.left == pytest.approx(20 / 2 * 8)
    resumed, = status.rows([run(tmp_path, "001_a", "running", stats, epochs=10, start=106.0)], now=120.0)
    assert resumed.left == pytest.approx(14 / 1 * 8)
    begins, = status.rows([run(tmp_path, "002_a", "running", stats, epochs=10, start=110.0)], now=120.0)
    assert begins.left is None


def test_averaged_weights_judge_a_run_that_has_them(tmp_path: Path) -> None:
    row, = status.rows(observation(run(tmp_path, "000_a", "done", HEADER + "1,10,5,2.0,0.5,nan,1.0,0.9\n"
                                                                             "2,20,5,2.0,0.5,0.6,1.0,0.9\n")).runs.values())
    assert (row.metric, row.best) == ("val/av/accuracy", 0.6)


def test_message_has_the_best_run_whichever_weights_judge_it(tmp_path: Path) -> None:
    rows = ("1,10,5,2.0,0.9,0.6,1.0,0.9\n", "1,10,5,2.0,0.7,,1.0,0.9\n", "1,10,5,2.0,0.5,0.65,1.0,0.9\n")
    batch = observation(*(run(tmp_path, f"{index:03d}_a", "done", HEADER + row) for index, row in enumerate(rows)))
    assert "best: 0.7 val/last/accuracy of 001_a" in notify.message(batch, notify.ENDED)[1]


def test_run_with_empty_stats(tmp_path: Path) -> None:
    batch = observation(run(tmp_path, "000_a", "new"), run(tmp_path, "001_a", "running", "epo"))
    assert [(row.epochs_done, row.best) for row in status.rows(batch.runs.values())] == [(0, None), (0, None)]
    assert "000_a" in status.render([batch])


def test_counts_and_json(tmp_path: Path) -> None:
    batch = observation(*(run(tmp_path, f"{index:03d}_a", state)
                          for index, state in enumerate(("done", "failed", "done"))))
    assert status.counts(batch) == {"done": 2, "failed": 1}
    values = json.loads(json.dumps(status.as_json(batch)))
    assert values["batch"] == "results/b"
    assert values["runs"][1]["state"] == "failed"


def test_limited_table_shows_failures_and_the_best(tmp_path: Path) -> None:
    runs = [run(tmp_path, f"{index:03d}_a", "done", HEADER + f"1,1,1,1,0.{index:03d},,0,0\n") for index in range(60)]
    runs.append(run(tmp_path, "060_a", "failed"))
    lines = status.run_table(observation(*runs), limit=10)
    text = "\n".join(lines)
    assert "060_a" in text
    assert "059_a" in text
    assert "000_a" not in text
    assert lines[-1] == "… and 51 more; --all shows every run"
    assert len(status.run_table(observation(*runs), limit=None)) == 62


def test_limited_table_says_that_a_test_split_chose_its_runs(tmp_path: Path) -> None:
    header = HEADER.replace(",test/last/accuracy", "").replace("val/", "test/")
    runs = [run(tmp_path, f"{index:03d}_a", "done", header + f"1,1,1,1,0.{index:03d},0,0\n") for index in range(20)]
    note = "the runs above are chosen by a test split: the best values are optimistic estimates"
    assert note in status.run_table(observation(*runs), limit=10)
    assert note not in status.run_table(observation(*runs), limit=None), "nothing is chosen"


def test_summary_has_a_column_for_each_state_that_occurs(tmp_path: Path) -> None:
    item = observation(run(tmp_path, "000_a", "done"), run(tmp_path, "001_a", "timeout"))
    assert status.summary_table([item]) == ["batch      runs  done  timeout", "results/b  2     1     1"]


def test_run_with_a_deleted_folder_is_listed(tmp_path: Path) -> None:
    from src.submission.batch import batch_folder
    from src.submission.batch.journal import LOCAL, Journal

    path = tmp_path / "26-01-02-a"
    batch_folder.create(str(path), "job_details: {name: a}\n", ["000_a"], ["batch_size: 8\n"])
    book = Journal(str(path), "1-a")
    book.record_plan(LOCAL, {"000_a": 1, "001_a": 1})
    book.record_end()
    batch, = observe([str(path)])
    assert [item.state.name for item in batch.runs.values()] == [states.NEW, states.DELETED]
    assert batch.runs["001_a"].files is None


def test_runs_per_hour_of_the_last_hour() -> None:
    now = 10_000.0
    assert throughput.runs_per_hour([now - 9000, now - 1800, now - 1200, now - 600], now) == pytest.approx(4)
    assert throughput.runs_per_hour([now - 60], now) is None
    assert throughput.runs_per_hour([], now) is None


def test_progress_line(tmp_path: Path) -> None:
    runs = [run(tmp_path, f"{index:03d}_a", state) for index, state in enumerate(
        ("done", "done", "done", "running", "failed"))]
    for index, item in enumerate(runs[:3]):
        (Path(item.path) / "done").write_text("completed")
        os.utime(f"{item.path}/done", (index * 600, index * 600))
    assert throughput.progress_line([observation(*runs)], now=1800.0, width=10) == (
        "[######    ] 3/5 runs  1 failed  4 runs an hour, 15:00 left")


def test_expected_start_of_pending_runs_is_shown(tmp_path: Path) -> None:
    item = run(tmp_path, "000_a", "pending")
    item = item._replace(state=State("pending", "Priority", "7"))
    text = "\n".join(status.run_table(observation(item), starts={"7": 0.0}))
    assert "Priority, starts " in text


def test_idle_gpus_are_shown(tmp_path: Path) -> None:
    stats = "epoch,step,train/time,train/data_time,system/gpu\n1,10,9.0,8.0,20\n2,20,9.0,8.0,26\n"
    runs = [run(tmp_path, f"{index:03d}_a", "done", stats) for index in range(2)]
    for item in runs:
        (Path(item.path) / "config.yaml").write_text(yaml_io.dump_flat({"num_workers": 2, "facts": {"threads": 8}}))
    batch = observation(*runs, run(tmp_path, "003_a", "done", HEADER))
    assert "\nGPU 23 % busy: try num_workers 8 (2 runs)" in status.render([batch])
    assert [row["idle"] for row in status.as_json(batch)["runs"]] == ["GPU 23 % busy: try num_workers 8"] * 2 + [None]


@pytest.mark.parametrize(("values", "curve"), [
    ([], ""), ([1.0], "▄"), ([1.0, 1.0], "▄▄"), ([0.0, 1.0, 2.0, 7.0], "▁▂▃█"), ([3.0, math.nan, 1.0], "█ ▁"),
    ([math.inf, 2.0], " ▄"), ([math.nan], " "), (list(map(float, range(24))), "▁▂▂▃▄▄▅▅▆▇▇█")])
def test_sparklines(values: list[float], curve: str) -> None:
    assert status.sparkline(values) == curve


def test_metric_of_the_job_spec_decides_the_best(tmp_path: Path) -> None:
    stats = "epoch,step,val/last/accuracy,val/last/energy,note\n1,9,0.5,{},good\n2,18,0.9,{},bad\n"
    runs = [run(tmp_path, f"00{index}_a", "done", stats.format(*values)) for index, values in enumerate(
        [(3.0, 4.0), (1.0, 2.0), (5.0, 6.0)])]
    batch = Observation(str(tmp_path), History(), {item.name: item for item in runs}, True)

    def table(metric: str) -> list[str]:
        (tmp_path / "job.yaml").write_text(f"job_details: {{name: a, metric: {metric}}}\n")
        return status.run_table(batch, limit=1)

    assert "001_a  done   2             1 val/last/energy" in table("{name: energy, goal: minimize}")[1]
    assert [row["best"] for row in status.as_json(batch)["runs"]] == [3.0, 1.0, 5.0]
    assert "002_a  done   2             6 val/last/energy" in table("{name: energy, goal: maximize}")[1]
    lines = table("energy")  # as a batch before goals were required
    assert "0.9 val/last/accuracy" in lines[1]
    assert "no goal for energy, the metric of the job spec: ranked by val/last/accuracy" in lines
    assert "0.9 val/last/accuracy" in table("null")[1]
    lines = table("val_acc")
    assert "0.9 val/last/accuracy" in lines[1]
    assert "no run has val_acc, the metric of the job spec: ranked by val/last/accuracy" in lines
    lines = table("note")  # text is not a value
    assert "0.9 val/last/accuracy" in lines[1]
    assert any("column note holds words, e.g. 'good': it is not a metric" in line for line in lines)


@pytest.mark.parametrize(("state", "is_reported"), [("done", True), ("running", False), ("failed", False)])
def test_metric_that_no_run_has_is_reported_once_a_run_has_ended(state: str, is_reported: bool, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("job_details: {name: a, metric: val_loss}\n")
    batch = Observation(str(tmp_path), History(), {"000_a": run(tmp_path, "000_a", state)}, True)
    lines = [line for line in status.run_table(batch) if line.startswith("no run has val_loss")]
    assert len(lines) == is_reported


def test_tags_are_shown_and_filter_runs(tmp_path: Path) -> None:
    runs = [run(tmp_path, f"00{index}_a", "done") for index in range(3)]
    for item, tags in zip(runs, ('["adam", "small"]', '["small"]'), strict=False):
        (Path(item.path) / "spec.yaml").write_text(f"batch_size: 8\nTAGS: {tags}\n")
    batch = observation(*runs)
    assert [line.split() for line in status.run_table(batch)] == [
        ["run", "state", "epochs", "left", "best", "tags"], ["000_a", "done", "adam,small", "a", "reason"],
        ["001_a", "done", "small", "a", "reason"], ["002_a", "done", "a", "reason"]]
    assert [row["tags"] for row in json.loads(json.dumps(status.as_json(batch)))["runs"]] == [
        ["adam", "small"], ["small"], []]
    assert list(status.filter_runs(batch, states.ALL, ["small"]).runs) == ["000_a", "001_a"]
    assert list(status.filter_runs(batch, states.ALL, ["small", "adam"]).runs) == ["000_a"]


def test_throughput_of_jobs_that_log_nothing(tmp_path: Path) -> None:
    """Ten runs an hour in the hours before, one a minute now: the present speed decides."""
    runs, now = [], 1_000_000.0
    for index, minutes in enumerate([240, 180, 120, 3, 2, 1]):
        runs.append(run(tmp_path, f"{index:03d}_a", "done"))
        (Path(runs[-1].path) / "done").write_text("completed\n")
        os.utime(Path(runs[-1].path) / "done", (now - 60 * minutes, now - 60 * minutes))
    runs += [run(tmp_path, f"{index:03d}_a", state) for index, state in enumerate(
        ("running", "pending", "failed", "new"), start=6)]
    speed = throughput.throughput(observation(*runs), now)
    assert speed.now == pytest.approx(2 / 180 * 3600)
    assert speed.over_the_batch == pytest.approx(5 / 240 * 60)
    assert speed.left == pytest.approx(3 / speed.now * 3600)
    assert speed.lines() == ["throughput  40 runs an hour now, 1.25 over the batch, 4:30 left"]
    assert "throughput  40 runs an hour now" in status.render([observation(*runs)], now=now)
    assert "throughput  " not in status.render([observation(*runs)])
    later = throughput.throughput(observation(*runs), now + 7200)  # nothing has ended in the last hour
    assert later.now is None and later.left == pytest.approx(3 / later.over_the_batch * 3600)
    assert later.over_the_batch == pytest.approx(5 / (240 + 120) * 60)


@pytest.mark.parametrize(("elapsed", "left"), [(4, "0:06 left"), (10, "0:08 left"), (50, None)])
def test_no_time_left_by_runs_unlike_those_that_run(tmp_path: Path, elapsed: float, left: str | None) -> None:
    """Three runs of ten seconds ended together; the last one runs, perhaps to its time limit."""
    runs, now = [], 1_000_000.0
    for index in range(3):
        runs.append(ended := run(tmp_path, f"{index:03d}_a", "done"))
        path, end = Path(ended.path), now - elapsed - 6 + 3 * index
        (path / "done").write_text("completed\n")
        os.utime(path / "done", (end, end))
        (path / "attempt-1-0.json").write_text(json.dumps({"start": end - 10}))
        runs[-1] = ended._replace(files=run_folder.RunFolder.read(path))
    runs.append(run(tmp_path, "003_a", "running")._replace(attempt={"start": now - elapsed}))
    line, = throughput.throughput(observation(*runs), now).lines()
    assert line.startswith("throughput  ") and (line.endswith(f", {left}") if left else "left" not in line)
    progress = throughput.progress_line([observation(*runs)], now)
    assert progress.endswith(f", {left}") if left else progress.endswith("runs an hour")


def test_throughput_without_running_or_ended_runs(tmp_path: Path) -> None:
    ended = [run(tmp_path, f"{index:03d}_a", "done") for index in range(2)]
    for index, item in enumerate(ended):
        (Path(item.path) / "done").write_text("completed\n")
        os.utime(Path(item.path) / "done", (1000.0 * index, 1000.0 * index))
    stopped = throughput.throughput(observation(*ended, run(tmp_path, "002_a", "new")), 1e6)
    assert (stopped.now, stopped.over_the_batch, stopped.left, stopped.lines()) == (None, 3.6, None, [])
    begun = throughput.throughput(observation(run(tmp_path, "003_a", "running")), 1e6)
    assert (begun.over_the_batch, begun.lines()) == (None, [])
