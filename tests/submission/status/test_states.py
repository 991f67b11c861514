"""The state of a run from every combination of evidence that was seen on a real cluster."""
from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from src import run_folder
from src.run_folder import RunFolder
from src.submission.batch.journal import LOCAL, SLURM, Ticket
from src.submission.slurm import job_states
from src.submission.slurm.client import Accounting, Job, Queue
from src.submission.status import retry_policy, states
from src.submission.status.states import Evidence

NOW = 1_000_000.0


def test_each_word_of_slurm_for_an_end_is_a_state_of_runs() -> None:
    assert states._SLURM_ENDED.keys() == {*job_states.ENDED} - {job_states.COMPLETED}


def state(end: str | None = None, ticket: Ticket | None = None, queue: Queue | None = None, accounting: dict[str,
          Job] | None = None, sacct_answered: bool = True, claim: dict[str, Any] | None = None,
          claim_alive: bool | None = None,
          submitter_alive: bool | None = False, attempt: dict[str, Any] | None = None, tmp: Any = None,
          heartbeat_age: float = 1e6) -> states.State:
    folder = RunFolder("run", frozenset())
    if end is not None:
        (tmp / run_folder.DONE).write_text(f"{end}\n")
        folder = RunFolder.read(tmp)
    return states.state_of(Evidence(folder, ticket, queue or Queue(True), Accounting(sacct_answered, accounting or {}),
                                    claim or {}, claim_alive, submitter_alive, attempt, NOW, lambda: heartbeat_age))


def slurm_ticket(age: float = 1000.0, jobs: list[str] | None = None, sent: bool = True) -> Ticket:
    return Ticket(1, NOW - age, SLURM, {}, [("c-1", "")], ["7"] if jobs is None else jobs, sent)


def queue_with(state: str, reason: str = "", job: str = "7", comment: str = "") -> Queue:
    return Queue(True, {job: Job(job, state, reason, comment)})


@pytest.mark.parametrize(("end", "expected"), [("completed", "done"), ("early_stopped", "early_stopped"),
                                               ("diverged", "diverged"), ("", "done")])
def test_done_file_decides(end: str, expected: str, tmp_path: Any) -> None:
    assert state(end, slurm_ticket(), queue_with("RUNNING"), tmp=tmp_path).name == expected


def test_unknown_state_in_squeue_counts_as_running() -> None:
    assert state(ticket=slurm_ticket(), queue=queue_with("EXPEDITING")) == states.State("running", "EXPEDITING", "7")


@pytest.mark.parametrize(("row", "reason", "expected"), [
    ("REQUEUE_HOLD", "", "failed"), ("SPECIAL_EXIT", "(JobHeldUser)", "failed"), ("PENDING", "(JobHeldUser)", "failed"),
    ("PENDING", "(BeginTime)", "pending")])
def test_held_job_whose_attempt_failed_is_failed(row: str, reason: str, expected: str) -> None:
    record = {"ticket": 1, "how": "failed", "error": "ValueError: no"}
    assert state(ticket=slurm_ticket(), queue=queue_with(row, reason), attempt=record).name == expected


@pytest.mark.parametrize(("attempt", "reason", "why"), [
    ({"how": "requeued", "end": 1.0}, "(BeginTime)", "continues (start 2)"),
    ({"how": "preempted", "end": 1.0}, "(None)", "continues (start 2)"),
    ({"how": "requeued", "end": 1.0}, "(Priority)", "continues (start 2), Priority"),
    (None, "(BeginTime)", "BeginTime"),  # sbatch --begin
    ({"how": "requeued", "end": 1.0, "ticket": 3}, "(Resources)", "Resources")])  # of an earlier ticket
def test_pending_run_that_continues_shows_its_next_start(attempt: dict[str, Any] | None, reason: str, why: str,
                                                        tmp_path: Any) -> None:
    (tmp_path / "attempt-1-0.json").touch()
    record = {"ticket": 1, **attempt} if attempt else None
    evidence = Evidence(RunFolder.read(tmp_path), slurm_ticket(), queue_with("PENDING", reason), Accounting(), {}, None,
                        False, record, NOW)
    assert states.state_of(evidence) == states.State("pending", why, "7")


