"""Slurm's commands: arguments without a shell, classified errors, and parsed output."""
from __future__ import annotations

import calendar
import os
import stat
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import JobSpecError, SlurmError
from src.submission.slurm import client, sbatch_errors, script_options
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm

__all__ = ["fake_slurm"]  # the fixture

# each was seen on a real Slurm, or stands in its source
WORDS = [
    ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", "ambiguous"),
    # a controller that was killed after the connection was made: it may have read the request
    ("sbatch: error: Batch job submission failed: Connection reset by peer", "ambiguous"),
    ("sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received", "ambiguous"),
    ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (receive failure)", "ambiguous"),
    ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", "unavailable"),
    ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", "unavailable"),
    ("sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates "
     "accounting/QOS policy (job submit limit, user's size and/or time limits)", "limit"),
    ("sbatch: error: QOSMaxSubmitJobPerUserLimit", "limit"),
    ("sbatch: error: slurm_msg_sendto: address:port=10.0.0.1:6817 msg_type=4003: Unexpected missing socket error\n"
     "sbatch: error: Batch job submission failed: Unexpected missing socket error", "ambiguous"),
    ("sbatch: error: invalid partition specified: nope", "permanent"),
    ("sbatch: error: Batch job submission failed: Requested node configuration is not available", "permanent"),
    ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy", "permanent"),
    ("sbatch: unrecognized option '--memm=3'", "permanent"),
    ("sbatch: error: Batch job submission failed: Slurm backup controller in standby mode", "unavailable"),
    ("sbatch: error: Batch job submission failed: I/O error writing script/environment to file", "unavailable"),
    ("sbatch: error: Batch job submission failed: Slurm database connection is down", "unavailable"),
    ("sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)", "unavailable"),
    # the request or the answer may have been damaged
    ("sbatch: error: Batch job submission failed: Protocol authentication error", "ambiguous"),
    ("sbatch: error: AssocGrpSubmitJobsLimit\nsbatch: error: Batch job submission failed: Job violates "
     "accounting/QOS policy (job submit limit, user's size and/or time limits)", "limit"),
    ("sbatch: error: QOSGrpCpuLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy",
     "limit"),
    ("sbatch: error: the site's plugin is having a bad day", "unknown"),
]


@pytest.fixture
def fake_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the PATH; `answer` writes an sbatch into it."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def answer(folder: Path, script: str, name: str = "sbatch") -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(("message", "kind"), WORDS)
def test_errors_of_sbatch_are_classified_and_keep_their_message(message: str, kind: str, fake_sbatch: Path) -> None:
    (fake_sbatch / "words").write_text(message)
    answer(fake_sbatch, f"cat {fake_sbatch}/words >&2; exit 1")
    with pytest.raises(client.SbatchError) as refusal:
        client.submit(["sbatch", "script"], 1)
    assert refusal.value.kind == kind
    error = sbatch_errors.explain(refusal.value, "3 of 9 submitted", "`again` goes on")
    assert " ".join(message.split()) in str(error)
    assert "3 of 9 submitted" in str(error)
    assert "`again` goes on" in str(error)


def test_submit_returns_the_job_id_and_passes_the_ticket(fake_sbatch: Path) -> None:
    answer(fake_sbatch, "echo sbatch: a warning >&2; echo \"12$GRIDIRON_TICKET;cluster\"")
    assert client.submit(["sbatch", "script"], 3) == "123;cluster"


@pytest.mark.parametrize("message", ["Welcome to cluster 9!\n 17\n", "3 jobs are queued\n17"])
def test_submit_ignores_a_greeting_before_the_job_id(message: str, fake_sbatch: Path) -> None:
    (fake_sbatch / "words").write_text(message)
    answer(fake_sbatch, f"cat {fake_sbatch}/words")
    assert client.submit(["sbatch", "script"], 1) == "17"


@pytest.mark.parametrize("script", ["echo 17; exit 3", "echo Submitted batch job 17; exit 1",
                                    "echo 17; echo wrapper: cannot log this job >&2; exit 1", "echo 17; kill -9 $$"])
def test_sbatch_that_prints_an_id_has_submitted_whatever_its_exit_code(script: str, fake_sbatch: Path) -> None:
    answer(fake_sbatch, f"echo x >> {fake_sbatch}/calls; {script}")
    assert client.submit_with_retries(["sbatch", "script"], 1, "c", pauses=(0, 0)) == "17"
    assert (fake_sbatch / "calls").read_text() == "x\n"


