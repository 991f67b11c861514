"""Slurm's commands: build their arguments, run them, parse their output, and classify errors of sbatch."""
from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from src.errors import JobSpecError, SlurmError
from src.frozen import Frozen, field
from src.io import files, slurm_environment
from src.submission.slurm import directives, job_states, sbatch_messages
from src.submission.system import process

if TYPE_CHECKING:
    from subprocess import CompletedProcess

_RESERVED_OPTIONS = ("job-name", "output", "comment", "chdir", "parsable", "wrap", "array", "test-only", "wait")
_PAUSES = (1, 4, 15, 45)  # seconds between attempts while the controller is unavailable
_MAX_UNKNOWN_ANSWERS = 3  # calls of sbatch that answer with an unknown message


class SbatchError(Exception):
    """sbatch did not return a job id. kind: of sbatch_messages.py; message: of sbatch."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind, self.message = kind, message


class Job(NamedTuple):
    """One row of squeue or sacct: a Slurm job, or one task of an array. Times are unix seconds.

    The id is `12`, `12_3` for a task, and with `;NAME` at the end on a cluster other than this machine's.
    The reason of a row of sacct is its exit code, as `0:53`. start: of a pending job, when Slurm expects to start it.
    """

    id: str
    state: str  # PENDING, RUNNING, COMPLETED, TIMEOUT …
    reason: str = ""
    comment: str = ""
    submitted: float | None = None
    start: float | None = None
    time_limit: int | None = None  # seconds


class Accounting(NamedTuple):
    """This user's jobs by id, as sacct lists them.

    answered: False if there is accounting and sacct failed: a job that it does not list may be running.
    """

    answered: bool = True
    jobs: Mapping[str, Job] = {}


class Queue(Frozen):
    """This user's jobs by id, as squeue lists them; empty if it did not answer."""

    answered: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)

    def find(self, job: str) -> Job | None:
        """Return the row of a job; for an array, that of a task, of a running one if there is any.

        A task may also be part of a row for many pending tasks that squeue has truncated.
        """
        row = self.jobs.get(job)
        if row or not self._tasks:
            return row
        tasks = self._tasks.get(array_of(job), [])
        if "_" in job.partition(";")[0]:
            return next((task for task in tasks if "[" in task.id), None)
        return next((task for task in tasks if task.state != "PENDING"), tasks[0] if tasks else None)

    @cached_property
    def _tasks(self) -> dict[str, list[Job]]:
        """The rows of array tasks by the id of their array."""
        tasks: dict[str, list[Job]] = {}
        for job in self.jobs.values():
            if "_" in job.id.partition(";")[0]:
                tasks.setdefault(array_of(job.id), []).append(job)
        return tasks

    @cached_property
    def _ids(self) -> dict[tuple[str, str], list[str]]:
        ids: dict[tuple[str, str], list[str]] = {}
        for job in self.jobs.values():
            if job.comment:
                ids.setdefault((job.comment, job.id.partition(";")[0].partition("_")[2]), []).append(job.id)
        return ids

    def job_ids(self, comments: Sequence[tuple[str, str]]) -> list[str]:
        """Return the ids of the jobs with one of the (comment, array task) pairs; the task is '' outside arrays."""
        ids = self._ids
        if len(comments) == 1:  # the usual case, for each of many runs
            return ids.get(comments[0], [])
        return [job for key in dict.fromkeys(comments) if key in ids for job in ids[key]]

    def expected_starts(self) -> dict[str, float]:
        """Return when Slurm expects to start pending jobs, unix seconds by id; unknown ones are left out."""
        return {job.id: job.start for job in self.jobs.values() if job.state == "PENDING" and job.start is not None}

    def newest_with_comment(self, comment: str) -> str | None:
        """Return the id of the newest job or array with the comment; None if there is none."""
        ids = (array_of(job.id) for job in self.jobs.values() if job.comment == comment)
        return max(ids, key=lambda job: int(job.partition(";")[0]), default=None)


