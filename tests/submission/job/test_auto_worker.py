"""Workers with --slots auto: runs that are too many yield and resume exactly, and a lack of memory fails none."""
from __future__ import annotations

import json
import re

import pytest

import experiments
from src.errors import JobSpecError
from src.io import machine
from src.submission.batch import reproduce
from src.submission.batch.usage_history import kind_of
from src.submission.job.worker_child import is_out_of_memory
from src.submission.planning import command_line
from src.submission.slots import record
from src.submission.slots.lane import Lane
from src.submission.slots.policy import Guess
from tests.submission.conftest import Project

# A train.py whose runs take 150 steps, and go on after the last one of an earlier start. batch_size selects what
# happens beside others: 1: nothing; 2: each other run makes a step take four times as long; 3: with three, an error;
# 4: with three, the process is killed
ENTRY = """\
import os, signal, sys, time

sys.path.insert(0, os.environ["GRIDIRON_TEST_ROOT"])

from src.monitoring import worker_cell
from src.submission.job import attempt, auto_worker
from src.submission.slots import speeds
from src.submission.system.signals import signals

speeds.WARM_UP, speeds.SHORTEST, speeds.LONGEST = 0.05, 0.3, 0.8
auto_worker._INTERVAL = auto_worker._SETTLED_INTERVAL = 0.03


def train(spec, folder, check):
    path = os.path.join(folder, "steps")
    begin = len(open(path).readlines()) if os.path.exists(path) else 0
    others = lambda: worker_cell._own[0].others if worker_cell._own else 0
    due = time.monotonic()  # steps that are late because the machine is busy are caught up
    with open(path, "a") as steps:
        for step in range(begin, 150):
            due += 0.01 * (4 ** others() if spec["batch_size"] == 2 else 1)
            time.sleep(max(0, due - time.monotonic()))
            if others() >= 2 and spec["batch_size"] == 3:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if others() >= 2 and spec["batch_size"] == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            steps.write(f"{step}\\n")
            steps.flush()
            worker_cell.add_samples(10)
            if signals.time_is_short():
                return "requeued"
    check()
    with open(os.path.join(folder, "executed"), "a") as file:
        file.write("once\\n")
    return "completed"


if __name__ == "__main__":
    sys.exit(attempt.main(sys.argv[1:], train=train, warm_up=lambda specs: None))
"""
JOB_SPEC = """\
job_details: {{name: packed, output_dir: results}}
parameters: {{batch_size: {batch_size}, max_requeues: 0, base_lr: [{rates}]}}
"""


@pytest.fixture
def packed(project: Project) -> Project:
    (project.folder / "train.py").write_text(ENTRY)
    project.results = project.folder / "results"
    return project


def submit(project: Project, batch_size: int, runs: int) -> str:
    """Run a batch to its end. Returns what its worker printed about slots."""
    rates = ", ".join(str(0.001 * number) for number in range(1, runs + 1))
    project.spec.write_text(JOB_SPEC.format(batch_size=batch_size, rates=rates))
    assert project.submit(project.spec, "--local", "--workers", "1", "--slots", "auto", "-y") == 0
    assert project.executed() == [1] * runs
    for run in project.runs():
        assert (run / "steps").read_text().split() == [str(step) for step in range(150)]
    log, = (project.batch / "submissions").glob("*.workers.log")
    return log.read_text()


def records_of(project: Project) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for run in project.runs() for path in sorted(run.glob("attempt-*.json"))]


def state_of(project: Project) -> dict[str, object]:
    path, = (project.batch / "submissions").glob("*.slots.json")
    lane: dict[str, object] = json.loads(path.read_text())["lanes"][0]
    return lane


def test_more_runs_are_added_while_the_rate_rises(packed: Project, capsys: pytest.CaptureFixture[str]) -> None:
    log = submit(packed, 1, 16)
    assert log.startswith("slots: 1 at a time at first\nslots: 2 at a time: more may be faster; trying 2\nslots: ")
    numbers = [int(number) for number in re.findall(r"(\d+) at a time:", log)]
    assert max(numbers) >= 4
    capsys.readouterr()
    experiments.main(["status", str(packed.batch), "--efficiency"])
    out = capsys.readouterr().out
    assert f"slots, worker 0: {state_of(packed)['slots']} at a time" in out and "samples a second" in out
    experiments.main(["status", str(packed.batch), "--efficiency", "--json"])
    assert "slots, worker 0" in capsys.readouterr().out


