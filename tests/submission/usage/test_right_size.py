"""What a submission requests, compared with what earlier runs used, and reduced to that by --right-size."""
from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from src.submission.batch import journal
from src.submission.slurm import sizes
from src.submission.slurm.sizes import Size
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.conftest import Project, project
from tests.submission.usage.test_costs import earlier_run

__all__ = ["fake_slurm", "project"]  # the fixtures

SCRIPT = """\
#!/bin/bash
#SBATCH --cpus-per-task=8 --gres=gpu:1
#SBATCH --mem=32G
#SBATCH --time=2-00:00:00
#SBATCH --signal=B:USR1@180
exec python train.py "$@"
"""
GRID = """\
job_details: {name: big, output_dir: re sults}
parameters:
  model: linear
  train_length: 20
  batch_size: [8, 32]
  base_lr: [0.1, 1]
"""


def add_run(results: Path, name: str, seconds: float, gigabytes: float | None, used: dict[str, Any] | None = None,
            **spec: Any) -> None:
    """Add a completed run, of 20 epochs unless it is of a program."""
    folder = results / "26-01-01-old" / name
    if "COMMAND" in spec:
        earlier_run(folder, seconds - 10, **spec)
    else:
        earlier_run(folder, (seconds - 10) / 20, model="linear", train_length=20, **spec)
    path = folder / "attempt-1-0.json"
    memory = {} if gigabytes is None else {"memory": gigabytes * 2**30}
    path.write_text(json.dumps({**json.loads(path.read_text()), "used": {**memory, **(used or {})}}))


@pytest.fixture
def grid(project: Project, fake_slurm: FakeSlurm) -> Project:
    """A project with earlier runs at batch size 8: of 41 and 12 minutes."""
    (project.folder / "s.sh").write_text(SCRIPT)
    project.spec.write_text(GRID)
    used = {"cpu": 1.3, "cpus": 8, "gpus": 1, "gpu": 12.4}
    add_run(project.results, "000_old", 41 * 60, 3.1, used, batch_size=8)
    add_run(project.results, "001_old", 12 * 60, 2.9, used, batch_size=8)
    return project


def plan_lines(project: Project, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[str], list[str]]:
    """Return the lines about sizes, and the commands, of a dry run."""
    assert project.submit(project.spec, "-s", "s.sh", "-d", *arguments) == 0
    plan, _, rest = capsys.readouterr().out.partition("\nsbatch ")
    found = re.search(r"^sizes( .*\n(?: {11}.*\n)*)", plan, re.M)
    return [line[10:].strip() for line in found[0].splitlines()] if found else [], f"sbatch {rest}".splitlines()[:-1]


def test_plan_compares_what_is_asked_for_with_earlier_runs(grid: Project, capsys: pytest.CaptureFixture[str]) -> None:
    lines, commands = plan_lines(grid, capsys)
    assert lines == ["earlier runs took at most 41 min, 3.1 GB, 1.3 CPUs and 12 % of the GPU; you ask for 2 days, "
                     "32 GB, 8 CPUs and 1 GPU (2 similar runs)",
                     "--right-size requests for 2 runs: time 01:05:00, mem 4000M"]
    assert not any("--mem" in command or "--time" in command for command in commands)
    assert not (grid.results / "26-01-01-old" / ".usage.json").exists()  # a dry run writes nothing


def test_right_size_requests_that_with_a_margin_where_batch_sizes_agree(grid: Project,
                                                                        capsys: pytest.CaptureFixture[str]) -> None:
    lines, commands = plan_lines(grid, capsys, "--right-size")
    assert lines[1:] == ["2 runs: time 01:05:00, mem 4000M", "a run that needs more time than that saves its state and "
                         "resumes", "2 runs as the script: no run of the same model, data and batch size is known"]
    assert ["--time=65" in command and "--mem=4000M" in command for command in commands] == [True, True, False, False]


@pytest.mark.parametrize(("options", "expected"), [
    (["--sbatch", "mem=64G"], ["--mem=64G", "--time=65"]),  # the command line stays
    (["--sbatch", "mem=3G", "--sbatch", "time=30"], ["--mem=3G", "--time=30"]),
    (["--array"], ["--mem=4000M", "--time=65"]),
    # two rounds of 41 minutes, and two runs at a time
    (["--workers", "1", "--slots", "2", "--set", "batch_size=8", "--set", "base_lr=[1, 2, 3]"],
     ["--mem=8000M", "--time=125"])])
