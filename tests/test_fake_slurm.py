"""The fake Slurm commands: same output as real Slurm, consistent state under concurrent calls, faults on request."""
from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from src.submission.slurm import client as submission_slurm
from tests.conftest import ROOT, Slurm
from tests.fake_slurm import errors, formats
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.conftest import Project, project

__all__ = ["fake_slurm", "project"]  # the fixtures

ROW = "--format=%i|%T|%r|%k|%j|%P|%u|%D|%C|%K|%F|%t"


def run(*command: str, folder: Path | None = None, timeout: float | None = 30, **env: str) -> tuple[int, str, str]:
    """Run a command. Returns its exit code, stdout and stderr, without newlines at the end."""
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=timeout,
                            stdin=subprocess.DEVNULL, env={**os.environ, **env})
    return result.returncode, result.stdout.rstrip("\n"), result.stderr.rstrip("\n")


def submit(*arguments: str, folder: Path | None = None, **env: str) -> str:
    """Submit a job. Returns its id."""
    code, stdout, stderr = run("sbatch", "--parsable", *arguments, folder=folder, **env)
    assert (code, stderr) == (0, ""), stderr
    return stdout


def write_file(path: Path, text: str = "#!/bin/bash\nexit 0\n") -> str:
    path.write_text(text)
    return str(path)


# comparison with a real Slurm

REJECTED: list[list[str]] = [
    ["--partition=nope", "ok.sh"], ["--constraint=nope", "ok.sh"], ["--gres=nope:1", "ok.sh"], ["--gpus=50", "ok.sh"],
    ["--mem=999G", "ok.sh"], ["--array=5-1", "ok.sh"], ["--array=x", "ok.sh"], ["--array=0-5000", "ok.sh"],
    ["--memm=3", "ok.sh"], ["--time=bad", "ok.sh"], ["--mem=bad", "ok.sh"], ["--dependency=foo", "ok.sh"],
    ["--me=3", "ok.sh"], ["-Z", "ok.sh"], ["--comment", "ok.sh"], ["dos.sh"], ["no-shebang.sh"], ["misspelled.sh"],
    ["none.sh"], ["empty.sh"], ["--wrap=x", "ok.sh"], ["--hold=3", "ok.sh"], ["--mem"], ["-p"],
    *(["--test-only", option, "ok.sh"] for option in (
        "--partition=nope", "--constraint=nope", "--gres=nope:1", "--gpus=50", "--mem=999G", "--array=5-1",
        "--dependency=foo", "--memm=3"))]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    write_file(folder / "ok.sh")
    write_file(folder / "dos.sh", "#!/bin/bash\r\necho\r\n")
    write_file(folder / "no-shebang.sh", "echo\n")
    write_file(folder / "misspelled.sh", "#!/bin/bash\n#SBATCH --memm=3\necho\n")
    write_file(folder / "empty.sh", "")
    return folder


def real_slurm(slurm: Slurm) -> dict[str, str]:
    """Return environment variables with which a program finds the real commands."""
    return {"PATH": os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if "fake-slurm" not in part),
            "SLURM_CONF": str(slurm.folder / "slurm.conf")}


@pytest.mark.parametrize("arguments", REJECTED, ids=" ".join)
def test_sbatch_errors_equal_those_of_real_slurm(arguments: list[str], scripts: Path, slurm: Slurm,
                                                 fake_slurm: FakeSlurm) -> None:
    expected = run("sbatch", "--parsable", *arguments, folder=scripts, **real_slurm(slurm))
    result = run("sbatch", "--parsable", *arguments, folder=scripts)
    assert result == expected
    assert result[0] != 0