def test_number_of_real_cpu_runs_follows_from_the_logged_rates(packed: Project) -> None:
    """Runs that use 0.6 of a core each, 0.4 of it one after another: the rates decide, however busy the machine is."""
    compute = """\
def compute(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(2000))


def train("""
    (packed.folder / "train.py").write_text(ENTRY.replace("def train(", compute).replace(
        "            time.sleep(max(0, due - time.monotonic()))\n", """\
            with open(__file__) as shared:
                fcntl.flock(shared, fcntl.LOCK_EX)
                compute(0.004)
            compute(0.002)
            time.sleep(0.004)
""").replace("import os,", "import fcntl, os,"))
    log, possible = submit(packed, 1, 12), {1}  # the best number so far; two, if rounded figures do not decide
    comparisons = re.findall(r": (\d+) at a time: (\d+) % (faster|slower) than (\d+)", log)
    for number, percent, direction, best in comparisons:
        number, best, change = int(number), int(best), int(percent) if direction == "faster" else -int(percent)
        assert best in possible
        least = 5 if number > best else -1
        possible = {number} if change > least else {number, best} if change == least else {best}
    assert comparisons and state_of(packed)["best"] in possible
    for settled in [line for line in log.splitlines() if "settled" in line]:
        assert re.search(r"(no more fit \(CPUs of a run: [\d.]+ of [\d.]+\)|than \d+)$", settled)


def test_youngest_run_yields_and_resumes_exactly(packed: Project) -> None:
    log = submit(packed, 2, 6)
    assert re.search(r"slots: 1 at a time: settled: 2 at a time: \d+ % slower than 1\n", log)
    assert "resumes later\n" in log
    yields = [record for record in records_of(packed) if record.get("yielded")]
    assert yields and {record["how"] for record in yields} == {"requeued"}  # though max_requeues is 0
    assert state_of(packed)["best"] == 1


def test_worker_begins_with_what_an_earlier_batch_found(packed: Project) -> None:
    earlier = packed.results / "26-01-01-earlier"
    (earlier / "submissions").mkdir(parents=True)
    (earlier / "submissions" / "t.jsonl").touch()
    (earlier / "job.yaml").touch()
    kinds = {kind_of({"batch_size": 1, "max_requeues": 0})}
    lane = Lane(None, Guess(3, 4))
    lane.policy.is_settled = True
    record.SlotsRecord(str(earlier), "t", "0", kinds, machine.cpu_limit(), None).write([lane.state()])
    packed.spec.write_text(JOB_SPEC.format(batch_size=1, rates="0.1, 0.2, 0.3, 0.4, 0.5, 0.6"))
    assert packed.submit(packed.spec, "--local", "--workers", "1", "--slots", "auto", "-y") == 0
    log, = packed.results.glob("*-packed/submissions/*.workers.log")
    assert log.read_text().startswith("slots: 3 at a time at first: 26-01-01-earlier\n")


@pytest.mark.parametrize(("batch_size", "error"), [(3, "CUDA out of memory"), (4, "killed by signal 9")])
def test_lack_of_memory_is_no_failure_and_lowers_the_number(packed: Project, batch_size: int, error: str) -> None:
    log = submit(packed, batch_size, 7)
    assert re.search(rf"slots: \d at a time: out of memory with \d at a time: 00\d_.*{error}", log)
    assert {record["how"] for record in records_of(packed)} == {"completed", "requeued"}
    assert 1 <= int(str(state_of(packed)["slots"])) <= 2


# A train.py whose policy lets a second run begin, and has it make way for the first one as soon as both make progress
REAL_ENTRY = """\
import os, sys

sys.path.insert(0, os.environ["GRIDIRON_TEST_ROOT"])

import train
from src.submission.job import attempt, auto_worker
from src.submission.slots.policy import Decision, Policy

auto_worker._INTERVAL = 0.02


def observe(self, reading):
    if self.slots == 1 and not self.rates:
        self.slots = 2
    elif len(reading.runs) == 2 and not self.rates and all(run.amount for run in reading.runs.values()):
        self.slots, self.rates = 1, {1: None}
        return Decision(1, "test", yields=True)


Policy.observe, Policy.limit = observe, lambda self, room: self.slots
auto_worker.Lane.state = lambda self, offset: {}

if __name__ == "__main__":
    sys.exit(attempt.main(sys.argv[1:], train=train.train, warm_up=train.warm_up))
"""