def array_of(job: str) -> str:
    """Return the id without an array task: 12;NAME for 12_3;NAME."""
    local, semicolon, cluster = job.partition(";")
    return local.partition("_")[0] + semicolon + cluster


def max_array_size() -> int:
    """Return the cluster's MaxArraySize, one more than the highest index of a task; Slurm's default if unknown."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", query(["scontrol", "show", "config"]) or "", re.MULTILINE)
    return int(match[1]) if match else 1001


def require_sbatch() -> None:
    """Raise SlurmError unless sbatch is on the PATH."""
    from shutil import which  # not needed by a dry run

    if which("sbatch") is None:
        raise SlurmError("sbatch is not on the PATH: this machine has no Slurm", hint="run the same grid here with "
                         "--local (`--local --workers 4` for four runs at a time), or log in to the cluster")


def option_arguments(options: Mapping[str, Any], where: str) -> list[str]:
    """Convert a mapping to options of sbatch: {mem: 8G, requeue: true} -> [--mem=8G, --requeue].

    A value of false or null omits the option. where: names the mapping in a JobSpecError.
    """
    arguments = []
    for key, value in options.items():
        if not re.fullmatch(r"[a-z][a-z0-9-]*", str(key).replace("_", "-")):
            raise JobSpecError(f"'{key}' is not an sbatch option", where=where,
                               allowed="long names such as mem, time, partition")
        name = str(key).replace("_", "-")
        if reserved := directives.abbreviated(name, _RESERVED_OPTIONS):
            raise JobSpecError(f"the sbatch option '{reserved}' is set by Gridiron" if name == reserved else
                               f"'{name}' is a form of the sbatch option '{reserved}', which is set by Gridiron",
                               where=where, hint="remove it")
        if value is None or value is False:
            continue
        if isinstance(value, (list, dict)) or "\0" in str(value):
            raise JobSpecError(f"the sbatch option '{name}' has the value {value!r}", where=where,
                               allowed="a string, a number, true or null")
        arguments.append(f"--{name}" if value is True else f"--{name}={value}")
    return arguments


def sbatch_command(name: str, log: str, comment: str, options: Iterable[str], script: str, path: str,
                   project: str) -> list[str]:
    """Return the sbatch command for one Slurm job, which starts in `project`.

    log: a path whose last part may contain Slurm's patterns (%j, %A); % signs in its folder are escaped;
    path: a spec or a task file, the argument of the script.
    """
    folder, pattern = os.path.split(log)
    return ["sbatch", "--parsable", f"--chdir={project}", f"--job-name={name}",
            f"--output={os.path.join(folder.replace('%', '%%'), pattern)}", f"--comment={comment}", *options, script,
            path]


def submit(command: list[str], ticket: int | None = None) -> str:
    """Call sbatch and return the id of the Slurm job, `12;NAME` on another cluster. SbatchError if there is none.

    The ticket is passed in the environment, which Slurm gives to the job; sites that do not still have the journal.
    """
    environment = _sbatch_environment()
    if ticket is not None:
        environment["GRIDIRON_TICKET"] = str(ticket)
    try:
        answer = _call(command, env=environment)
    except FileNotFoundError:
        raise SbatchError(sbatch_messages.PERMANENT, "sbatch is not on the PATH") from None
    # ID or ID;CLUSTER on a line of its own: the sbatch of some sites prints a greeting before it
    ids = re.findall(r"^\s*(?:Submitted batch job )?(\d+)(?:(?:;| on cluster )(\S+))?\s*$", answer.stdout, re.MULTILINE)
    # with --wait, sbatch exits with the code of the job; wrappers of sites fail after sbatch has succeeded
    if ids and "submission failed" not in answer.stderr:
        job, cluster = ids[-1]
        return job + _suffix(cluster)
    message = _message_of(answer)
    # success without an id, or an sbatch that was killed, may have submitted a job
    raise SbatchError(sbatch_messages.AMBIGUOUS if answer.returncode <= 0 else sbatch_messages.classify(message),
                      message)


class Validation(NamedTuple):
    """The answer of `sbatch --test-only`: the expected start, as `2026-11-20T12:00:00`, and a warning, if any."""

    start: str | None = None
    warning: str | None = None


def validate(command: list[str], script: str | None = None) -> Validation:
    """Check a command with `sbatch --test-only`, which plans the job on the nodes that are up now.

    script: the text of the script if its file is not written yet. SbatchError if sbatch would refuse the job; what it
    queues for later is a warning: unavailable nodes or partitions, and messages that are not known.
    """
    arguments = command[1:] if script is None else command[1:-2]  # without a file, sbatch reads standard input
    answer = _call(["sbatch", "--test-only", *arguments], env=_sbatch_environment(), stdin=script)
    message = _message_of(answer)
    if not answer.returncode:
        start = re.search(r" to start at (\d[\dT:-]+)", message)
        return Validation(start[1] if start else None)
    kind = sbatch_messages.classify(message)
    if kind == sbatch_messages.PERMANENT and not (
            sbatch_messages.matches(sbatch_messages.NODES_TOO_SMALL, message) and _some_nodes_are_away()):
        raise SbatchError(kind, message)
    return Validation(warning=None if kind == sbatch_messages.LIMIT else message)


def _sbatch_environment() -> dict[str, str]:
    """The environment of sbatch: its defaults for options are part of the command, as the plan shows and records it."""
    return slurm_environment.without_sbatch_defaults(process.environment_outside_slurm())


def _some_nodes_are_away() -> bool:
    """Return whether a node is down, drained or reserved, so that jobs that only it fits are queued."""
    states = (query(["sinfo", "--all", "--noheader", "--Node", "--format=%T"]) or "").split()
    return any(re.match("down|drain|fail|maint|reserved|power|reboot|unknown|blocked|no_respond", state) or
               state.endswith(("*", "$", "~", "@")) for state in states)


def _message_of(answer: CompletedProcess[str]) -> str:
    """The message of an sbatch, on one line."""
    return " ".join((answer.stderr or answer.stdout).split()) or (
        f"sbatch exited with code {answer.returncode} and printed nothing")


def submit_with_retries(command: list[str], ticket: int | None, comment: str, pauses: Iterable[float] = _PAUSES) -> str:
    """Call `submit` again, with the same ticket, while the controller is unavailable or its answer was lost.

    After a lost answer, or a message that is not known, squeue must first confirm that no job has this comment; after
    three such messages it is not called again. pauses: seconds between attempts.
    SbatchError if it is permanent or a limit, or after the last attempt.
    """
    uncertain: SbatchError | None = None  # the latest error after which a job may exist
    calls = 0
    for pause in (*pauses, None):
        queue = squeue(target_clusters(command) or [""]) if uncertain else Queue(True)
        if job := queue.newest_with_comment(comment):
            return job
        error = uncertain
        if queue.answered:
            if uncertain and uncertain.kind == sbatch_messages.UNKNOWN and calls >= _MAX_UNKNOWN_ANSWERS:
                raise uncertain
            try:
                calls += 1
                return submit(command, ticket)
            except SbatchError as latest:
                error = latest
        assert error is not None
        if error.kind == sbatch_messages.AMBIGUOUS or error.kind == sbatch_messages.UNKNOWN and (
                uncertain is None or uncertain.kind == sbatch_messages.UNKNOWN):
            uncertain = error
        if error.kind in (sbatch_messages.PERMANENT, sbatch_messages.LIMIT) or pause is None:
            raise _last_error(error, uncertain, queue.answered)
        time.sleep(pause)
    raise AssertionError("unreachable")


def _last_error(error: SbatchError, uncertain: SbatchError | None, queue_answered: bool) -> SbatchError:
    """The error to raise: ambiguous if a job may exist after one of the attempts."""
    if uncertain is None or uncertain.kind == sbatch_messages.UNKNOWN and queue_answered:
        return error
    message = uncertain.message if uncertain is error else f"{uncertain.message}; then: {error.message}"
    return SbatchError(sbatch_messages.AMBIGUOUS, message)


def target_clusters(command: Sequence[str]) -> list[str]:
    """Return the clusters that a command of sbatch may submit to; none for that of this machine.

    The command line overrides the script.
    """
    script = files.read_text(command[-2]) if len(command) > 2 else None
    names = directives.effective(script or "", command[1:-2]).get("clusters") or ""
    return [name for name in names.split(",") if name]


def own_jobs(*options: str, cluster: str | None = None) -> str | None:
    """Return what squeue prints of this user's jobs, also in hidden partitions, one line for each job or array task.

    cluster: its name, "" for that of this machine, None for the default. None if squeue is missing or failed.
    """
    command = ["squeue", "--all", "--noheader", "--array", *_cluster_option(cluster), *options]
    answer = _answer([*command, "--me"], cluster)
    if answer and answer.returncode and re.search(r"option.*\bme\b", answer.stderr):  # before Slurm 20.02
        answer = _answer([*command, f"--user={os.getuid()}"], cluster)
    return answer.stdout if answer and answer.returncode == 0 else None


def _cluster_option(cluster: str | None) -> list[str]:
    return [f"--clusters={cluster}"] if cluster else []


def _suffix(cluster: str | None) -> str:
    return f";{cluster}" if cluster else ""


_MAX_TASKS = 1_000_000  # of one array: Slurm's own limit is 4 million, by default a thousand
_MAX_DIGITS = 16  # of a number that Slurm prints
_NO_ACCOUNTING = "accounting storage is disabled"  # sacct's message on a cluster without a database
_QUEUE_FORMAT = "%i|%T|%V|%S|%r|%k"  # id, state, submit time, start, reason, comment
USAGE_FIELDS = ("JobID", "State", "ElapsedRaw", "TotalCPU", "AllocCPUS", "MaxRSS", "ReqMem", "TimelimitRaw",
                "AllocTRES", "TRESUsageInTot", "AdminComment")


def squeue(clusters: Collection[str] | None = None) -> Queue:
    """Return all Slurm jobs of this user, by one call for each cluster.

    clusters: "" for that of this machine; None for the default. `answered` is False if squeue is missing, or failed for
    one of them.
    """
    answered, jobs = True, {}
    for cluster in [None] if clusters is None else sorted(clusters):
        output = own_jobs(f"--format={_QUEUE_FORMAT}", cluster=cluster)
        answered &= output is not None
        for row in (line.split("|", 5) for line in (output or "").splitlines() if line.count("|") >= 5):
            for job in _job_ids(row[0]):
                job += _suffix(cluster)
                jobs[job] = Job(job, row[1], row[4], row[5], _seconds(row[2]), _seconds(row[3]))
    return Queue(answered, jobs)


def sacct(since: float, clusters: Collection[str] | None = None) -> Accounting:
    """Return this user's Slurm jobs since a time (unix seconds), by one call for each cluster; array tasks separately.

    clusters: as for squeue. Without sacct, or without a database, there are no jobs.
    """
    answered, jobs = True, {}
    for cluster in [None] if clusters is None else sorted(clusters):
        rows = _sacct_rows(["--allocations", _start_time(since), "--endtime=now",
                            f"--state={','.join(job_states.ACCOUNTED)}"],
                           ("JobID", "State", "Submit", "ExitCode", "TimelimitRaw"), cluster)
        answered &= rows is not None
        for row in rows or ():
            for job in _job_ids(row[0]) if row[1].strip() else []:
                job += _suffix(cluster)
                minutes = _seconds(row[4])
                limit = None if minutes is None else 60 * int(minutes)
                jobs[job] = Job(job, row[1].split()[0], row[3], submitted=_seconds(row[2]), time_limit=limit)
    return Accounting(answered, jobs)


def _sacct_rows(options: Iterable[str], fields: Sequence[str], cluster: str | None) -> list[list[str]] | None:
    """The rows of sacct on a cluster; none without sacct or a database, None if it failed."""
    command = ["sacct", "--noheader", "--parsable2", *_cluster_option(cluster), *options,
               f"--format={','.join(fields)}"]
    try:
        answer = _call(command, env=_query_environment(cluster), timeout=60)
    except FileNotFoundError:
        return []
    except OSError:
        return None
    if answer.returncode:
        return [] if _NO_ACCOUNTING in answer.stderr.lower() else None
    # the last field may be a comment, with any characters
    return [row for line in answer.stdout.splitlines() if len(row := line.split("|", len(fields) - 1)) == len(fields)]


def _start_time(since: float) -> str:
    """The option of sacct for a time in unix seconds, a minute earlier; sacct rejects a start in the future.

    It is in UTC, the time zone of all queries.
    """
    return time.strftime("--starttime=%Y-%m-%dT%H:%M:%S", time.gmtime(min(since, time.time()) - 60))


def _job_ids(text: str) -> list[str]:
    """Return the ids that one of squeue or sacct stands for: the tasks in `12_[0-2,5%3]`, and 12 for `12+0`, the first
    component of a heterogeneous job, which runs its script; none for other components. Any other id is returned
    unchanged.
    """
    master, bracket, rest = text.partition("_[")
    if not bracket:
        job, plus, component = text.partition("+")
        return [] if plus and component != "0" else [job]
    spans = [part.partition("-") for part in rest.rstrip("]").partition("%")[0].split(",")]
    if not all(first.isdecimal() and (last or first).isdecimal() for first, _, last in spans):
        return [text]  # truncated, as Slurm does with long lists
    ranges = [range(int(first[:_MAX_DIGITS]), int((last or first)[:_MAX_DIGITS]) + 1) for first, _, last in spans]
    if sum(map(len, ranges)) > _MAX_TASKS:
        return [text]
    return [f"{master}_{task}" for tasks in ranges for task in tasks]


def end_time(job: str) -> float | None:
    """Return when the time limit ends a running job of this cluster, in unix seconds; None without one or an answer."""
    command = ["squeue", "--all", "--noheader", f"--jobs={job}", "--format=%e"]
    return _seconds((query(command, cluster="") or "").strip())


def show_job(job: str) -> dict[str, str]:
    """Return the fields of `scontrol show job`, as {"Restarts": "0", "PreemptTime": "None", …}; empty if it fails."""
    local_id, _, cluster = job.partition(";")
    command = ["scontrol", *_cluster_option(cluster), "--all", "--oneliner", "show", "job", local_id]
    fields = (query(command, cluster) or "").split()
    return {name: value for name, equals, value in (field.partition("=") for field in fields) if equals}


def usage(since: float, clusters: Collection[str], jobs: Iterable[str] = ()) -> list[list[str]]:
    """Return rows of sacct, in the columns USAGE_FIELDS: this user's jobs and steps since a time in unix seconds.

    clusters: as for squeue; one call for each. On other clusters `;NAME` follows the id of a job. jobs: only these.
    """
    rows, by_cluster = [], _by_cluster(jobs)
    for cluster in sorted(clusters):
        selection = [f"--jobs={','.join(by_cluster[cluster])}"] if cluster in by_cluster else []
        for identifier, *cells in _sacct_rows(["--units=K", _start_time(since), *selection], USAGE_FIELDS,
                                              cluster) or ():
            job, dot, step = identifier.partition(".")
            rows.append([f"{job}{_suffix(cluster)}{dot}{step}", *cells])
    return rows


def _by_cluster(jobs: Iterable[str]) -> dict[str, list[str]]:
    """Return the ids of jobs on each cluster, without its name; "" for the cluster of this machine."""
    by_cluster: dict[str, list[str]] = {}
    for job in jobs:
        local, _, cluster = job.partition(";")
        by_cluster.setdefault(cluster, []).append(local)
    return by_cluster


def requeue(job: str) -> str | None:
    """Have Slurm end a running job of this cluster and put it back into the queue. Return None, or the message if it
    refuses.
    """
    try:
        answer = _call(["scontrol", "requeue", job], env=_query_environment(""), timeout=60)
    except FileNotFoundError:
        return "scontrol is not on the PATH"
    except TimeoutError:
        return "scontrol does not answer"
    return None if answer.returncode == 0 else " ".join((answer.stderr or answer.stdout).split())


# compiled on demand: a dry run cancels nothing
_NOT_CANCELLED = r"error on job id (\S+?):? +(.*)"
_IS_GONE = "(?i)Invalid job id|already complet"


def scancel(jobs: Iterable[str]) -> list[str]:
    """Cancel Slurm jobs. Return the ids of those that had already ended, or that Slurm does not know.

    SlurmError with the message of scancel if it refuses any other; the rest is cancelled nevertheless.
    """
    gone, refusals = [], []
    for cluster, local_ids in _by_cluster(jobs).items():
        answer = _call(["scancel", *_cluster_option(cluster), *local_ids], env=_query_environment(cluster))
        errors = [line for line in answer.stderr.splitlines() if line.strip()] if answer.returncode else []
        for line in errors:
            match = re.search(_NOT_CANCELLED, line)
            if match and re.search(_IS_GONE, match[2]):
                gone.append(match[1] + _suffix(cluster))
            else:
                refusals.append(line)
        if answer.returncode and not errors:
            refusals.append(f"exit code {answer.returncode}")
    if refusals:
        message = " ".join(" ".join(refusals).split())
        raise SlurmError(message if message.startswith("scancel:") else f"scancel: {message}")
    return gone


def query(command: list[str], cluster: str | None = None) -> str | None:
    """Return the output of a command; None if it is missing, fails, or takes more than a minute.

    cluster: "" runs it for the cluster of this machine, whichever the environment names.
    """
    answer = _answer(command, cluster)
    return answer.stdout if answer and answer.returncode == 0 else None


def user_name() -> str:
    """Return this user's name, for sacctmgr; empty if it is unknown."""
    return (query(["id", "-un"]) or "").strip()


