"""Slurm's commands: argument lists built purely, called thinly, and their refusals sorted."""
from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from src.errors import JobSpecError, SlurmError
from src.io import slurm_environment
from src.submission.system import container_relay, process

if TYPE_CHECKING:
    from subprocess import CompletedProcess

_OWN_OPTIONS = ("job-name", "output", "comment", "chdir", "parsable", "wrap", "array", "test-only")
# What Slurm says when it may be asked again later: it did not take the job.
_AWAY = ("Unable to contact slurm controller", "Connection refused", "Communication connection failure",
         "No route to host", "Network is unreachable")
QUEUE_FULL = ("Slurm temporarily unable to accept job", "job queue full", "Resource temporarily unavailable")
_LIMIT = ("MaxSubmitJob", "MaxSubmitJobs", "AssocMaxSubmitJobLimit", "QOSMaxSubmitJob", "MaxJobsPerAccount")
# The connection broke after it had been made: the controller may have read the request before.
_AMBIGUOUS = ("Socket timed out", "Unexpected message received", "Message receive failure", "Message send failure",
              "(receive failure)", "(send failure)", "shutdown failure", "Zero Bytes were transmitted",
              "Connection reset by peer", "Broken pipe", "Connection timed out", "not connected", "missing socket",
              "Failed to send entire message", "zero length message", "Insane message length")
_PAUSES = (1, 4, 15, 45)  # seconds between tries while the controller is away


@dataclass(frozen=True)
class SbatchError(Exception):
    """sbatch's own words and what they mean: permanent, limit, away (not taken), or ambiguous (perhaps taken)."""

    kind: str
    message: str


class Job(NamedTuple):
    """What squeue or sacct says of one Slurm job (array tasks apart). Times are unix seconds."""

    id: str
    state: str  # PENDING, RUNNING, COMPLETED, TIMEOUT …
    reason: str = ""
    comment: str = ""
    submitted: float | None = None


@dataclass
class Queue:
    """squeue's answer. None of the jobs are known if it did not answer."""

    answered: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)

    @cached_property
    def _ids(self) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for job in self.jobs.values():
            if job.comment:
                found.setdefault((job.comment, job.id.partition("_")[2]), []).append(job.id)
        return found

    def job_ids(self, comments: Sequence[tuple[str, str]]) -> list[str]:
        """The ids of the jobs that carry one of the comments; beside each, the array's task, or '' for no array."""
        ids = self._ids
        if len(comments) == 1:  # as of most runs, and there may be many
            return ids.get(comments[0], [])
        return [job for key in dict.fromkeys(comments) if key in ids for job in ids[key]]

    def newest_with_comment(self, comment: str) -> str | None:
        """The id of the newest job, or array, that carries the comment."""
        found = [job.id.partition("_")[0] for job in self.jobs.values() if job.comment == comment]
        return max(found, key=int) if found else None