def test_training_that_makes_way_has_the_same_numbers(packed: Project) -> None:
    (packed.folder / "train.py").write_text(REAL_ENTRY)
    packed.spec.write_text("""\
job_details: {name: packed, output_dir: results}
parameters: {dataset: sklearn/digits, data_splits_map: {train: "train[:400]", test: "train[400:500]"},
  model: tiny/lenet, device: cpu, train_length: 8, batch_size: 16, seed_model: 1, seed_training: 2,
  log_interval: [30, 31]}
""")
    assert packed.submit(packed.spec, "--local", "--workers", "1", "--slots", "auto", "-y") == 0
    first, second = packed.runs()
    assert json.loads((second / "attempt-1-0.json").read_text())["yielded"] and (second / "attempt-1-1.json").exists()
    assert not (first / "attempt-1-1.json").exists()
    # but for the options that differ, the runs are the same
    assert reproduce.compare_results(str(first), str(second)) == (True, "identical: 8 epochs, 9 columns")


def test_each_gpu_has_its_own_number(packed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,MIG-a")
    (packed.folder / "train.py").write_text(ENTRY.replace("\ndef train(", """
from tests.submission.slots.test_meter import NvmlStandIn

sys.modules["pynvml"] = stand_in = NvmlStandIn()
stand_in.nvmlDeviceGetHandleByIndex = lambda index: "0"


def train(""").replace("    check()\n", """    check()
    with open(os.path.join(folder, "gpu"), "w") as file:
        file.write(os.environ["CUDA_VISIBLE_DEVICES"])
"""))
    log = submit(packed, 1, 12)
    assert {(run / "gpu").read_text() for run in packed.runs()} == {"3", "MIG-a"}
    assert "slots: GPU 3: 2 at a time: " in log and "slots: GPU MIG-a: 2 at a time: " in log
    path, = (packed.batch / "submissions").glob("*.slots.json")
    content = json.loads(path.read_text())
    assert [lane["gpu"] for lane in content["lanes"]] == ["3", "MIG-a"] and content["gpu"] == "NVIDIA H100"


def test_plan_shows_what_auto_does(packed: Project, capsys: pytest.CaptureFixture[str]) -> None:
    packed.write_spec()
    assert packed.submit(packed.spec, "--local", "--slots", "auto", "-d") == 0
    out = capsys.readouterr().out
    assert "workers    1 on this machine\nslots      auto: each worker starts one run" in out


@pytest.mark.parametrize(("arguments", "message"), [
    (["-s", "s.sh", "--slots", "auto"], "--slots requires --workers or --local"),
    (["-s", "s.sh", "--array", "--slots", "auto"], "use --workers N instead of --array"),
    (["--local", "--slots", "auto", "--stack", "auto"], "or --slots K with the stack")])
def test_contradictions_are_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(JobSpecError, match=re.escape(message)):
        command_line.parse(["x.yaml", *arguments])


@pytest.mark.parametrize("value", ["0", "many", "-1", "1.5"])
def test_values_are_checked(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.parse(["x.yaml", "--local", f"--slots={value}"])
    assert f"'{value}' is neither a number of runs, from 1, nor auto" in capsys.readouterr().err


def test_job_spec_with_stack_or_search_is_refused(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    text = project.spec.read_text()
    project.spec.write_text(text.replace("{name: tiny,", "{name: tiny, stack: auto,"))
    assert project.submit(project.spec, "--local", "--slots", "auto", "-y") == 2
    search = "{name: tiny, search: {method: random, trials: 4}, metric: {name: train/loss, goal: minimize},"
    project.spec.write_text(text.replace("{name: tiny,", search).replace("[0.1, 1]", "!uniform [0.1, 1]"))
    assert project.submit(project.spec, "--local", "--slots", "auto", "-y") == 2
    err = capsys.readouterr().err
    assert "both find out how many runs share a device" in err
    assert "a search chooses its trials for a fixed number" in err
    assert not project.results.exists()


@pytest.mark.parametrize(("error", "expected"), [
    (MemoryError(), True), (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
    (OSError(12, "Cannot allocate memory"), True), (ValueError("wrong shape"), False),
    (RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. "), True),
    (RuntimeError("cuda:0 is out of memory with 64 samples per step"), True),
    (RuntimeError("python was killed by signal 9 (out of memory, or by hand)"), True)])
def test_lack_of_memory_is_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