def _query_environment(cluster: str | None) -> dict[str, str]:
    """The environment of a query; for the cluster of this machine ("") without those that the user chose."""
    return slurm_environment.for_local_cluster() if cluster == "" else slurm_environment.for_queries()


def _answer(command: list[str], cluster: str | None = None) -> CompletedProcess[str] | None:
    """Run a query; None if the command is missing, or takes more than a minute."""
    try:
        return _call(command, env=_query_environment(cluster), timeout=60)
    except OSError:
        return None


def _call(command: list[str], env: Mapping[str, str] | None = None, timeout: float | None = None,
          stdin: str | None = None) -> CompletedProcess[str]:
    """Run a command. OSError if it cannot be started, TimeoutError if it takes more than `timeout` seconds.

    env: by default that of queries, without filters of the user.
    """
    import subprocess  # not needed by a dry run

    env = slurm_environment.for_queries() if env is None else env
    try:
        if process.RELAY_SOCKET in os.environ:  # a container has no Slurm
            from src.submission.system import container_relay  # loads socket

            return container_relay.run(command, env, timeout, stdin or "")
        return subprocess.run(command, capture_output=True, text=True, errors="replace", input=stdin or "", env=env,
                              timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None


def _seconds(text: str) -> float | None:
    return float(text) if text.isdecimal() and len(text) < _MAX_DIGITS else None