def max_array_size() -> int:
    """The cluster's MaxArraySize: an array's highest task is one less. 1001, Slurm's default, if it does not say."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", query(["scontrol", "show", "config"]) or "", re.MULTILINE)
    return int(match[1]) if match else 1001


def require_sbatch() -> None:
    """SlurmError unless sbatch is on the PATH."""
    from shutil import which  # a dry run without squeue need not wait for it

    if which("sbatch") is None:
        raise SlurmError("sbatch is not on the PATH: this machine has no Slurm", hint="run the same grid here with "
                         "--local (`--local --workers 4` for four runs at a time), or log in to the cluster")


def option_arguments(options: Mapping[str, Any], where: str) -> list[str]:
    """sbatch options of a mapping: {mem: 8G, requeue: true} -> [--mem=8G, --requeue]. false and null leave one out."""
    arguments = []
    for key, value in options.items():
        if not re.fullmatch(r"[a-z][a-z0-9-]*", str(key).replace("_", "-")):
            raise JobSpecError(f"'{key}' is no sbatch option", where=where,
                               allowed="long names, as mem, time, partition")
        name = str(key).replace("_", "-")
        if name in _OWN_OPTIONS:
            raise JobSpecError(f"the sbatch option '{name}' is set by the submission itself", where=where,
                               hint="leave it out")
        if value is None or value is False:
            continue
        if isinstance(value, (list, dict)) or "\0" in str(value):
            raise JobSpecError(f"the sbatch option '{name}' has the value {value!r}", where=where,
                               allowed="a string, a number, true or null")
        arguments.append(f"--{name}" if value is True else f"--{name}={value}")
    return arguments


def sbatch_command(name: str, log: str, comment: str, options: Iterable[str], script: str, path: str,
                   project: str) -> list[str]:
    """The sbatch call for one Slurm job, which starts in `project` and is given `path`: a spec or a task file.

    log: a path that may end in one of Slurm's patterns (%j, %A); other % signs in its folder are made safe.
    """
    folder, pattern = os.path.split(log)
    return ["sbatch", "--parsable", f"--chdir={project}", f"--job-name={name}",
            f"--output={os.path.join(folder.replace('%', '%%'), pattern)}", f"--comment={comment}", *options, script,
            path]


def submit(command: list[str], ticket: int | None = None) -> str:
    """Call sbatch and give the Slurm job's id. Refusal if there is none.

    The ticket travels in the environment, which Slurm hands to the job; where a site does not, the journal has it.
    """
    environment = process.environment_outside_slurm()
    if ticket is not None:
        environment["GRIDIRON_TICKET"] = str(ticket)
    try:
        answer = _call(command, env=environment)
    except FileNotFoundError:
        raise SbatchError("permanent", "sbatch is not on the PATH") from None
    # ID, or ID;CLUSTER, on a line of its own: some sites' sbatch greets its users first
    ids = re.findall(r"^\s*(\d+)(?:;.*)?\s*$", answer.stdout, re.MULTILINE)
    if answer.returncode == 0 and ids:
        return ids[-1]
    words = " ".join((answer.stderr or answer.stdout).split()) or f"sbatch ended with {answer.returncode} and no words"
    # a success without an id, or an sbatch that was killed, may have left a job behind
    raise SbatchError("ambiguous" if answer.returncode <= 0 else _sort(words), words)


def validate(command: list[str], script: str | None = None) -> str | None:
    """Ask sbatch whether it would take this job. When it would start, as `2026-11-20T12:00:00`, if Slurm says so.

    script: the text of the script, if its file is yet to be written. Refusal if sbatch would never take the job; a
    limit or an absent controller is for `submit`.
    """
    arguments = command[1:] if script is None else command[1:-2]  # without its file it comes on standard input
    answer = _call(["sbatch", "--test-only", *arguments], env=process.environment_outside_slurm(), read=script)
    words = " ".join((answer.stderr or answer.stdout).split()) or f"sbatch ended with {answer.returncode} and no words"
    if answer.returncode and _sort(words) == "permanent":
        raise SbatchError("permanent", words)
    start = re.search(r" to start at (\d[\dT:-]+)", words)
    return start[1] if start and not answer.returncode else None


def _sort(words: str) -> str:
    for kind, texts in (("ambiguous", _AMBIGUOUS), ("limit", _LIMIT), ("away", _AWAY + QUEUE_FULL)):
        if any(text.lower() in words.lower() for text in texts):
            return kind
    return "permanent"


def submit_with_retries(command: list[str], ticket: int | None, comment: str, pauses: Iterable[float] = _PAUSES) -> str:
    """`submit`, tried again while the controller is away or its answer was lost, with the same ticket.

    After a lost answer squeue must say first that it has no job with such a comment. Refusal when it is permanent, a
    limit, or patience ends.
    """
    lost: SbatchError | None = None  # the latest answer that may hide a job
    for pause in (*pauses, None):
        queue = squeue() if lost else Queue(True)
        if found := queue.newest_with_comment(comment):
            return found
        refusal = lost
        if queue.answered:
            try:
                return submit(command, ticket)
            except SbatchError as error:
                refusal = error
        assert refusal is not None
        lost = refusal if refusal.kind == "ambiguous" else lost
        if refusal.kind in ("permanent", "limit") or pause is None:
            raise refusal if lost in (None, refusal) else SbatchError(
                "ambiguous", f"{lost.message}; then: {refusal.message}")
        time.sleep(pause)
    raise AssertionError("unreachable")


_QUEUE_FORMAT = "%i|%T|%V|%r|%k"  # id, state, submit time, reason, comment
USAGE_FIELDS = ("JobID", "State", "ElapsedRaw", "TotalCPU", "AllocCPUS", "MaxRSS", "ReqMem", "TimelimitRaw",
                "AllocTRES", "TRESUsageInTot")


def squeue() -> Queue:
    """All of this user's Slurm jobs, by one call. `answered` is False if squeue is missing or did not answer."""
    output = query(["squeue", "--me", "--noheader", "--array", f"--format={_QUEUE_FORMAT}"])
    if output is None:
        return Queue()
    rows = (line.split("|", 4) for line in output.splitlines() if line.count("|") >= 4)
    return Queue(True, {row[0]: Job(row[0], row[1], row[3], row[4], _seconds(row[2])) for row in rows})


# Asked for by state, sacct lists jobs that were cancelled before their dependencies let them be considered, too.
_ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
          "REVOKED", "TIMEOUT")