def test_number_before_a_refusal_is_not_an_id(fake_sbatch: Path) -> None:
    answer(fake_sbatch, "echo 3; echo 'sbatch: error: Batch job submission failed: Invalid qos specification' >&2; "
           "exit 1")
    with pytest.raises(client.SbatchError, match="Invalid qos"):
        client.submit(["sbatch", "script"], 1)


def test_unknown_message_is_retried_a_few_times(fake_sbatch: Path) -> None:
    answer(fake_sbatch, f"echo x >> {fake_sbatch}/calls; echo something new >&2; exit 1")
    answer(fake_sbatch, "exit 0", "squeue")
    with pytest.raises(client.SbatchError) as refusal:
        client.submit_with_retries(["sbatch"], 1, "c", pauses=(0, 0, 0, 0))
    assert (refusal.value.kind, refusal.value.message) == ("unknown", "something new")
    assert (fake_sbatch / "calls").read_text() == "x\n" * 3


def test_unknown_message_after_which_the_job_is_queued_has_submitted(fake_sbatch: Path) -> None:
    answer(fake_sbatch, f"echo x >> {fake_sbatch}/calls; echo something new >&2; exit 1")
    answer(fake_sbatch, "echo '41|PENDING|1767225600|N/A|(Priority)|c-41'", "squeue")
    assert client.submit_with_retries(["sbatch"], 1, "c-41", pauses=(0, 0)) == "41"
    assert (fake_sbatch / "calls").read_text() == "x\n"


def test_nodes_that_are_away_now_are_a_warning(fake_sbatch: Path) -> None:
    refusal = "sbatch: error: allocation failure: Requested node configuration is not available"
    answer(fake_sbatch, f"echo '{refusal}' >&2; exit 1")
    answer(fake_sbatch, "echo idle; echo drained", "sinfo")
    assert client.validate(["sbatch", "s.sh", "spec"]) == client.Validation(warning=refusal)
    answer(fake_sbatch, "echo idle; echo mixed", "sinfo")
    with pytest.raises(client.SbatchError, match="node configuration"):
        client.validate(["sbatch", "s.sh", "spec"])


def test_answer_after_which_a_job_may_exist_is_ambiguous(fake_sbatch: Path) -> None:
    for script, message in (("echo queued, perhaps", "queued, perhaps"), ("kill -9 $$", "sbatch exited with code -9")):
        answer(fake_sbatch, script)
        with pytest.raises(client.SbatchError) as refusal:
            client.submit(["sbatch", "script"], 1)
        assert refusal.value.kind == "ambiguous"
        assert message in refusal.value.message


def test_submission_from_a_slurm_job_does_not_pass_on_its_variables(fake_sbatch: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_PROCID",
                 "SLURM_CONF", "GRIDIRON_TICKET"):
        monkeypatch.setenv(name, "5")
    answer(fake_sbatch, f"env | grep -E '^(SLURM|GRIDIRON_TICKET)' | sort > {fake_sbatch}/seen; echo 1")
    client.submit(["sbatch", "script"], 3)
    assert (fake_sbatch / "seen").read_text() == "GRIDIRON_TICKET=3\nSLURM_CONF=5\n"


def test_sbatch_takes_its_options_from_the_command_alone(fake_sbatch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SBATCH_PARTITION", "SBATCH_MEM_PER_NODE", "SBATCH_WAIT", "SBATCH_ARRAY_INX", "SBATCH_SITE_PLUGIN",
                 "SLURM_CLUSTERS"):
        monkeypatch.setenv(name, "1")
    answer(fake_sbatch, f"env | grep -E '^(SBATCH_|SLURM_CLUSTERS)' > {fake_sbatch}/seen; echo 1")
    client.submit(["sbatch", "script"], 1)
    assert (fake_sbatch / "seen").read_text() == "SBATCH_SITE_PLUGIN=1\n"


def test_submission_is_retried_until_the_controller_answers(fake_sbatch: Path) -> None:
    answer(fake_sbatch, f"test -e {fake_sbatch}/tried && echo 5 && exit; touch {fake_sbatch}/tried; "
           "echo Unable to contact slurm controller >&2; exit 1")
    assert client.submit_with_retries(["sbatch"], 1, "c", pauses=(0,)) == "5"


