"""The stand-in for Slurm: answers as the real one does, keeps its books among many callers, and fails as it is told."""
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
from tests.conftest import ROOT, Slurm, slurm
from tests.fake_slurm import errors, formats
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.conftest import Project, project

__all__ = ["fake_slurm", "project", "slurm"]  # the fixtures

ROW = "--format=%i|%T|%r|%k|%j|%P|%u|%D|%C|%K|%F|%t"


def say(*words: str, folder: Path | None = None, timeout: float | None = 30, **env: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command, without the last newline."""
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, timeout=timeout,
                          stdin=subprocess.DEVNULL, env={**os.environ, **env})
    return done.returncode, done.stdout.rstrip("\n"), done.stderr.rstrip("\n")


def sbatch(*words: str, folder: Path | None = None, **env: str) -> str:
    """The id of a job that was taken."""
    code, out, err = say("sbatch", "--parsable", *words, folder=folder, **env)
    assert (code, err) == (0, ""), err
    return out


def put(path: Path, text: str = "#!/bin/bash\nexit 0\n") -> str:
    path.write_text(text)
    return str(path)


# against a real Slurm

CALLS: list[list[str]] = [
    ["--partition=nope", "ok.sh"], ["--constraint=nope", "ok.sh"], ["--gres=nope:1", "ok.sh"], ["--gpus=50", "ok.sh"],
    ["--mem=999G", "ok.sh"], ["--array=5-1", "ok.sh"], ["--array=x", "ok.sh"], ["--array=0-5000", "ok.sh"],
    ["--memm=3", "ok.sh"], ["--time=bad", "ok.sh"], ["--mem=bad", "ok.sh"], ["--dependency=foo", "ok.sh"],
    ["--me=3", "ok.sh"], ["-Z", "ok.sh"], ["--comment", "ok.sh"], ["dos.sh"], ["no-shebang.sh"], ["misspelt.sh"],
    ["none.sh"], ["empty.sh"], ["--wrap=x", "ok.sh"], ["--hold=3", "ok.sh"], ["--mem"], ["-p"],
    *(["--test-only", word, "ok.sh"] for word in ("--partition=nope", "--constraint=nope", "--gres=nope:1", "--gpus=50",
                                                  "--mem=999G", "--array=5-1", "--dependency=foo", "--memm=3"))]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    put(folder / "ok.sh")
    put(folder / "dos.sh", "#!/bin/bash\r\necho\r\n")
    put(folder / "no-shebang.sh", "echo\n")
    put(folder / "misspelt.sh", "#!/bin/bash\n#SBATCH --memm=3\necho\n")
    put(folder / "empty.sh", "")
    return folder


def real(slurm: Slurm) -> dict[str, str]:
    """The environment of a program that is to meet the real commands."""
    return {"PATH": os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if "fake-slurm" not in part),
            "SLURM_CONF": str(slurm.folder / "slurm.conf")}


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
def test_sbatch_refuses_as_slurm_does(words: list[str], scripts: Path, slurm: Slurm, fake_slurm: FakeSlurm) -> None:
    there = say("sbatch", "--parsable", *words, folder=scripts, **real(slurm))
    here = say("sbatch", "--parsable", *words, folder=scripts)
    assert here == there
    assert here[0] != 0


def test_a_job_is_shown_as_slurm_shows_it(scripts: Path, slurm: Slurm, fake_slurm: FakeSlurm) -> None:
    words = ["--hold", "--comment=a|b c", "--job-name=the name", "--time=90", "--cpus-per-task=2", "--mem=1G",
             "--partition=killable", "--output=%x-%j-%5j-%A.out", "ok.sh", "an argument"]
    env = real(slurm)
    array_words = ["--hold", "--array=1,3-5,9%2", "ok.sh"]
    job, array = sbatch(*words, folder=scripts, **env), sbatch(*array_words, folder=scripts, **env)
    for number, here in ((job, words), (array, array_words)):
        fake_slurm.reuse_ids_from(int(number))
        assert sbatch(*here, folder=scripts) == number

    def compare(*command: str) -> None:
        command = tuple(word.replace("JOB", job).replace("ARRAY", array) for word in command)
        assert say(*command) == say(*command, **env)

    for row in (ROW, "--format=%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R",
                "--format=%l|%L|%S|%e|%M|%E|%N|%o|%Z|%A|%20r|"):
        compare("squeue", "--jobs=JOB", row)
        compare("squeue", "--noheader", "--jobs=JOB", row)
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
    say("scancel", array, **env)


def test_a_job_runs_as_slurm_runs_it(tmp_path: Path, slurm: Slurm, fake_slurm: FakeSlurm) -> None:
    """Its environment, output file, exit status and account, with what the submitter's SLURM_ variables do to it."""
    names = ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_CPUS_PER_TASK", "SLURM_PROCID", "SLURM_ARRAY_TASK_ID",
             "SLURM_RESTART_COUNT", "SLURM_FOO", "SLURM_SUBMIT_DIR", "SLURM_JOB_NUM_NODES", "MINE", "THEIRS")
    script = put(tmp_path / "x.sh", "#!/bin/bash\npwd\necho \"$@\"\n" + "".join(
        f"echo {name}=${{{name}-unset}}\n" for name in names) + "exit 3\n")
    outer = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_RESTART_COUNT": "2", "SLURM_FOO": "1", "MINE": "m", "THEIRS": "t"}
    found = []
    for env, export, label in ((real(slurm), "ALL", "there"), (real(slurm), "MINE,THEIRS=other", "there"),
                               ({}, "ALL", "here"), ({}, "MINE,THEIRS=other", "here")):
        job = sbatch(f"--export={export}", "--cpus-per-task=2", "--output=%x.%j.out", "--job-name=n",
                     "--comment=c", script, "a b", "c", folder=tmp_path, **outer, **env)
        if label == "here":
            fake_slurm.run_all()
        books = ["sacct", "-X", "-n", "-P", "-j", job, "--format=JobID,State,ExitCode,JobName,Comment,AllocCPUS,End"]
        end = time.monotonic() + 60
        while "|FAILED|3:0|n|c|" not in (row := say(*books, **env)[1]):  # the real one's name comes last
            assert time.monotonic() < end, row
            time.sleep(0.1)
        row = row.rpartition("|")[0]  # without the time
        text = (tmp_path / f"n.{job}.out").read_text() + row
        found.append(text.replace(f"SLURM_JOB_ID={job}", "SLURM_JOB_ID=ID").replace(f"{job}|", "ID|"))
        (tmp_path / f"n.{job}.out").unlink()
    assert found[2:] == found[:2]
    assert "SLURM_ARRAY_TASK_ID=5" in found[0]  # it is handed on: a job that submits has to drop its own