def sacct(since: float) -> dict[str, Job]:
    """This user's Slurm jobs that have ended since a time (unix seconds), by one call; the tasks of an array apart.

    Empty if sacct is missing or has no database.
    """
    # sacct refuses a start in the future, which a clock that jumped would ask for
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(min(since, time.time()) - 60))
    output = query(["sacct", "--allocations", "--noheader", "--parsable2", f"--starttime={start}", "--endtime=now",
                  f"--state={','.join(_ENDED)}", "--format=JobID,State,Submit,ExitCode"])
    rows = (line.split("|") for line in (output or "").splitlines() if line.count("|") == 3)
    return {job: Job(job, row[1].split()[0], row[3], submitted=_seconds(row[2])) for row in rows if row[1]
            for job in _tasks(row[0])}


def _tasks(job: str) -> list[str]:
    """`12_[0-2,5%3]`, tasks that never began, one by one; any other id is itself."""
    master, bracket, rest = job.partition("_[")
    if not bracket:
        return [job]
    spans = [part.partition("-") for part in rest.rstrip("]").partition("%")[0].split(",")]
    if not all(first.isdecimal() and (last or first).isdecimal() for first, _, last in spans):
        return []  # cut short, as Slurm does with long lists
    return [f"{master}_{task}" for first, _, last in spans for task in range(int(first), int(last or first) + 1)]


def expected_starts() -> dict[str, float]:
    """When Slurm expects to start this user's pending jobs, unix seconds by id; those that it cannot tell left out."""
    output = query(["squeue", "--me", "--noheader", "--array", "--start", "--format=%i|%S"]) or ""
    pairs = (line.partition("|") for line in output.splitlines())
    return {job: start for job, _, text in pairs if (start := _seconds(text.strip())) is not None}


def end_time(job: str) -> float | None:
    """When the time limit ends a running Slurm job, in unix seconds; None without a limit, or if Slurm is silent."""
    return _seconds((query(["squeue", "--noheader", f"--jobs={job}", "--format=%e"]) or "").strip())


def show_job(job: str) -> dict[str, str]:
    """What scontrol shows of a Slurm job, as {"Restarts": "0", "PreemptTime": "None", …}; empty if it is silent."""
    words = (query(["scontrol", "--oneliner", "show", "job", job]) or "").split()
    return {name: value for name, equals, value in (word.partition("=") for word in words) if equals}


def usage(since: float) -> list[list[str]]:
    """sacct's rows of this user's jobs and their steps since a time (unix seconds), by one call, as USAGE_FIELDS."""
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(min(since, time.time()) - 60))
    output = query(["sacct", "--noheader", "--parsable2", "--units=K", f"--starttime={start}",
                  f"--format={','.join(USAGE_FIELDS)}"])
    rows = (line.split("|") for line in (output or "").splitlines())
    return [row for row in rows if len(row) == len(USAGE_FIELDS)]


def requeue(job: str) -> str | None:
    """Have Slurm end this running job and put it back into the queue. None if it does, its words if it refuses."""
    try:
        answer = _call(["scontrol", "requeue", job], timeout=60)
    except FileNotFoundError:
        return "scontrol is not on the PATH"
    except TimeoutError:
        return "scontrol does not answer"
    return None if answer.returncode == 0 else " ".join((answer.stderr or answer.stdout).split())


def scancel(jobs: Iterable[str]) -> None:
    """Cancel Slurm jobs. SlurmError with scancel's words if it refuses."""
    answer = _call(["scancel", *jobs])
    if answer.returncode:
        words = " ".join(answer.stderr.split())
        raise SlurmError(words if words.startswith("scancel:") else f"scancel: {words}")


def query(command: list[str]) -> str | None:
    """What a command prints; None if it is missing, fails, or takes more than a minute."""
    try:
        answer = _call(command, env={**os.environ, **slurm_environment.UNIX_TIMES}, timeout=60)
    except OSError:
        return None
    return answer.stdout if answer.returncode == 0 else None


def _call(command: list[str], env: Mapping[str, str] | None = None, timeout: float | None = None,
          read: str | None = None) -> CompletedProcess[str]:
    """A command's exit status and words. read: its standard input. OSError if it cannot be started, TimeoutError if it
    takes more than `timeout` seconds."""
    import subprocess  # a dry run calls nothing, and need not wait for it

    try:
        if process.RELAY_SOCKET in os.environ:  # a container has no Slurm

            return container_relay.run(command, env, timeout, read or "")
        return subprocess.run(command, capture_output=True, text=True, errors="replace", input=read or "", env=env,
                              timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None


def _seconds(text: str) -> float | None:
    return float(text) if text.isdecimal() else None


def script_directives(text: str) -> Iterator[str]:
    """The options of a submit script's #SBATCH lines, comments dropped; they end at the first command."""
    for line in text.splitlines():
        if line.startswith("#SBATCH"):
            yield re.split(r"\s#", line.removeprefix("#SBATCH"), maxsplit=1)[0].strip()
        elif line.strip() and not line.lstrip().startswith("#"):
            return