def test_no_more_than_before_is_requested_in_any_mode(options: list[str], expected: list[str], grid: Project,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    commands = plan_lines(grid, capsys, "--right-size", *options)[1]
    assert sorted(re.findall(r"--(?:mem|time)=\S+", commands[0])) == expected


@pytest.mark.parametrize("mode", [[], ["--array"]])
def test_each_model_and_batch_size_gets_its_own_size(mode: list[str], grid: Project,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    """An array has one size, so that it is split where sizes differ."""
    grid.spec.write_text(GRID.replace("linear", "[linear, tiny/lenet]"))
    for name, seconds, gigabytes, model, batch_size in (("002_old", 600, 4.0, "tiny/lenet", 8),
                                                        ("003_old", 1200, 8.0, "tiny/lenet", 32)):
        folder = grid.results / "26-01-01-old" / name
        earlier_run(folder, (seconds - 10) / 20, model=model, train_length=20, batch_size=batch_size)
        path = folder / "attempt-1-0.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "used": {"memory": gigabytes * 2**30}}))
    commands = plan_lines(grid, capsys, "--right-size", *mode)[1]
    requests = {" ".join(re.findall(r"--(?:mem|time)=(\S+)", command)) for command in commands}
    # 41 min × 1.5 and 3.1 GiB × 1.25; 10 min and 4 GiB; 20 min and 8 GiB; and the script where nothing is known
    assert requests == {"65 4000M", "15 5200M", "30 10300M", ""}
    assert len(commands) == (4 if mode else 8)


@pytest.mark.parametrize(("options", "reason"), [
    (["--stack", "auto"], "the memory of a stack is that of all its runs"),
    (["--workers", "1", "--slots", "auto"], "--slots auto finds out how many runs share a worker"),
    (["--workers", "1"], "no run of the same model, data and batch size is known")])
def test_reason_is_given_where_the_script_decides(options: list[str], reason: str, grid: Project,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    lines, commands = plan_lines(grid, capsys, "--right-size", *options)
    assert reason in lines[-1]
    assert not re.search(r"--(mem|time)=", "".join(commands))


def test_memory_that_a_running_job_gives_back_is_left_to_slurm(grid: Project,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    """--right-size reduces the request beside it, and passes on an option of Slurm 26.05."""
    commands = plan_lines(grid, capsys, "--right-size", "--sbatch", "mem-update=50@60")[1]
    assert "--mem=4000M" in commands[0] and all("--mem-update=50@60" in command for command in commands)


def test_request_of_a_small_script_stays(grid: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (grid.folder / "s.sh").write_text(SCRIPT.replace("32G", "2G").replace("2-00:00:00", "30"))
    lines, commands = plan_lines(grid, capsys, "--right-size")
    assert "no request is reduced" in lines[1]
    assert not re.search(r"--(mem|time)=", "".join(commands))
    (grid.folder / "s.sh").write_text("#!/bin/bash\nexec python train.py \"$@\"\n")  # the cluster decides
    assert not re.search(r"--(mem|time)=", "".join(plan_lines(grid, capsys, "--right-size")[1]))


def test_sacct_fills_in_the_memory_of_runs_that_did_not_measure_it(grid: Project, fake_slurm: FakeSlurm,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    """As those of several processes."""
    add_run(grid.results, "002_old", 600, None, batch_size=32)  # in Slurm job 7
    fake_slurm.inject_fault("sacct", stdout="7|COMPLETED|600|20:00|8||32G|60|cpu=8,node=2||\n"
                                            "7.0|COMPLETED|600|20:00|8|2097152K|||cpu=8,node=2|mem=12G|\n")
    assert grid.submit(grid.spec, "-s", "s.sh", "-y", "--right-size") == 0
    assert "2 runs: time 00:15:00, mem 7700M\n" in capsys.readouterr().out  # 6 GB on each of two nodes
    sacct, *_ = fake_slurm.calls("sacct")
    assert "--jobs=7" in sacct.argv


def test_retry_of_runs_out_of_memory_suggests_the_request_of_the_script(grid: Project, fake_slurm: FakeSlurm,
                                                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert grid.submit(grid.spec, "-s", "s.sh", "-y", "--right-size") == 0
    batch = next(path for path in grid.results.iterdir() if path.name.endswith("-big"))
    for job in fake_slurm.jobs():
        fake_slurm.set_state(job, "OUT_OF_MEMORY")
    capsys.readouterr()
    assert grid.submit("-r", batch, "-d") == 0
    assert "--state out_of_memory --no-right-size`" in capsys.readouterr().out
    assert grid.submit("-r", batch, "-d", "--state", "out_of_memory", "--no-right-size") == 0
    assert "4 runs: 4 to submit" in capsys.readouterr().out


def end_canary(folder: Path, epoch: float, gigabytes: float) -> None:
    """Let a canary that was submitted end, with an epoch of so many seconds."""
    now = 1e9
    (folder / "stats.csv").write_text(f"epoch,step,timestamp,train/time,val/last/time\n1,9,{now},{epoch - 1},1\n")
    (folder / "attempt-1-0.json").write_text(json.dumps({
        "start": now, "end": now + epoch + 20, "how": "completed", "slurm_job": "5",
        "used": {"memory": gigabytes * 2**30}}))
    (folder / "done").write_text("completed\n")


def test_canary_fills_in_where_there_is_no_earlier_run(grid: Project, fake_slurm: FakeSlurm,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    def calls() -> list[list[str]]:
        return [call.argv for call in fake_slurm.calls("sbatch") if "--test-only" not in call.argv]

    command = [grid.spec, "-s", "s.sh", "-y", "--right-size", "--canary"]
    assert grid.submit(*command, "-d") == 0
    assert grid.submit(*command) == 3
    out = capsys.readouterr().out
    assert "linear on libsvm/a9a at batch size 8, linear on libsvm/a9a at batch size 32" in out
    assert "2 runs will request what the canary uses: the same command submits them when it has ended" in out
    # two canaries, and the two runs of batch size 8, which wait for theirs
    assert [[word for word in call if word.startswith(("--mem", "--time", "--dep"))] for call in calls()] == [
        [], [], *[["--time=65", "--mem=4000M", "--dependency=afterok:3"]] * 2]
    batch = next(path for path in grid.results.iterdir() if path.name.endswith("-big"))
    assert grid.submit(*command) == 3  # the canary has not ended
    assert "nothing to submit: 0 of 4 done, 2 pending, 2 waiting for a canary" in capsys.readouterr().out
    canary, = (batch / "canary").glob("*batch_size_32*")
    end_canary(canary, 60, 10)
    assert grid.submit(*command) == 0
    assert "2 runs: time 00:35:00, mem 12800M" in capsys.readouterr().out  # 20 epochs, and 20 s for the rest
    assert len(calls()) == 6 and calls()[-1].count("--mem=12800M") == 1


def test_wait_submits_the_runs_when_their_canary_has_ended(grid: Project, fake_slurm: FakeSlurm,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    (grid.folder / "s.sh").write_text(SCRIPT.replace("exec python", f"exec {sys.executable}"))
    with fake_slurm.running():
        assert grid.submit(grid.spec, "-s", "s.sh", "-y", "--right-size", "--canary", "--wait", "--set",
                           "batch_size=32", "--workers", "1") == 0
    out = capsys.readouterr().out
    assert "2 runs: mem 500M\n" in out and "submitted 2 runs" in out  # it measured no epoch


def test_sizes_are_recorded_and_a_retry_chooses_them_anew(grid: Project, fake_slurm: FakeSlurm,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    def requests() -> list[list[str]]:
        calls = [call.argv for call in fake_slurm.calls("sbatch") if "--test-only" not in call.argv]
        return [sorted(word for word in call if word.startswith(("--mem", "--time"))) for call in calls]

    assert grid.submit(grid.spec, "-s", "s.sh", "-y", "--right-size") == 0
    batch = next(path for path in grid.results.iterdir() if path.name.endswith("-big"))
    assert requests() == [["--mem=4000M", "--time=65"]] * 2 + [[]] * 2
    assert (grid.results / "26-01-01-old" / ".usage.json").exists()
    plan = journal.read_history(str(batch)).recorded_plans[-1]
    assert list(sizes.from_record(plan["sizes"]).values()) == [Size(41 * 60, 3.1 * 2**30)]
    for job in fake_slurm.jobs():
        fake_slurm.set_state(job, "NODE_FAIL")
    for number in range(2):
        add_run(grid.results, f"00{number + 2}_old", 12 * 60, 5.9, batch_size=32)
    (grid.results / "26-01-01-old" / ".usage.json").unlink()
    capsys.readouterr()
    assert grid.submit("-r", batch, "-y", "--state", "node_failed") == 0
    assert requests()[4:] == [["--mem=4000M", "--time=65"]] * 2 + [["--mem=7600M", "--time=20"]] * 2
    for job in fake_slurm.jobs():
        fake_slurm.set_state(job, "NODE_FAIL")
    assert grid.submit("-r", batch, "-y", "--no-right-size") == 0
    assert requests()[8:] == [[]] * 4


def test_preempted_runs_count_with_the_sum_of_their_attempts(grid: Project,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    """Where every long run is preempted there would be no history otherwise."""
    add_run(grid.results, "002_old", 1000, 2.0, {"cpu": 2.0}, batch_size=32)
    folder = grid.results / "26-01-01-old" / "002_old"
    last = json.loads((folder / "attempt-1-0.json").read_text())
    earlier = {**last, "start": 10, "end": 90, "how": "preempted"}
    (folder / "attempt-1-0.json").write_text(json.dumps({**earlier, "used": {"memory": 5 * 2**30, "cpu": 1.0}}))
    (folder / "attempt-1-1.json").write_text(json.dumps(last))
    lines, _ = plan_lines(grid, capsys, "--right-size", "--set", "batch_size=32")
    assert lines[:2] == [
        "earlier runs took at most 18 min, 5 GB and 1.9 CPUs; you ask for 2 days, 32 GB, 8 CPUs and 1 GPU (1 similar "
        "run)", "2 runs: time 00:30:00, mem 6400M"]  # 1,080 s × 1.5, and 5 GiB × 1.25


def test_programs_get_the_longest_time_as_they_may_not_resume(grid: Project,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    grid.spec.write_text("job_details: {name: mine, output_dir: re sults, command: python mine.py}\n"
                         "parameters: {depth: 3, seed: [0, 1]}\n")
    for number in range(40):
        add_run(grid.results, f"{number + 2:03}_mine", 60 if number else 7200, 1.0 if number else 20.0,
                COMMAND=["python", "mine.py"], depth=3, seed=number)
    lines, _ = plan_lines(grid, capsys, "--right-size")
    assert lines[1:] == ["2 runs: time 03:00:00, mem 1300M"]
    assert "2 h" in lines[0] and "40 similar runs" in lines[0]


@pytest.mark.parametrize(("memory", "expected"), [("8G", 8192), ("500", 500), ("1T", 2**20), ("2048K", 2), ("0", None),
                                                  ("", None), ("8GB", 8192), ("all", None), ("9" * 20, None)])
def test_memory_of_an_option_is_parsed(memory: str, expected: float | None) -> None:
    assert sizes.megabytes(memory) == expected


def test_memory_per_cpu_stays() -> None:
    size = Size(60, 2**20)
    assert sizes.smaller_request(size, {"mem-per-cpu": "4G", "time": "60"}, []) == {"time": "5"}
    assert sizes.smaller_request(size, {"mem": "4G", "time": "UNLIMITED"}, []) == {"mem": "500M"}
    assert sizes.smaller_request(size, {"mem": "4G"}, ["mem-per-gpu"]) == {}


def test_percentile_leaves_out_a_twentieth() -> None:
    assert sizes.percentile([*range(100)]) == 94
    assert sizes.percentile([3, 9, 1]) == 9


@pytest.mark.parametrize("record", [None, [], {"a": 1}, {"a": [1]}, {"a": [1, "x"]}, {"a": [1, 1e300]}])
def test_damaged_record_of_sizes_is_ignored(record: Any) -> None:
    assert sizes.from_record(record) == {}
