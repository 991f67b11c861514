"""Notifications about a batch, through apprise: its first failure, an idle GPU, its end, and a digest now and then."""
from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from src import metrics, run_folder
from src.errors import UserError, retry_command
from src.io import files, slurm_environment
from src.submission.batch import journal
from src.submission.slurm import client
from src.submission.spec.notify_spec import Notify
from src.submission.status import failures, retry_policy, states, status
from src.submission.status.observation import Observation
from src.submission.status.observe import observe

FAILED, IDLE, ENDED, DIGEST = "failed", "idle", "ended", "digest"
_EVENTS = {FAILED: ": a run failed", IDLE: ": a run leaves its GPU idle", ENDED: " has ended", DIGEST: " continues"}
_MAX_DEPENDENCIES = 1000  # Slurm jobs that a notify job waits for; then it submits another one if others still run
_TIMEOUT = 60.0  # seconds that a failed run waits until its message is sent
SCRIPT = """#!/usr/bin/env bash
# Sends a message about its batch; submitted with it.
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=10
set -euo pipefail
source ./activate.sh
exec python experiments.py notify "$@"
"""


class Notifier:
    """Sends the messages about a submission that this process follows. It never raises."""

    def __init__(self, notify: Notify | None, batch: str, token: str) -> None:
        self._notify, self._batch, self._token = notify, batch, token
        self._last_digest = time.monotonic()

    def run_ended(self, failed: bool) -> None:
        """Record the end of a run: send a message after the first failure, and a digest if it is due."""
        if self._notify is None:
            return
        if failed:
            self.send(FAILED)
        if self._notify.digest and time.monotonic() >= self._last_digest + 3600 * self._notify.digest:
            self._last_digest = time.monotonic()
            self.send(DIGEST)

    def send(self, kind: str, why: str = "") -> None:
        """Send a message, each kind but the digest once."""
        if self._notify and (note := send(self._notify, self._batch, self._token, kind, why)):
            print(note, file=sys.stderr)


def send(notify: Notify, batch: str, token: str, kind: str, why: str = "") -> str | None:
    """Send a message, unless one of its kind was sent for this submission; digests are always sent.

    Return a note if that failed, which never contains an address.
    """
    try:
        if kind != DIGEST and not files.create_exclusive(_sent_file(batch, token, kind), "", sync=False):
            return None
        import apprise

        observation, = observe([batch])
        title, body = message(observation, kind, why)
        messenger = apprise.Apprise()
        valid = [messenger.add(address) for address in notify.addresses()]
        if not messenger.notify(body=body, title=title) or not all(valid):
            return "note: a message could not be sent to every address of notify"
    except ImportError:
        return "note: no message was sent: apprise is not installed (pip install apprise)"
    except UserError as error:
        return f"note: no message was sent: {error}"
    except Exception as error:
        return f"note: no message was sent: {type(error).__name__}"  # its text may contain an address
    return None


def _sent_file(batch: str, token: str, kind: str) -> str:
    """The file that exists once a message of this kind was sent."""
    return os.path.join(batch, run_folder.SUBMISSIONS, run_folder.notified_name(token, kind))


def message(observation: Observation, kind: str, why: str = "") -> tuple[str, str]:
    """Return title and text: the number of runs per state, the best run, failures, and the command to retry."""
    counts = ", ".join(f"{number} {states.shown(state)}" for state, number in status.counts(observation).items())
    lines = [f"{len(observation.runs)} runs: {counts}", *filter(None, [why, _best_run(observation)])]
    lines += status.idle_lines(observation)[:status.MAX_GROUPS]
    lines += [group.line() for group in failures.group_failures(observation.runs.values())][:status.MAX_GROUPS]
    if observation.count(retry_policy.RETRIED):
        lines.append(retry_command(observation.path))
    return f"{os.path.basename(observation.path)}{_EVENTS[kind]}", "\n".join(lines)


def _best_run(observation: Observation) -> str:
    """`best: 0.93 val/accuracy of 003_x`; empty if no run has a metric."""
    metric = metrics.read_from_batch(observation.path)
    best = None
    for row in status.rows(observation.runs.values(), metric=metric):
        if row.best is None or row.best != row.best:
            continue
        if best is None or best.best is None or _is_same_measure(row.metric, best.metric) and metrics.is_better(
                row.metric or "", row.best, best.best, metric):
            best = row
    if best is None:
        return ""
    note = f" ({metrics.TEST_NOTE})" if metrics.chooses_by_test(best.metric) else ""
    return f"best: {best.best:.4g} {best.metric} of {best.run}{note}"


def _is_same_measure(column: str | None, other: str | None) -> bool:
    """Return whether two columns have the same metric of one split, of last or averaged weights."""
    return (column or "").replace("/av/", "/last/") == (other or "").replace("/av/", "/last/")