def test_job_whose_output_could_not_be_opened_is_explained_by_squeue_and_by_sacct() -> None:
    expected = ("failed", "Slurm could not open the job's output (exit code 0:53): run/7.out", "7")
    assert state(ticket=slurm_ticket(), queue=queue_with("FAILED", "RaisedSignal:53(Real-time_signal_19)")) == expected
    assert state(ticket=slurm_ticket(), accounting={"7": Job("7", "FAILED", "0:53")}) == expected


def test_run_is_lost_only_if_sacct_and_its_files_agree() -> None:
    assert state(ticket=slurm_ticket()).name == "lost"
    assert state(ticket=slurm_ticket(), sacct_answered=False) == (
        "unknown", "squeue does not list it, and sacct did not answer", "7")
    assert state(ticket=slurm_ticket(), heartbeat_age=10) == states.State(
        "unknown", "squeue does not list it, but its files changed 10 s ago", "7")
    for row in ("RUNNING", "PENDING"):
        found = state(ticket=slurm_ticket(), accounting={"7": Job("7", row, submitted=NOW - 1000)})
        assert (found.name, found.why) == ("unknown", f"sacct lists it as {row}, squeue does not list it")
    failed_node = {"7": Job("7", "NODE_FAIL", submitted=NOW - 1000)}
    assert state(ticket=slurm_ticket(), accounting=failed_node, heartbeat_age=10).name == "unknown"
    assert state(ticket=slurm_ticket(), accounting=failed_node).name == "node_failed"


def test_no_ticket_is_new() -> None:
    assert state().name == "new"


@pytest.mark.parametrize(("row", "reason", "expected"), [
    ("PENDING", "(Priority)", "pending"), ("PENDING", "(PartitionTimeLimit)", "stuck"),
    ("PENDING", "launch failed requeued held", "stuck"),
    *(("PENDING", f"({reason})", "stuck") for reason in (
        "AssocMaxWallDurationPerJobLimit", "AssocMaxCpuPerJobLimit", "QOSMaxGRESPerJob", "QOSMaxCpuPerNode",
        "QOSMinGRES", "user_env_retrieval_failed_requeued_held", "job_requeued_in_held_state")),
    *(("PENDING", f"({reason})", "pending") for reason in (
        "AssocGrpCpuLimit", "QOSMaxCpuPerUserLimit", "QOSMaxJobsPerUserLimit", "JobHeldUser", "PartitionDown")),
    ("REQUEUE_HOLD", "(JobHeldUser)", "stuck"),
    ("PENDING", "(BeginTime)", "pending"), ("RUNNING", "", "running")])
def test_state_of_a_queued_job(row: str, reason: str, expected: str) -> None:
    found = state(ticket=slurm_ticket(), queue=queue_with(row, reason))
    assert (found.name, found.slurm_job) == (expected, "7")
    assert found.why == reason.strip("()")


@pytest.mark.parametrize(("row", "reason", "expected", "why"), [
    ("PENDING", "None", "pending", ""), ("RUNNING", "None", "running", ""),
    ("COMPLETING", "None", "running", "its job is ending"),
    ("TIMEOUT", "TimeLimit", "timeout", "reached its time limit"),
    ("NODE_FAIL", "None", "node_failed", "its node failed"),
    ("OUT_OF_MEMORY", "OutOfMemory", "out_of_memory", "exceeded the memory of its job"),
    ("FAILED", "RaisedSignal:9(Killed)", "failed", "killed by signal 9 (out of memory, or by hand)"),
    ("FAILED", "NonZeroExitCode", "failed", "its job failed")])
def test_reason_in_the_queue_says_what_happened(row: str, reason: str, expected: str, why: str) -> None:
    assert state(ticket=slurm_ticket(), queue=queue_with(row, reason)) == states.State(expected, why, "7")