def test_after_a_lost_answer_squeue_is_queried_before_sbatch(fake_sbatch: Path) -> None:
    answer(fake_sbatch, f"echo x >> {fake_sbatch}/calls; echo Socket timed out >&2; exit 1")
    answer(fake_sbatch, "echo '41|PENDING|2026-01-01T00:00:00|N/A|(Priority)|c-41'", "squeue")
    assert client.submit_with_retries(["sbatch"], 1, "c-41", pauses=(0, 0)) == "41"
    assert (fake_sbatch / "calls").read_text() == "x\n"


def test_after_a_lost_answer_nothing_is_submitted_without_squeue(fake_sbatch: Path) -> None:
    answer(fake_sbatch, f"echo x >> {fake_sbatch}/calls; echo Socket timed out >&2; exit 1")
    answer(fake_sbatch, "exit 1", "squeue")
    with pytest.raises(client.SbatchError) as refusal:
        client.submit_with_retries(["sbatch"], 1, ["c-41"], pauses=(0, 0))
    assert refusal.value.kind == "ambiguous"
    assert (fake_sbatch / "calls").read_text() == "x\n"


def test_error_after_a_lost_answer_stays_ambiguous(fake_sbatch: Path) -> None:
    answer(fake_sbatch, f"test -e {fake_sbatch}/tried && echo Invalid account >&2 && exit 1; "
           f"touch {fake_sbatch}/tried; echo Socket timed out >&2; exit 1")
    answer(fake_sbatch, "exit 0", "squeue")
    with pytest.raises(client.SbatchError) as refusal:
        client.submit_with_retries(["sbatch"], 1, ["c-41"], pauses=(0, 0))
    assert (refusal.value.kind, refusal.value.message) == ("ambiguous", "Socket timed out; then: Invalid account")