def notify_failure(folder: str, ticket: int) -> None:
    """Have a message sent about a failed run of a Slurm job, if its batch wants one and none was sent.

    A notify job would start too late: one that depends on an array or on workers starts only at their end. So the run
    itself has the message sent, by another process, because this one may be unable to, and with a timeout. Errors are
    ignored.
    """
    with contextlib.suppress(OSError, subprocess.SubprocessError, UserError):
        if process := _start(folder, ticket, FAILED):
            process.wait(_TIMEOUT)


def notify_idle(folder: str, ticket: int) -> None:
    """Have a message sent about a run whose GPU idles, as for a failed one, without waiting for it."""
    with contextlib.suppress(OSError, UserError):
        if process := _start(folder, ticket, IDLE):
            threading.Thread(target=process.wait, daemon=True).start()  # it leaves no zombie


def _start(folder: str, ticket: int, kind: str) -> subprocess.Popen[bytes] | None:
    """Start a process that sends a message about a run; None if its batch wants none, or one was sent."""
    batch, name = os.path.split(folder)
    plans = journal.read_history(batch).recorded_plans
    plan = journal.plan_of((plan for plan in plans if plan.get("notify")), name, ticket)
    if not plan or os.path.exists(_sent_file(batch, plan["code"], kind)):
        return None
    command = [sys.executable, os.path.join(files.PROJECT, "experiments.py"), "notify", batch, plan["code"], kind]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def submit_notify_jobs(notify: Notify, batch: str, token: str, jobs: Sequence[str], project: str,
                       options: Mapping[str, str]) -> str:
    """Submit the small Slurm jobs that send messages: after any job fails, after all have ended, and for a digest.

    options: of the runs; partition, account and qos are used for these jobs too. Return a note if that failed, or "".
    """
    script = os.path.join(os.path.abspath(batch), run_folder.SUBMISSIONS, run_folder.notify_script_name(token))
    any_failed = "?".join(f"afternotok:{job}" for job in jobs[:_MAX_DEPENDENCIES])
    arguments_by_kind = {FAILED: [f"--dependency={any_failed}", "--kill-on-invalid-dep=yes"], ENDED: _after(jobs)}
    if notify.digest:
        arguments_by_kind[DIGEST] = [_in_minutes(60 * notify.digest)]
    try:
        files.write_atomic(script, SCRIPT)
        for kind, arguments in arguments_by_kind.items():
            _submit(script, batch, token, kind, arguments, project, options)
    except (OSError, client.SbatchError) as error:
        return f"note: not all messages will be sent: {getattr(error, 'message', error)}"
    return ""


def _after(jobs: Sequence[str]) -> list[str]:
    return [f"--dependency=afterany:{':'.join(job.partition(';')[0] for job in jobs[-_MAX_DEPENDENCIES:])}"]


def _in_minutes(minutes: float) -> str:
    return f"--begin=now+{max(1, round(minutes))}minutes"


def _submit(script: str, batch: str, token: str, kind: str, arguments: Iterable[str], project: str,
            options: Mapping[str, str]) -> None:
    same_queue = [f"--{name}={options[name]}" for name in ("partition", "account", "qos") if options.get(name)]
    log = os.path.join(os.path.abspath(batch), run_folder.SUBMISSIONS, run_folder.notified_name(token, f"{kind}.%j"))
    *command, path = client.sbatch_command(f"notify-{os.path.basename(batch)}"[:60], log, f"notify-{token}",
                                           [*same_queue, *arguments], script, os.path.abspath(batch), project)
    client.submit([*command, path, token, kind])


def run_notify_job(batch: str, token: str, kind: str, notify: Notify) -> str | None:
    """Send the message of a notify job, or submit another job that waits for what still runs. Return a note on failure.

    A batch has ended when nothing of it is pending or running, including requeued runs and successors. Only the newest
    submission sends the message that the batch has ended.
    """
    if kind in (FAILED, IDLE):
        return send(notify, batch, token, kind)
    observation, = observe([batch])
    jobs = list(dict.fromkeys(run.state.slurm_job.partition("_")[0] for run in observation.runs.values()
                              if run.state.name in retry_policy.ALIVE and run.state.slurm_job))
    if kind == DIGEST:
        note = _submit_next(batch, token, kind, [_in_minutes(60 * (notify.digest or 1))]) if jobs else None
        return (send(notify, batch, token, kind) if jobs else None) or note
    if any(plan.get("notify") and plan.get("code", "") > token for plan in observation.history.recorded_plans):
        return None
    if jobs:  # in a minute, as Slurm may list an ended job as running for a moment
        return _submit_next(batch, token, kind, [_in_minutes(1), *_after(jobs)])
    return send(notify, batch, token, kind)


def _submit_next(batch: str, token: str, kind: str, arguments: Iterable[str]) -> str | None:
    """Submit another notify job like this one."""
    script = os.path.join(os.path.abspath(batch), run_folder.SUBMISSIONS, run_folder.notify_script_name(token))
    try:
        _submit(script, batch, token, kind, arguments, os.getcwd(), slurm_environment.partition_account_and_qos())
    except client.SbatchError as error:
        return f"note: no more messages will be sent: {error.message}"
    return None