@pytest.mark.parametrize(("row", "exit_code", "attempt", "why"), [
    ("FAILED", "0:9", {}, "killed by signal 9 (out of memory, or by hand)"),
    ("FAILED", "137:0", {}, "killed by signal 9 (out of memory, or by hand)"),  # behind a shell
    ("FAILED", "0:11", {}, "killed by signal 11 (Segmentation fault)"),
    ("FAILED", "1:0", {}, "its job ended with exit status 1"),
    ("FAILED", "1:0", {"how": "failed", "error": "ValueError: no"}, "ValueError: no"),
    ("CANCELLED", "0:15", {}, "cancelled by scancel"),
    ("CANCELLED", "0:0", None, "cancelled before it started, by scancel or because a dependency failed"),
    ("CANCELLED", "0:15", {"how": "failed", "error": "ValueError: no"}, "ValueError: no"),
    ("TIMEOUT", "0:15", {"how": "cancelled", "error": "cancelled by scancel"}, "reached its time limit of 5:00"),
    ("TIMEOUT", "0:15", {"how": "timeout", "error": "time limit near; the disk is full"},
     "time limit near; the disk is full"),
    ("PREEMPTED", "0:0", {}, "preempted by another job"), ("NODE_FAIL", "1:0", {}, "its node failed"),
    ("BOOT_FAIL", "0:0", None, "its node did not boot"), ("DEADLINE", "0:0", {}, "reached its deadline"),
    ("OUT_OF_MEMORY", "0:125", {}, "exceeded the memory of its job")])
def test_end_that_slurm_reports_is_described(row: str, exit_code: str, attempt: dict[str, Any] | None, why: str,
                                             ) -> None:
    job = Job("7", row, exit_code, submitted=NOW - 1000, time_limit=300)
    record = None if attempt is None else {"ticket": 1, **attempt}
    assert state(ticket=slurm_ticket(), accounting={"7": job}, attempt=record).why == why


def test_job_whose_id_was_lost_is_found_by_its_comment() -> None:
    ticket = slurm_ticket(jobs=[])
    assert state(ticket=ticket, queue=queue_with("PENDING", job="9", comment="c-1")).slurm_job == "9"
    assert state(ticket=ticket, queue=queue_with("PENDING", job="9", comment="other")).name == "new"
    assert state(ticket=ticket, queue=Queue(False)).name == "unknown"
    assert state(ticket=ticket, submitter_alive=True).name == "submitted"
    assert state(ticket=slurm_ticket(jobs=[], sent=False), queue=Queue(False)).name == "new"


@pytest.mark.parametrize(("row", "expected"), [
    ("TIMEOUT", "timeout"), ("OUT_OF_MEMORY", "out_of_memory"), ("CANCELLED", "cancelled"), ("PREEMPTED", "preempted"),
    ("NODE_FAIL", "node_failed"), ("FAILED", "failed"), ("BOOT_FAIL", "node_failed"), ("DEADLINE", "timeout")])
def test_state_from_sacct(row: str, expected: str) -> None:
    job = Job("7", row, submitted=NOW - 1000)
    assert state(ticket=slurm_ticket(), accounting={"7": job}).name == expected


def test_old_row_of_a_reused_job_id_is_ignored() -> None:
    long_ago = Job("7", "FAILED", submitted=NOW - 1e6)
    assert state(ticket=slurm_ticket(), accounting={"7": long_ago}).name == "lost"


def test_without_sacct_the_attempt_record_and_the_age_decide() -> None:
    record = {"ticket": 1, "how": "failed", "error": "ValueError: no"}
    found = state(ticket=slurm_ticket(), attempt=record)
    assert (found.name, found.why) == ("failed", "ValueError: no")
    assert state(ticket=slurm_ticket(age=10)).name == "unknown"
    assert state(ticket=slurm_ticket()).name == "lost"
    assert state(ticket=slurm_ticket(), queue=Queue(False)).name == "unknown"


@pytest.mark.parametrize(("how", "expected"), [("failed", "failed"), ("cancelled", "unknown"), ("timeout", "unknown")])
def test_without_squeue_what_may_have_been_requeued_is_unknown(how: str, expected: str) -> None:
    """A preempted job gets TERM, records `cancelled`, and waits in the queue again: a retry would run it twice."""
    record = {"ticket": 1, "how": how}
    assert state(ticket=slurm_ticket(), queue=Queue(False), attempt=record).name == expected
    assert state(ticket=slurm_ticket(), attempt=record).name == how
    for row, found in (("PREEMPTED", "unknown"), ("NODE_FAIL", "unknown"), ("FAILED", "failed")):
        accounting = {"7": Job("7", row, submitted=NOW - 1000)}
        assert state(ticket=slurm_ticket(), queue=Queue(False), accounting=accounting).name == found


@pytest.mark.parametrize(("age", "expected"), [(10, "unknown"), (-10, "unknown"), (1e6, "lost"), (-1e6, "lost")])
def test_ticket_in_the_near_future_is_recent(age: float, expected: str) -> None:
    assert state(ticket=slurm_ticket(age=age)).name == expected