def test_output_about_jobs_equals_that_of_real_slurm(scripts: Path, slurm: Slurm, fake_slurm: FakeSlurm) -> None:
    job_arguments = ["--hold", "--comment=a|b c", "--job-name=the name", "--time=90", "--cpus-per-task=2", "--mem=1G",
                     "--partition=killable", "--output=%x-%j-%5j-%A.out", "ok.sh", "an argument"]
    array_arguments = ["--hold", "--array=1,3-5,9%2", "ok.sh"]
    env = real_slurm(slurm)
    job, array = submit(*job_arguments, folder=scripts, **env), submit(*array_arguments, folder=scripts, **env)
    for job_id, arguments in ((job, job_arguments), (array, array_arguments)):
        fake_slurm.reuse_ids_from(int(job_id))
        assert submit(*arguments, folder=scripts) == job_id

    def compare(*command: str) -> None:
        command = tuple(argument.replace("JOB", job).replace("ARRAY", array) for argument in command)
        assert run(*command) == run(*command, **env)

    for format_ in (ROW, "--format=%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R",
                    "--format=%l|%L|%S|%e|%M|%E|%N|%o|%Z|%A|%20r|"):
        compare("squeue", "--jobs=JOB", format_)
        compare("squeue", "--noheader", "--jobs=JOB", format_)
    compare("squeue", "-h", "--jobs=ARRAY", ROW)
    compare("squeue", "-h", "--array", "--jobs=ARRAY", ROW)
    compare("squeue", "-j", "999999")
    compare("squeue", "-t", "CD", "-j", "JOB")
    compare("scontrol", "show", "job", "999999")
    compare("scontrol", "requeue", "999999")
    compare("scontrol", "update", "JobId=999999", "Comment=x")
    compare("scancel", "999999", "JOB", "ARRAY_3", "ARRAY_[4-5]")
    compare("scancel", "x")
    compare("squeue", "-h", "-r", "-j", "ARRAY", "-t", "PD", "-o", "%i %T %r")
    compare("squeue", "-h", "-j", "JOB", "-t", "all", "-o", "%i %T")
    for format_ in ("%R", "%f", "%G", "%R:%c CPUs,%mM,%G", "%R:%l", "%P %l %D %c %m %G %f"):
        compare("sinfo", f"--format={format_}")
    run("scancel", array, **env)


def test_a_job_runs_as_on_real_slurm(tmp_path: Path, slurm: Slurm, fake_slurm: FakeSlurm) -> None:
    """Compare environment, output file, exit code and sacct, also with SLURM_ variables in sbatch's environment."""
    names = ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_CPUS_PER_TASK", "SLURM_PROCID", "SLURM_ARRAY_TASK_ID",
             "SLURM_RESTART_COUNT", "SLURM_FOO", "SLURM_SUBMIT_DIR", "SLURM_JOB_NUM_NODES", "MINE", "THEIRS")
    script = write_file(tmp_path / "x.sh", "#!/bin/bash\npwd\necho \"$@\"\n" + "".join(
        f"echo {name}=${{{name}-unset}}\n" for name in names) + "exit 3\n")
    outer = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_RESTART_COUNT": "2", "SLURM_FOO": "1", "MINE": "m", "THEIRS": "t"}
    results = []
    for env, export in ((real_slurm(slurm), "ALL"), (real_slurm(slurm), "MINE,THEIRS=other"),
                        ({}, "ALL"), ({}, "MINE,THEIRS=other")):
        job = submit(f"--export={export}", "--cpus-per-task=2", "--output=%x.%j.out", "--job-name=n",
                     "--comment=c", script, "a b", "c", folder=tmp_path, **outer, **env)
        if not env:
            fake_slurm.run_all()
        sacct = ["sacct", "-X", "-n", "-P", "-j", job, "--format=JobID,State,ExitCode,JobName,Comment,AllocCPUS,End"]
        deadline = time.monotonic() + 60
        while "|FAILED|3:0|n|c|" not in (row := run(*sacct, **env)[1]):  # real sacct adds the name last
            assert time.monotonic() < deadline, row
            time.sleep(0.1)
        row = row.rpartition("|")[0]  # without the time
        text = (tmp_path / f"n.{job}.out").read_text() + row
        results.append(text.replace(f"SLURM_JOB_ID={job}", "SLURM_JOB_ID=ID").replace(f"{job}|", "ID|"))
        (tmp_path / f"n.{job}.out").unlink()
    assert results[2:] == results[:2]
    assert "SLURM_ARRAY_TASK_ID=5" in results[0]  # inherited from the submitting process