def test_last_attempt_raises_the_message_of_slurm(fake_sbatch: Path) -> None:
    answer(fake_sbatch, f"echo x >> {fake_sbatch}/calls; echo Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(client.SbatchError) as refusal:
        client.submit_with_retries(["sbatch"], 1, "c", pauses=(0, 0))
    assert refusal.value.kind == "unavailable"
    assert (fake_sbatch / "calls").read_text() == "x\n" * 3


def test_rows_of_squeue_and_sacct_are_parsed(fake_sbatch: Path) -> None:
    answer(fake_sbatch, "printf '1|RUNNING|1700000000|1700000009|None|a|b\\n"
                        "2_3|PENDING|N/A|1800000000|(Resources)|\\n'", "squeue")
    answer(fake_sbatch, "printf '1|CANCELLED by 0|1700000000|0:15|5\\n2|FAILED|N/A|1:0|UNLIMITED\\n'", "sacct")
    queue = client.squeue()
    assert queue.answered
    assert queue.jobs["1"].comment == "a|b"
    assert queue.jobs["1"].submitted == 1.7e9
    assert queue.jobs["2_3"].submitted is None
    assert queue.expected_starts() == {"2_3": 1.8e9}
    assert client.sacct(0).jobs == {"1": client.Job("1", "CANCELLED", "0:15", submitted=1.7e9, time_limit=300),
                                    "2": client.Job("2", "FAILED", "1:0")}
    answer(fake_sbatch, "exit 1", "squeue")
    assert not client.squeue().answered


@given(folder=st.text(st.characters(exclude_characters="\0/", exclude_categories=("Cs",)), min_size=1))
def test_arguments_with_blanks_stay_single_arguments(folder: str) -> None:
    command = client.sbatch_command("name", f"/r/{folder}/%j.out", "c", ["--mem=8G"], "s.sh", f"/r/{folder}/spec", "/p")
    assert command[-1] == f"/r/{folder}/spec"
    assert len(command) == 9
    assert command[4].count("%") % 2 == 1  # the %j, and pairs


def test_options_become_arguments() -> None:
    assert client.option_arguments(
        {"mem": "8G", "requeue": True, "nice": None, "cpus_per_task": 4, "hold": False}, "x") == [
        "--mem=8G", "--requeue", "--cpus-per-task=4"]


@pytest.mark.parametrize("options", [{"output": "x"}, {"comment": "x"}, {"me m": 1}, {"mem": [1]}, {"-p": "x"}])
def test_invalid_options_are_errors(options: dict[str, object]) -> None:
    with pytest.raises(JobSpecError, match="job.yaml"):
        client.option_arguments(options, "job.yaml")


def test_filters_in_the_environment_hide_no_job(fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_slurm.set(HiddenPartitions="killable")
    script = fake_slurm.folder / "script.sh"
    script.write_text("#!/bin/sh\n")
    job = client.submit(["sbatch", "--parsable", "--partition=killable", str(script)])
    for name, value in (("SQUEUE_PARTITION", "owner"), ("SQUEUE_STATES", "RUNNING"), ("SCANCEL_PARTITION", "owner"),
                        ("SCANCEL_STATE", "RUNNING"), ("SLURM_TIME_FORMAT", "relative")):
        monkeypatch.setenv(name, value)
    assert list(client.squeue().jobs) == [job]
    assert fake_slurm.calls("squeue")[-1].env["SLURM_TIME_FORMAT"] == "%s"
    client.scancel([job])
    assert fake_slurm.job(job)["State"] == "CANCELLED"
    assert client.sacct(0).jobs[job].state == "CANCELLED"


@pytest.mark.parametrize(("error", "has_answered"), [
    ("sacct: error: Slurm accounting storage is disabled", True),
    ("sacct: error: Problem talking to the database: Connection refused", False), ("", False)])
def test_failing_sacct_is_not_taken_for_a_cluster_without_accounting(error: str, has_answered: bool,
                                                                     fake_sbatch: Path) -> None:
    answer(fake_sbatch, f"echo '{error}' >&2; exit 1", "sacct")
    assert client.sacct(0) == client.Accounting(has_answered)
    answer(fake_sbatch, """case "$*" in *--clusters=c2*) exit 1;; *) echo '7|TIMEOUT|1700000000|0:0|5';; esac""",
           "sacct")
    partial = client.sacct(0, ["", "c2"])
    assert (partial.answered, list(partial.jobs)) == (False, ["7"])


def test_squeue_that_fails_for_one_of_two_clusters_has_not_answered(fake_sbatch: Path) -> None:
    answer(fake_sbatch, """case "$*" in *--clusters=c2*) exit 1;; *) echo '7|RUNNING|1|2|None|c';; esac""", "squeue")
    queue = client.squeue(["", "c2"])
    assert (queue.answered, list(queue.jobs)) == (False, ["7"])
    assert client.squeue([""]).answered


def test_without_sacct_there_is_no_accounting(fake_sbatch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fake_sbatch))
    (fake_sbatch / "sacct").unlink(missing_ok=True)
    assert client.sacct(0) == client.Accounting(True)


@pytest.mark.parametrize("message", ["squeue: unrecognized option '--me'", "squeue: unrecognized option: me"])
def test_squeue_without_me_is_given_the_user(message: str, fake_sbatch: Path) -> None:
    answer(fake_sbatch, f'case "$*" in *--me*) echo "{message}" >&2; exit 1;; *--user={os.getuid()}*) '
                  'echo "5|RUNNING|1|2|None|c";; esac', "squeue")
    assert list(client.squeue().jobs) == ["5"]


def test_window_of_sacct_is_in_utc(fake_sbatch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the hour after 2026-10-25 02:00 occurs twice in Berlin; 01:30 UTC is in the second one
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    answer(fake_sbatch, f'echo "$TZ $*" > {fake_sbatch}/call', "sacct")
    client.sacct(calendar.timegm((2026, 10, 25, 1, 30, 0)))
    call = (fake_sbatch / "call").read_text()
    assert call.startswith("UTC0 ")
    assert "--starttime=2026-10-25T01:29:00" in call
    monkeypatch.undo()
    time.tzset()


def test_rows_of_arrays_and_heterogeneous_jobs_are_found(fake_sbatch: Path) -> None:
    rows = ("2_[0-1,4%2]|PENDING", "2_3|RUNNING", "28+0|RUNNING", "28+1|RUNNING", "5_[0-9,12-...|PENDING")
    answer(fake_sbatch, "\n".join(f"echo '{row}|1700000000|N/A|None|c'" for row in rows), "squeue")
    queue = client.squeue()
    found = {job: row.id for job in ("2", "2_0", "2_4", "2_2", "28", "5_777", "5", "3") if (row := queue.find(job))}
    assert found == {"2": "2_3", "2_0": "2_0", "2_4": "2_4", "28": "28", "5_777": "5_[0-9,12-...", "5": "5_[0-9,12-..."}
    assert queue.newest_with_comment("c") == "28"
    assert "28" in (ids := queue.job_ids([("c", "")])) and "28+1" not in ids


def test_scancel_of_a_job_that_is_gone_cancels_the_others(fake_sbatch: Path) -> None:
    gone = "scancel: error: Kill job error on job id 7: Invalid job id specified"
    answer(fake_sbatch, f"echo '{gone}' >&2; exit 1", "scancel")
    assert client.scancel(["6", "7"]) == ["7"]
    for refusal in ("Kill job error on job id 8: Access/permission denied", "Unable to contact slurm controller"):
        answer(fake_sbatch, f"printf '{gone}\nscancel: error: {refusal}\n' >&2; exit 1", "scancel")
        with pytest.raises(SlurmError, match=refusal) as error:
            client.scancel(["6", "7", "8"])
        assert "job id 7" not in str(error.value)


@pytest.mark.parametrize(("arguments", "script", "clusters"), [
    ([], "", []), ([], "#SBATCH -M c2\n", ["c2"]), (["--clusters=c6,c7"], "#SBATCH --clusters=c2\n", ["c6", "c7"])])
def test_target_clusters_as_sbatch_chooses_them(arguments: list[str], script: str, clusters: list[str], tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CLUSTERS", "c3")  # part of the command, or of another shell
    (tmp_path / "s.sh").write_text(f"#!/bin/sh\n{script}")
    assert client.target_clusters(["sbatch", *arguments, str(tmp_path / "s.sh"), "spec.yaml"]) == clusters


def test_scontrol_is_called_for_the_cluster_of_the_job(fake_sbatch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a job, whose id has no cluster, for that of its node, although it inherits the variable."""
    monkeypatch.setenv("SLURM_CLUSTERS", "c3")
    for name in ("scontrol", "squeue"):
        answer(fake_sbatch, f'echo "$SLURM_CLUSTERS|$*" >> {fake_sbatch}/calls; echo 17', name)
    client.show_job("12;c2")
    client.show_job("12")
    assert client.requeue("12") is None
    assert client.end_time("12") == 17
    assert (fake_sbatch / "calls").read_text().splitlines() == [
        "c3|--clusters=c2 --all --oneliner show job 12", "|--all --oneliner show job 12", "|requeue 12",
        "|--all --noheader --jobs=12 --format=%e"]


@pytest.mark.parametrize(("name", "option"), [
    ("wra", "wrap"), ("wrap", "wrap"), ("outpu", "output"), ("comm", "comment"), ("par", "parsable"), ("arra", "array"),
    ("job_na", "job-name"), ("test", "test-only"), ("chd", "chdir"), ("workdir", "chdir"), ("workd", "chdir"),
    ("wai", "wait")])
def test_abbreviations_of_options_that_are_set_are_refused(name: str, option: str) -> None:
    """sbatch accepts the beginning of a long option, and earlier names of some."""
    with pytest.raises(JobSpecError, match=f"sbatch option '{option}'.* set by Gridiron"):
        client.option_arguments({name: "touch x"}, "job.yaml")


def test_options_with_a_similar_name_are_passed_on() -> None:
    options = {"wait-all-nodes": 1, "comments": "x", "error": "x", "nice": 3, "mem-per-cpu": "1G", "time-min": 5}
    assert len(client.option_arguments(options, "job.yaml")) == len(options)


@pytest.mark.parametrize(("line", "option"), [
    ("--arr=0-3", "array"), ("-a 0-3", "array"), ("--test", "test-only"), ("-W", "wait"), ("--wai", "wait")])
def test_script_cannot_abbreviate_refused_options(line: str, option: str) -> None:
    with pytest.raises(JobSpecError, match=f"cannot have the option --{option}"):
        script_options.check("s.sh", f"#!/bin/bash\n#SBATCH {line}\n", {})
    script_options.check("s.sh", "#!/bin/bash\n#SBATCH --wait-all-nodes=1\n", {})


@pytest.mark.parametrize("text", ["12_[0-99999999999]", "12_[0-999999,0-999999]", "12_[5-1]", "12_[", "12_[,]"])
def test_an_array_of_impossible_size_is_one_job(text: str) -> None:
    assert client._job_ids(text) in ([text], [])


@pytest.mark.parametrize("row", ["12|COMPLETED|{n}|0:0|{n}", "12| |{n}|0:0|60", "{n}|x|x|x|x"])
def test_numbers_of_any_length_are_read(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = row.format(n="9" * 5000)
    monkeypatch.setattr(client, "_call", lambda command, **_: CompletedProcess(command, 0, answer, ""))
    assert client.sacct(0.0).answered and client.squeue().answered