def test_job_id_reused_by_another_submission_is_ignored() -> None:
    ticket = slurm_ticket()
    assert state(ticket=ticket, queue=queue_with("RUNNING", comment="gridiron-other-003-1")).name == "lost"
    assert state(ticket=ticket, queue=queue_with("RUNNING", comment="c-1")).name == "running"
    assert state(ticket=ticket, queue=queue_with("RUNNING", comment="the site's own words")).name == "running"


def test_attempt_of_an_earlier_ticket_is_ignored() -> None:
    ticket = Ticket(2, NOW - 10, SLURM, {}, [("c-2", "")], ["8"], True)
    record = {"ticket": 1, "how": "failed"}
    assert state(ticket=ticket, queue=queue_with("PENDING", job="8"), attempt=record).name == "pending"
    assert state(ticket=ticket, attempt=record).name == "unknown"


def test_of_two_jobs_with_one_ticket_the_claiming_one_decides() -> None:
    ticket = slurm_ticket(jobs=["7", "8"])
    queue = Queue(True, {"7": Job("7", "PENDING"), "8": Job("8", "RUNNING")})
    assert state(ticket=ticket, queue=queue, claim={"slurm_job": "8"}).slurm_job == "8"


def test_failed_run_of_a_running_worker_is_failed() -> None:
    record = {"ticket": 1, "how": "failed", "error": "boom"}
    assert state(ticket=slurm_ticket(), queue=queue_with("RUNNING"), claim={"slurm_job": "7"},
                 attempt=record).name == "failed"
    assert state(ticket=slurm_ticket(), queue=queue_with("PENDING"), attempt=record).name == "pending"  # requeued


def test_states_of_runs_that_share_workers() -> None:
    ticket = Ticket(1, NOW - 1000, SLURM, {}, [], ["7", "8"], True, shared=True)
    assert state(ticket=ticket, queue=queue_with("RUNNING")).name == "pending"
    assert state(ticket=ticket).name == "new"  # the workers have ended: it may be submitted again
    for proof in ({"heartbeat_age": 10}, {"sacct_answered": False}, {"accounting": {"7": Job("7", "RUNNING")}}):
        assert state(ticket=ticket, **proof) == (  # type: ignore[arg-type]
            "unknown", "squeue does not list its workers, which may be running", "8")
    recent = Ticket(1, NOW - 10, SLURM, {}, [], ["7", "8"], True, shared=True)
    assert state(ticket=recent).name == "unknown"
    ended = {"7": Job("7", "COMPLETED"), "8": Job("8", "FAILED")}
    assert state(ticket=recent, accounting=ended).name == "new"
    assert state(ticket=ticket, queue=Queue(False)).name == "unknown"
    assert state(ticket=ticket, queue=queue_with("RUNNING", job="8"), claim={"slurm_job": "8"}).name == "running"


def test_array_task_is_found_by_comment_and_index() -> None:
    ticket = Ticket(1, NOW, SLURM, {}, [("c-1", "3")], [], True)
    queue = Queue(True, {job: Job(job, "PENDING", comment="c-1") for job in ("9_2", "9_3")})
    assert state(ticket=ticket, queue=queue).slurm_job == "9_3"


def test_states_of_local_runs() -> None:
    ticket = Ticket(1, NOW, LOCAL, {})
    claim = {"pid": 1}
    assert state(ticket=ticket, submitter_alive=True).name == "pending"
    assert state(ticket=ticket, submitter_alive=False).name == "new"
    assert state(ticket=ticket, claim=claim, claim_alive=True).name == "running"
    assert state(ticket=ticket, claim=claim, claim_alive=False).name == "lost"
    elsewhere = state(ticket=ticket, claim={**claim, "host": "node7"}, claim_alive=None)
    assert elsewhere.name == "unknown"
    assert "node7" in elsewhere.why
    assert "remove" in elsewhere.why
    for how, expected in (("failed", "failed"), ("cancelled", "cancelled"), ("a word of later", "failed")):
        assert state(ticket=ticket, claim=claim, claim_alive=False, attempt={"ticket": 1, "how": how}).name == expected