# without a real Slurm


def test_a_command_without_a_cluster_folder_exits_with_97(fake_slurm: FakeSlurm) -> None:
    code, stdout, stderr = run("sbatch", "x", FAKE_SLURM="/nowhere")
    assert (code, stdout) == (97, "")
    assert "fake sbatch" in stderr
    assert "docs/testing.md" in stderr
    assert not fake_slurm.calls("sbatch")


@pytest.mark.parametrize("command", [("squeue", "--json"), ("squeue", "--format=%!"), ("sacct", "--starttime=noon"),
                                     ("scontrol", "show", "nodes"), ("sacct", "--format=MaxVMSize")])
def test_unsupported_calls_exit_with_97(command: tuple[str, ...], fake_slurm: FakeSlurm) -> None:
    code, _, stderr = run(*command)
    assert code == 97
    assert "does not support" in stderr


def test_concurrent_submissions_get_distinct_ids(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = write_file(tmp_path / "x.sh")
    with ThreadPoolExecutor(20) as pool:
        jobs = list(pool.map(lambda number: submit(f"--comment=c{number}", script), range(60)))
    assert sorted(map(int, jobs)) == list(range(1, 61))
    rows = run("squeue", "--me", "--noheader", "--format=%i %k")[1].split("\n")
    assert rows == [f"{number} c{jobs.index(str(number))}" for number in range(1, 61)]
    assert [call.number for call in fake_slurm.calls("sbatch")] == list(range(1, 61))


def test_calls_are_recorded(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    nasty = "a\nb\\n\\ '$(x)' ü \udcff"
    submit(f"--comment={nasty}", write_file(tmp_path / "x.sh"), nasty, folder=tmp_path, GRIDIRON_TICKET="7\n8")
    call, = fake_slurm.calls("sbatch")
    assert call.argv == ["sbatch", "--parsable", f"--comment={nasty}", str(tmp_path / "x.sh"), nasty]
    assert (call.cwd, call.env["GRIDIRON_TICKET"]) == (str(tmp_path), "7\n8")
    assert fake_slurm.job(1)["Comment"] == nasty


def test_command_line_overrides_options_in_the_script(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = write_file(tmp_path / "x.sh", "#!/bin/bash\n# note\n#SBATCH -p killable --job-name='a b'  # why\n\n"
                        "#SBATCH --comment \"c # d\" -t1-0 --mem=1G\necho\n#SBATCH --partition=owner\n")
    submit("-J", "mine", script)
    job = fake_slurm.job(1)
    assert [job[key] for key in ("Partition", "JobName", "Comment", "TimeLimit")] == [
        "killable", "mine", "c # d", "86400"]


@pytest.mark.parametrize(("text", "seconds"), [("90", "5400"), ("1:10", "120"), ("2:00:00", "7200"), ("1-2", "93600"),
                                               ("1-2:3:4", "93840"), ("UNLIMITED", "")])
def test_parse_time_limit(text: str, seconds: str) -> None:
    assert formats.parse_time_limit(text) == seconds


def test_jobs_start_when_their_dependencies_are_met(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    def job(*arguments: str) -> str:
        return submit("--output=/dev/null", *arguments)

    good = job(f"--wrap=echo good >> {tmp_path}/log")
    bad = job("--wrap=exit 4")
    after = job(f"--dependency=afterok:{good},afterany:{bad}", f"--wrap=echo after >> {tmp_path}/log")
    never = job(f"--dependency=afterok:{bad}", "--wrap=exit 0")
    cancelled = job(f"--dependency=afterok:{bad}", "--kill-on-invalid-dep=yes", "--wrap=exit 0")
    held = job("--hold", "--wrap=exit 0")
    assert run("squeue", "-h", "-j", after, "-o", "%r")[1] == "Dependency"
    fake_slurm.run_all(parallel=3)
    states = [fake_slurm.job(job_id)["State"] for job_id in (good, bad, after, never, cancelled, held)]
    assert states == ["COMPLETED", "FAILED", "COMPLETED", "PENDING", "CANCELLED", "PENDING"]
    assert fake_slurm.job(bad)["ExitCode"] == "4:0"
    assert run("squeue", "-h", "-j", never, "-o", "%R")[1] == "(DependencyNeverSatisfied)"
    assert (tmp_path / "log").read_text() == "good\nafter\n"


def test_array_tasks_run_within_the_throttle(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = write_file(tmp_path / "x.sh", "#!/bin/bash\n"
                        "echo $SLURM_JOB_ID $SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_COUNT\n"
                        "mkdir busy || exit 9\nsleep 0.02\nrmdir busy\n")
    submit("--array=0-3%1", "--output=%A-%a-%j.out", script, folder=tmp_path)
    run("scancel", "1_2")
    assert run("squeue", "-h", "-o", "%i")[1] == "1_[0-1,3%1]"
    fake_slurm.run_all(parallel=4)
    assert {job: fake_slurm.job(job)["State"] for job in fake_slurm.jobs()} == {
        "1_0": "COMPLETED", "1_1": "COMPLETED", "1_2": "CANCELLED", "1_3": "COMPLETED"}
    assert {path.name: path.read_text() for path in tmp_path.glob("*.out")} == {
        "1-0-2.out": "2 1 4\n", "1-1-3.out": "3 1 4\n", "1-3-1.out": "1 1 4\n"}
    assert fake_slurm.job("3") == fake_slurm.job("1_1")
    assert submit(script) == "4"


def test_a_requeued_job_starts_again(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = write_file(tmp_path / "x.sh", "#!/bin/bash\necho start ${SLURM_RESTART_COUNT:-0}\n"
                        "[ -n \"$SLURM_RESTART_COUNT\" ] || exec sleep 60\n")
    job = submit("--open-mode=append", "--output=out", script, folder=tmp_path)
    fake_slurm.start(job)
    wait_for((tmp_path / "out").read_text)
    assert run("scontrol", "requeue", job) == (0, "", "")
    assert fake_slurm.job(job)["Reason"] == "BeginTime"
    fake_slurm.run_all()
    assert fake_slurm.job(job)["State"] == "COMPLETED"
    assert (tmp_path / "out").read_text() == "start 0\nstart 1\n"


def test_requeue_without_kill_leaves_the_old_process_running(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = write_file(tmp_path / "x.sh", "#!/bin/bash\nuntil [ -e go ]; do sleep 0.01; done\necho >> done\n")
    job = submit(script, folder=tmp_path)
    first_pid = fake_slurm.start(job)
    fake_slurm.requeue(job, kill=False)
    assert fake_slurm.start(job) != first_pid
    (tmp_path / "go").touch()
    assert fake_slurm.wait(job) == "COMPLETED"
    wait_for(lambda: len((tmp_path / "done").read_text()) == 2)


def test_signals_reach_the_script_and_states_can_be_set(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = write_file(tmp_path / "x.sh", "#!/bin/bash\ntrap 'echo received >> signals' USR1 TERM\necho > ready\n"
                        "while [ $(wc -l < signals) -lt 3 ]; do sleep 0.01; done 2>/dev/null\n")
    job = submit(script, folder=tmp_path)
    signals = tmp_path / "signals"
    signals.touch()
    fake_slurm.start(job)
    for count, send in enumerate((lambda: fake_slurm.signal(job, signal.SIGUSR1),
                                  lambda: run("scancel", "--batch", "--signal=USR1", job),
                                  lambda: fake_slurm.set_state(job, "TIMEOUT")), 1):
        wait_for((tmp_path / "ready").exists)
        send()
        wait_for(lambda count=count: len(signals.read_text().split()) == count)
    assert fake_slurm.wait(job) == "TIMEOUT"
    pending = submit(script)
    fake_slurm.set_state(pending, "PENDING", "PartitionTimeLimit")
    assert run("squeue", "-h", "-o", "%T %R")[1] == "PENDING (PartitionTimeLimit)"
    fake_slurm.set_state(pending, "OUT_OF_MEMORY", ExitCode="0:125", MaxRSS="3G")
    assert run("sacct", "-n", "-P", "-j", pending, "--format=JobID,State,ExitCode,MaxRSS")[1].split("\n") == [
        "2|OUT_OF_MEMORY|0:125|", "2.batch|OUT_OF_MEMORY|0:125|3G"]


def test_a_cancelled_job_that_ignores_term_is_killed(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = write_file(tmp_path / "x.sh",
                        "#!/bin/bash\ntrap '' TERM\necho > ready\nwhile :; do sleep 0.05; done\n")
    job = submit(script, folder=tmp_path)
    fake_slurm.start(job)
    wait_for((tmp_path / "ready").exists)
    run("scancel", job)
    assert fake_slurm.wait(job) == "CANCELLED"
    assert run("sacct", "-XnP", "--format=State")[1] == f"CANCELLED by {os.getuid()}"


def test_a_job_without_its_working_directory_fails(fake_slurm: FakeSlurm) -> None:
    job = submit("--chdir=/nowhere", "--wrap=true")
    assert fake_slurm.start(job) is None
    assert (fake_slurm.job(job)["State"], fake_slurm.job(job)["ExitCode"]) == ("FAILED", "0:53")


def test_jobs_can_be_purged_and_deleted_and_ids_reused(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    for _ in range(4):
        submit(f"--output={tmp_path}/out", "--wrap=true")
    for job in ("1", "2", "4"):
        fake_slurm.start(job)
        fake_slurm.wait(job)
    fake_slurm.purge(1)
    fake_slurm.delete(4)
    assert run("squeue", "-h", "-t", "all", "-o", "%i")[1].split() == ["2", "3"]
    assert run("sacct", "-XnP", "--format=JobID")[1].split() == ["1", "2", "3"]
    fake_slurm.reuse_ids_from(2)
    assert [submit(f"--comment={letter}", "--wrap=true") for letter in "xyz"] == ["2", "4", "5"]  # 3 is still pending
    assert run("squeue", "-h", "-j", "2", "-o", "%k %T")[1] == "x PENDING"


# faults


def test_rejected_submissions_print_slurms_message_and_create_no_job(fake_slurm: FakeSlurm) -> None:
    for error, message in errors.MESSAGES.items():
        fake_slurm.reject(error, nth=1)
        assert run("sbatch", "--wrap=true") == (1, "", message), error
    assert not fake_slurm.jobs()
    assert submit("--wrap=true") == "1"


def test_faults_apply_to_the_nth_calls(fake_slurm: FakeSlurm) -> None:
    submit("--wrap=true")
    fake_slurm.reject("policy", nth=[2, 3])
    assert [run("sbatch", "--wrap=true")[0] for _ in range(4)] == [0, 1, 1, 0]
    fake_slurm.reject("queue_full")
    assert [run("sbatch", "--wrap=true")[0] for _ in range(2)] == [1, 1]
    fake_slurm.clear_faults()
    submit("--wrap=true")


def test_test_only_calls_have_faults_of_their_own(fake_slurm: FakeSlurm, scripts: Path) -> None:
    fake_slurm.reject("policy", nth=1)
    fake_slurm.reject("invalid_account", nth=2, command="sbatch --test-only")
    code, stdout, stderr = run("sbatch", "--test-only", "ok.sh", folder=scripts)
    assert (code, stdout) == (0, "")
    assert stderr.startswith("sbatch: Job 1 to start at ")
    code, _, stderr = run("sbatch", "--test-only", "ok.sh", folder=scripts)
    assert (code, stderr) == (1, "allocation failure: Invalid account or account/partition combination specified")
    assert [run("sbatch", "--parsable", "ok.sh", folder=scripts) for _ in range(2)] == [
        (1, "", errors.MESSAGES["policy"]), (0, "2", "")]
    assert (len(fake_slurm.calls("sbatch")), len(fake_slurm.calls("sbatch --test-only"))) == (2, 2)


def test_a_job_exists_although_its_reply_is_lost(fake_slurm: FakeSlurm) -> None:
    fake_slurm.lose_reply(nth=1)
    fake_slurm.inject_fault("sbatch", nth=2, kill=True)
    fake_slurm.inject_fault("sbatch", nth=3, hang=30)
    assert run("sbatch", "--wrap=true") == (1, "", errors.MESSAGES["socket_timed_out"])
    assert run("sbatch", "--wrap=true") == (-signal.SIGKILL, "", "")
    with subprocess.Popen(["sbatch", "--wrap=true"]) as caller:
        wait_for(lambda: fake_slurm.jobs() == ["1", "2", "3"])
        assert caller.poll() is None
        caller.kill()
    fake_slurm.inject_fault("sbatch", nth=1, delay=30)
    with subprocess.Popen(["sbatch", "--wrap=true"]) as caller:
        wait_for(lambda: len(fake_slurm.calls("sbatch")) == 4)
        caller.kill()
    assert fake_slurm.jobs() == ["1", "2", "3"]


def test_output_and_exit_code_can_be_replaced(fake_slurm: FakeSlurm) -> None:
    fake_slurm.inject_fault("sbatch", nth=1, stderr="sbatch: warning: \x1b[31m garbage")
    fake_slurm.inject_fault("sbatch", nth=2, stdout="Welcome to the cluster!\n")
    fake_slurm.inject_fault("squeue", nth=1, code=1, stdout="")
    assert run("sbatch", "--parsable", "--wrap=true") == (0, "1", "sbatch: warning: \x1b[31m garbage")
    assert run("sbatch", "--parsable", "--wrap=true") == (0, "Welcome to the cluster!", "")
    assert [run("squeue")[0] for _ in range(2)] == [1, 0]


def test_rate_limit_rejects_further_calls(fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(Rate=1)
    start = int(time.time())
    with ThreadPoolExecutor(20) as pool:
        codes = list(pool.map(lambda _: run("sbatch", "--wrap=true")[0], range(20)))
    assert 1 <= codes.count(0) == len(fake_slurm.jobs()) <= int(time.time()) - start + 1


def test_submission_limits_reject_further_jobs(fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(MaxSubmitJobs=5, MaxArraySize=4)
    assert "MaxArraySize            = 4\n" in run("scontrol", "show", "config")[1]
    assert run("sacctmgr", "-nP", "show", "associations", "format=account,maxsubmit")[1] == "root|5"
    assert run("sbatch", "--array=0-4", "--wrap=true")[2] == errors.MESSAGES["array_spec"]
    submit("--array=0-3", "--wrap=true")
    submit("--wrap=true")
    assert run("sbatch", "--wrap=true")[2] == errors.MESSAGES["assoc_limit"]
    run("scancel", "1_1")
    assert run("sbatch", "--wrap=true")[0] == 0


def test_accounting_can_lag_or_be_unavailable(fake_slurm: FakeSlurm) -> None:
    def rows() -> str:
        return run("sacct", "-XnP", "--format=State")[1]

    submit("--wrap=true")
    fake_slurm.delay_sacct(calls=2)
    assert [rows(), rows(), rows()] == ["", "", "PENDING"]
    fake_slurm.set_state(1, "COMPLETED", Submit=str(time.time() - 100), Start=str(time.time() - 50))
    for seconds, state in ((200, ""), (70, "PENDING"), (20, "RUNNING"), (0, "COMPLETED")):
        fake_slurm.delay_sacct(seconds=seconds)
        assert rows() == state
    fake_slurm.reject("accounting_disabled", command="sacct", nth=1)
    assert run("sacct") == (1, "", "Slurm accounting storage is disabled")
    fake_slurm.reject("accounting_away", command="sacct", nth=1)
    assert "Connection refused" in run("sacct")[2]


def test_the_controller_can_be_unreachable_for_every_command(fake_slurm: FakeSlurm) -> None:
    for command in ("sbatch", "squeue", "sinfo", "scancel", "scontrol"):
        fake_slurm.reject("unable_to_contact", command=command)
        code, stdout, stderr = run(command)
        assert (code, stdout) == (1, "")
        assert stderr.endswith("Unable to contact slurm controller (connect failure)")


def test_srun_runs_the_command_once_per_task(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    assert run("srun", "-n3", "sh", "-c", "echo > $SLURM_PROCID; exit $SLURM_PROCID", folder=tmp_path)[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_commands_import_only_what_is_fast_to_import() -> None:
    """Each call is a Python process of its own, so its imports take most of its time."""
    folder = ROOT / "tests" / "fake_slurm"
    in_tests_only = {"fixture.py", "runner.py", "job_environment.py"}
    for path in [*(folder / "commands").glob("*.py"), *folder.glob("*.py")]:
        if path.name not in in_tests_only:
            modules = re.findall(r"^(?:from|import) ([\w.]+)", path.read_text("utf-8"), re.M)
            libraries = {name for name in modules if not name.startswith("tests.fake_slurm")}
            assert libraries <= {"__future__", "os", "sys", "time"}, path.name


def test_docs_name_every_method_and_their_example_passes(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    documented = set(re.findall(r"`(?:with )?([a-z_]+)\(", page))
    methods = {name for name in vars(FakeSlurm) if not name.startswith("_")}
    assert documented <= methods
    assert methods - documented == {"stop"}
    example, = re.findall(r"^```py\n(.*?)^```", page, re.M | re.S)
    write_file(tmp_path / "test_mine.py", example)
    code, stdout, _ = run(sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p",
                          "no:cacheprovider", str(tmp_path / "test_mine.py"), folder=ROOT, timeout=120)
    assert code == 0, stdout
    assert "1 passed" in stdout


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until the condition is true."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.005)


# submit_multiple.py


def test_a_grid_runs_exactly_once_despite_faults(project: Project, fake_slurm: FakeSlurm, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(submission_slurm.time, "sleep", lambda seconds: None)
    project.write_spec("[" + ", ".join(map(str, range(100, 115))) + "]")
    script = write_file(project.folder / "s.sh",
                        f"#!/bin/bash\n#SBATCH --mem=1G\nexec '{sys.executable}' train.py \"$@\"\n")
    command = [project.spec, "-s", script, "-y"]
    fake_slurm.lose_reply(nth=3)
    fake_slurm.reject("unable_to_contact", nth=[7, 8])
    fake_slurm.inject_fault("sbatch", nth=10, stderr="sbatch: warning: noise")
    fake_slurm.inject_fault("squeue", nth=2, code=1, stdout="")
    fake_slurm.reject("assoc_limit", nth=15)
    assert project.submit(*command) == 2
    assert errors.MESSAGES["assoc_limit"].split("\n", maxsplit=1)[0] in capsys.readouterr().err
    fake_slurm.clear_faults()
    fake_slurm.lose_reply(nth=2, error="zero_bytes")
    assert project.submit(*command) == 0
    with fake_slurm.running(parallel=4):
        wait_for(lambda: not fake_slurm.jobs("PENDING"))
    fake_slurm.run_all()
    assert project.executed() == [1] * 30
    assert Counter(fake_slurm.job(job)["State"] for job in fake_slurm.jobs()) == {
        "COMPLETED": len(fake_slurm.jobs())}
    assert 30 <= len(fake_slurm.jobs()) <= 32