# by itself


def test_not_set_up(fake_slurm: FakeSlurm) -> None:
    code, out, err = say("sbatch", "x", FAKE_SLURM="/nowhere")
    assert (code, out) == (97, "")
    assert "fake sbatch" in err
    assert "docs/testing.md" in err
    assert not fake_slurm.calls("sbatch")


@pytest.mark.parametrize("words", [("squeue", "--json"), ("squeue", "--format=%!"), ("sacct", "--starttime=noon"),
                                   ("scontrol", "show", "nodes"), ("sacct", "--format=MaxVMSize")])
def test_what_it_does_not_know_it_refuses(words: tuple[str, ...], fake_slurm: FakeSlurm) -> None:
    code, _, err = say(*words)
    assert code == 97
    assert "does not support" in err


def test_many_submitters_at_once(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = put(tmp_path / "x.sh")
    with ThreadPoolExecutor(20) as pool:
        jobs = list(pool.map(lambda number: sbatch(f"--comment=c{number}", script), range(60)))
    assert sorted(map(int, jobs)) == list(range(1, 61))
    rows = say("squeue", "--me", "--noheader", "--format=%i %k")[1].split("\n")
    assert rows == [f"{number} c{jobs.index(str(number))}" for number in range(1, 61)]
    assert [call.number for call in fake_slurm.calls("sbatch")] == list(range(1, 61))


def test_calls_are_recorded(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    nasty = "a\nb\\n\\ '$(x)' ü \udcff"
    sbatch(f"--comment={nasty}", put(tmp_path / "x.sh"), nasty, folder=tmp_path, GRIDIRON_TICKET="7\n8")
    call, = fake_slurm.calls("sbatch")
    assert call.argv == ["sbatch", "--parsable", f"--comment={nasty}", str(tmp_path / "x.sh"), nasty]
    assert (call.cwd, call.env["GRIDIRON_TICKET"]) == (str(tmp_path), "7\n8")
    assert fake_slurm.job(1)["Comment"] == nasty


def test_options_of_the_script_yield_to_those_of_the_command(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = put(tmp_path / "x.sh", "#!/bin/bash\n# note\n#SBATCH -p killable --job-name='a b'  # why\n\n"
                 "#SBATCH --comment \"c # d\" -t1-0 --mem=1G\necho\n#SBATCH --partition=owner\n")
    sbatch("-J", "mine", script)
    job = fake_slurm.job(1)
    assert [job[key] for key in ("Partition", "JobName", "Comment", "TimeLimit")] == [
        "killable", "mine", "c # d", "86400"]


@pytest.mark.parametrize(("text", "seconds"), [("90", "5400"), ("1:10", "120"), ("2:00:00", "7200"), ("1-2", "93600"),
                                               ("1-2:3:4", "93840"), ("UNLIMITED", "")])
def test_time_limits(text: str, seconds: str) -> None:
    assert formats.parse_time_limit(text) == seconds


def test_jobs_run_in_order_of_their_dependencies(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    def job(*words: str) -> str:
        return sbatch("--output=/dev/null", *words)

    good = job(f"--wrap=echo good >> {tmp_path}/log")
    bad = job("--wrap=exit 4")
    after = job(f"--dependency=afterok:{good},afterany:{bad}", f"--wrap=echo after >> {tmp_path}/log")
    never = job(f"--dependency=afterok:{bad}", "--wrap=exit 0")
    killed = job(f"--dependency=afterok:{bad}", "--kill-on-invalid-dep=yes", "--wrap=exit 0")
    held = job("--hold", "--wrap=exit 0")
    assert say("squeue", "-h", "-j", after, "-o", "%r")[1] == "Dependency"
    fake_slurm.run_all(parallel=3)
    states = [fake_slurm.job(one)["State"] for one in (good, bad, after, never, killed, held)]
    assert states == ["COMPLETED", "FAILED", "COMPLETED", "PENDING", "CANCELLED", "PENDING"]
    assert fake_slurm.job(bad)["ExitCode"] == "4:0"
    assert say("squeue", "-h", "-j", never, "-o", "%R")[1] == "(DependencyNeverSatisfied)"
    assert (tmp_path / "log").read_text() == "good\nafter\n"


def test_an_array(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = put(tmp_path / "x.sh", "#!/bin/bash\necho $SLURM_JOB_ID $SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_COUNT\n"
                 "mkdir busy || exit 9\nsleep 0.02\nrmdir busy\n")
    sbatch("--array=0-3%1", "--output=%A-%a-%j.out", script, folder=tmp_path)
    say("scancel", "1_2")
    assert say("squeue", "-h", "-o", "%i")[1] == "1_[0-1,3%1]"
    fake_slurm.run_all(parallel=4)
    assert {job: fake_slurm.job(job)["State"] for job in fake_slurm.jobs()} == {
        "1_0": "COMPLETED", "1_1": "COMPLETED", "1_2": "CANCELLED", "1_3": "COMPLETED"}
    assert {path.name: path.read_text() for path in tmp_path.glob("*.out")} == {
        "1-0-2.out": "2 1 4\n", "1-1-3.out": "3 1 4\n", "1-3-1.out": "1 1 4\n"}
    assert fake_slurm.job("3") == fake_slurm.job("1_1")
    assert sbatch(script) == "4"


def test_a_job_that_is_put_back(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = put(tmp_path / "x.sh", "#!/bin/bash\necho start ${SLURM_RESTART_COUNT:-0}\n"
                 "[ -n \"$SLURM_RESTART_COUNT\" ] || exec sleep 60\n")
    job = sbatch("--open-mode=append", "--output=out", script, folder=tmp_path)
    fake_slurm.start(job)
    wait_for((tmp_path / "out").read_text)
    assert say("scontrol", "requeue", job) == (0, "", "")
    assert fake_slurm.job(job)["Reason"] == "BeginTime"
    fake_slurm.run_all()
    assert fake_slurm.job(job)["State"] == "COMPLETED"
    assert (tmp_path / "out").read_text() == "start 0\nstart 1\n"


def test_a_twin_goes_on(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = put(tmp_path / "x.sh", "#!/bin/bash\nuntil [ -e go ]; do sleep 0.01; done\necho >> done\n")
    job = sbatch(script, folder=tmp_path)
    first = fake_slurm.start(job)
    fake_slurm.requeue(job, kill=False)
    assert fake_slurm.start(job) != first
    (tmp_path / "go").touch()
    assert fake_slurm.wait(job) == "COMPLETED"
    wait_for(lambda: len((tmp_path / "done").read_text()) == 2)


def test_states_and_signals(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = put(tmp_path / "x.sh", "#!/bin/bash\ntrap 'echo told >> told' USR1 TERM\necho > ready\n"
                 "while [ $(wc -l < told) -lt 3 ]; do sleep 0.01; done 2>/dev/null\n")
    job = sbatch(script, folder=tmp_path)
    (tmp_path / "told").touch()
    fake_slurm.start(job)
    for told, tell in enumerate((lambda: fake_slurm.signal(job, signal.SIGUSR1),
                                 lambda: say("scancel", "--batch", "--signal=USR1", job),
                                 lambda: fake_slurm.set_state(job, "TIMEOUT")), 1):
        wait_for((tmp_path / "ready").exists)
        tell()
        wait_for(lambda told=told: len((tmp_path / "told").read_text().split()) == told)
    assert fake_slurm.wait(job) == "TIMEOUT"
    waiting = sbatch(script)
    fake_slurm.set_state(waiting, "PENDING", "PartitionTimeLimit")
    assert say("squeue", "-h", "-o", "%T %R")[1] == "PENDING (PartitionTimeLimit)"
    fake_slurm.set_state(waiting, "OUT_OF_MEMORY", ExitCode="0:125", MaxRSS="3G")
    assert say("sacct", "-n", "-P", "-j", waiting, "--format=JobID,State,ExitCode,MaxRSS")[1].split("\n") == [
        "2|OUT_OF_MEMORY|0:125|", "2.batch|OUT_OF_MEMORY|0:125|3G"]


def test_a_cancelled_job_that_will_not_end_is_killed(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    job = sbatch(put(tmp_path / "x.sh", "#!/bin/bash\ntrap '' TERM\necho > ready\nwhile :; do sleep 0.05; done\n"),
                 folder=tmp_path)
    fake_slurm.start(job)
    wait_for((tmp_path / "ready").exists)
    say("scancel", job)
    assert fake_slurm.wait(job) == "CANCELLED"
    assert say("sacct", "-XnP", "--format=State")[1] == f"CANCELLED by {os.getuid()}"


def test_a_job_that_cannot_start(fake_slurm: FakeSlurm) -> None:
    job = sbatch("--chdir=/nowhere", "--wrap=true")
    assert fake_slurm.start(job) is None
    assert (fake_slurm.job(job)["State"], fake_slurm.job(job)["ExitCode"]) == ("FAILED", "0:53")


def test_forgotten_lost_and_reused(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    for _ in range(4):
        sbatch(f"--output={tmp_path}/out", "--wrap=true")
    for job in ("1", "2", "4"):
        fake_slurm.start(job)
        fake_slurm.wait(job)
    fake_slurm.purge(1)
    fake_slurm.delete(4)
    assert say("squeue", "-h", "-t", "all", "-o", "%i")[1].split() == ["2", "3"]
    assert say("sacct", "-XnP", "--format=JobID")[1].split() == ["1", "2", "3"]
    fake_slurm.reuse_ids_from(2)
    assert [sbatch(f"--comment={one}", "--wrap=true") for one in "xyz"] == ["2", "4", "5"]  # 3 still waits
    assert say("squeue", "-h", "-j", "2", "-o", "%k %T")[1] == "x PENDING"


# faults


def test_every_refusal_has_slurms_words_and_takes_no_job(fake_slurm: FakeSlurm) -> None:
    for name, words in errors.MESSAGES.items():
        fake_slurm.reject(name, nth=1)
        assert say("sbatch", "--wrap=true") == (1, "", words), name
    assert not fake_slurm.jobs()
    assert sbatch("--wrap=true") == "1"


def test_faults_hit_the_calls_that_they_name(fake_slurm: FakeSlurm) -> None:
    sbatch("--wrap=true")
    fake_slurm.reject("policy", nth=[2, 3])
    assert [say("sbatch", "--wrap=true")[0] for _ in range(4)] == [0, 1, 1, 0]
    fake_slurm.reject("queue_full")
    assert [say("sbatch", "--wrap=true")[0] for _ in range(2)] == [1, 1]
    fake_slurm.clear_faults()
    sbatch("--wrap=true")


def test_trying_out_is_a_kind_of_its_own(fake_slurm: FakeSlurm, scripts: Path) -> None:
    fake_slurm.reject("policy", nth=1)
    fake_slurm.reject("invalid_account", nth=2, command="sbatch --test-only")
    code, out, err = say("sbatch", "--test-only", "ok.sh", folder=scripts)
    assert (code, out) == (0, "")
    assert err.startswith("sbatch: Job 1 to start at ")
    code, _, err = say("sbatch", "--test-only", "ok.sh", folder=scripts)
    assert (code, err) == (1, "allocation failure: Invalid account or account/partition combination specified")
    assert [say("sbatch", "--parsable", "ok.sh", folder=scripts) for _ in range(2)] == [
        (1, "", errors.MESSAGES["policy"]), (0, "2", "")]
    assert (len(fake_slurm.calls("sbatch")), len(fake_slurm.calls("sbatch --test-only"))) == (2, 2)


def test_an_answer_is_lost(fake_slurm: FakeSlurm) -> None:
    fake_slurm.lose_reply(nth=1)
    fake_slurm.inject_fault("sbatch", nth=2, kill=True)
    fake_slurm.inject_fault("sbatch", nth=3, hang=30)
    assert say("sbatch", "--wrap=true") == (1, "", errors.MESSAGES["socket_timed_out"])
    assert say("sbatch", "--wrap=true") == (-signal.SIGKILL, "", "")
    with subprocess.Popen(["sbatch", "--wrap=true"]) as caller:
        wait_for(lambda: fake_slurm.jobs() == ["1", "2", "3"])
        assert caller.poll() is None
        caller.kill()
    fake_slurm.inject_fault("sbatch", nth=1, delay=30)
    with subprocess.Popen(["sbatch", "--wrap=true"]) as caller:
        wait_for(lambda: len(fake_slurm.calls("sbatch")) == 4)
        caller.kill()
    assert fake_slurm.jobs() == ["1", "2", "3"]


def test_strange_answers(fake_slurm: FakeSlurm) -> None:
    fake_slurm.inject_fault("sbatch", nth=1, stderr="sbatch: warning: \x00\x1b[31m garbage".replace("\0", ""))
    fake_slurm.inject_fault("sbatch", nth=2, stdout="Welcome to the cluster!\n")
    fake_slurm.inject_fault("squeue", nth=1, code=1, stdout="")
    assert say("sbatch", "--parsable", "--wrap=true") == (0, "1", "sbatch: warning: \x1b[31m garbage")
    assert say("sbatch", "--parsable", "--wrap=true") == (0, "Welcome to the cluster!", "")
    assert [say("squeue")[0] for _ in range(2)] == [1, 0]


def test_a_rate_limit(fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(Rate=1)
    start = int(time.time())
    with ThreadPoolExecutor(20) as pool:
        codes = list(pool.map(lambda _: say("sbatch", "--wrap=true")[0], range(20)))
    assert 1 <= codes.count(0) == len(fake_slurm.jobs()) <= int(time.time()) - start + 1


def test_limits_hold_whoever_submits(fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(MaxSubmitJobs=5, MaxArraySize=4)
    assert "MaxArraySize            = 4\n" in say("scontrol", "show", "config")[1]
    assert say("sacctmgr", "-nP", "show", "associations", "format=account,maxsubmit")[1] == "root|5"
    assert say("sbatch", "--array=0-4", "--wrap=true")[2] == errors.MESSAGES["array_spec"]
    sbatch("--array=0-3", "--wrap=true")
    sbatch("--wrap=true")
    assert say("sbatch", "--wrap=true")[2] == errors.MESSAGES["assoc_limit"]
    say("scancel", "1_1")
    assert say("sbatch", "--wrap=true")[0] == 0


def test_accounting_is_late_away_or_not_there(fake_slurm: FakeSlurm) -> None:
    def rows() -> str:
        return say("sacct", "-XnP", "--format=State")[1]

    sbatch("--wrap=true")
    fake_slurm.delay_sacct(calls=2)
    assert [rows(), rows(), rows()] == ["", "", "PENDING"]
    fake_slurm.set_state(1, "COMPLETED", Submit=str(time.time() - 100), Start=str(time.time() - 50))
    for seconds, state in ((200, ""), (70, "PENDING"), (20, "RUNNING"), (0, "COMPLETED")):
        fake_slurm.delay_sacct(seconds=seconds)
        assert rows() == state
    fake_slurm.reject("accounting_disabled", command="sacct", nth=1)
    assert say("sacct") == (1, "", "Slurm accounting storage is disabled")
    fake_slurm.reject("accounting_away", command="sacct", nth=1)
    assert "Connection refused" in say("sacct")[2]


def test_the_controller_is_away_for_all(fake_slurm: FakeSlurm) -> None:
    for command in ("sbatch", "squeue", "sinfo", "scancel", "scontrol"):
        fake_slurm.reject("unable_to_contact", command=command)
        code, out, err = say(command)
        assert (code, out) == (1, "")
        assert err.endswith("Unable to contact slurm controller (connect failure)")


def test_srun_starts_the_tasks(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    assert say("srun", "-n3", "sh", "-c", "echo > $SLURM_PROCID; exit $SLURM_PROCID", folder=tmp_path)[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_the_page_is_true(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    named = set(re.findall(r"`(?:with )?([a-z_]+)\(", page))
    public = {name for name in vars(FakeSlurm) if not name.startswith("_")}
    assert named <= public
    assert public - named == {"stop"}
    example, = re.findall(r"^```py\n(.*?)^```", page, re.M | re.S)
    put(tmp_path / "test_mine.py", example)
    code, out, _ = say(sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p",
                       "no:cacheprovider", str(tmp_path / "test_mine.py"), folder=ROOT, timeout=120)
    assert code == 0, out
    assert "1 passed" in out


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until the condition is true."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.005)


# our own submission


def test_a_grid_with_faults_is_done_exactly_once(project: Project, fake_slurm: FakeSlurm, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(submission_slurm.time, "sleep", lambda seconds: None)
    project.write_spec("[" + ", ".join(map(str, range(100, 115))) + "]")
    script = put(project.folder / "s.sh", f"#!/bin/bash\n#SBATCH --mem=1G\nexec '{sys.executable}' train.py \"$@\"\n")
    command = [project.spec, "-s", script, "-y"]
    fake_slurm.lose_reply(nth=3)
    fake_slurm.reject("unable_to_contact", nth=[7, 8])
    fake_slurm.inject_fault("sbatch", nth=10, stderr="sbatch: warning: a word in between")
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