def test_every_state_is_ended_alive_retried_or_unknown() -> None:
    groups = [retry_policy.CLOSED, retry_policy.ALIVE, retry_policy.RETRIED, {states.UNKNOWN}]
    assert sorted(name for group in groups for name in group) == sorted(states.ALL)
    assert list(retry_policy.POLICIES) == list(states.ALL)


def combinations() -> Iterator[Evidence]:
    """Evidence of many kinds combined, possible or not."""
    folders = [RunFolder("run", frozenset(), ended=end) for end in (None, "completed")]
    tickets = [None, *(Ticket(1, NOW - age, mode, {}, [], jobs, sent, shared) for age in (10, 1000)
                       for mode, jobs, sent, shared in ((LOCAL, [], False, False), (SLURM, [], False, False),
                                                        (SLURM, [], True, False), (SLURM, ["7"], True, False),
                                                        (SLURM, ["7"], True, True)))]
    queues = [Queue(False), Queue(True), queue_with("RUNNING"), queue_with("PENDING"), queue_with("TIMEOUT"),
              queue_with("PENDING", "(PartitionTimeLimit)")]
    accounts = [Accounting(False), Accounting(), *(
        Accounting(True, {"7": Job("7", row)}) for row in ("FAILED", "TIMEOUT", "NODE_FAIL", "RUNNING"))]
    claims: list[dict[str, Any]] = [{}, {"pid": 1}, {"slurm_job": "7"}]
    attempts = [None, *({"ticket": 1, "how": how, "slurm_job": "7"} for how in (
        None, "failed", "timeout", "requeued", "paused"))]
    for folder, ticket, queue, accounting, claim, claim_alive, submitter_alive, attempt in itertools.product(
            folders, tickets, queues, accounts, claims, (True, False, None), (True, False), attempts):
        has_heartbeat = attempt is not None and attempt["how"] is None and claim_alive
        yield Evidence(folder, ticket, queue, accounting, claim, claim_alive, submitter_alive, attempt, NOW,
                       lambda age=10.0 if has_heartbeat else 1e6: age)


# how many of the combinations each rule decides, and the states that follow
DECIDED = """
 1 done 42768
 2
 3 paused 7128
 4 new 648
 5 pending 1440
 6 failed 612
 7 running 2412
 8 stuck 3024
 9 pending 3024
10 timeout 3024
11 failed 1800, timeout 1800
12 running 1728
13 unknown 1728
14 lost 1728
15 pending 1512
16 new 2520
17 unknown 152
18 new 208
19 submitted 2160
20 unknown 180
21 new 1980
22 unknown 44
23 failed 792, node_failed 280, timeout 540
24 unknown 1704
25 unknown 300
26 unknown 90
27 unknown 90
28 unknown 10
29 lost 110
"""


def test_rules_decide_every_combination_as_recorded() -> None:
    decided: dict[int, Counter[str]] = {number: Counter() for number in range(1, len(states.RULES) + 1)}
    for evidence in combinations():
        rule = states.rule_of(evidence)
        name = states.state_of(evidence).name
        assert name in rule.states, f"'{rule.condition}' does not list {name}"
        decided[states.RULES.index(rule) + 1][name] += 1
    lines = [f"{number:2} {', '.join(f'{name} {count}' for name, count in sorted(names.items()))}".rstrip()
             for number, names in decided.items()]
    assert lines == DECIDED.strip("\n").splitlines()


def test_run_without_a_folder_is_deleted_unless_it_may_be_alive() -> None:
    names: Counter[str] = Counter()
    for evidence in combinations():
        if evidence.done_content is None and not evidence.last_attempt and not evidence.claim:
            before = states.state_of(evidence).name
            name = states.state_of(evidence._replace(files=None)).name
            assert name == (before if before in retry_policy.MAYBE_ALIVE else states.DELETED)
            names[name] += 1
    assert {states.DELETED, states.PENDING, states.UNKNOWN} <= names.keys()


def test_tables_are_printed_for_the_documentation() -> None:
    rules = states.as_markdown().splitlines()
    assert len(rules) == len(states.RULES) + 2
    assert all(line.count("|") == 5 for line in rules), "a | within a cell"
    assert {name for rule in states.RULES for name in rule.states} == set(states.ALL)
    assert [line.split(" | ")[0].strip("| ") for line in retry_policy.as_markdown().splitlines()[2:]] == [
        states.shown(name) for name in states.ALL]
