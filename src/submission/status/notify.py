"""Messages about a batch, through apprise: when a run fails first, when all have ended, and a digest now and then"""
from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from src import metrics, run_folder
from src.errors import UserError, shell_command
from src.io import files, slurm_environment
from src.submission.batch import journal
from src.submission.slurm import client
from src.submission.spec.notify_spec import Notify
from src.submission.status import failures, retry_policy, status
from src.submission.status.observation import Observation
from src.submission.status.observe import observe

FAILED, ENDED, DIGEST = "failed", "ended", "digest"
_MOST_JOBS = 1000  # that one message waits for; after the last of them it looks for others
_MOST_SECONDS = 60.0  # that a run which has failed waits for its message
_PROJECT = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))
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
    """Sends what there is to say about a submission that this process follows. Nothing of it may fail it."""

    def __init__(self, notify: Notify | None, batch: str, token: str) -> None:
        self._notify, self._batch, self._token = notify, batch, token
        self._digested = time.monotonic()

    def run_ended(self, failed: bool) -> None:
        """Of a run: the first failure, and a digest if it is time for one."""
        if self._notify is None:
            return
        if failed:
            self.send(FAILED)
        if self._notify.digest and time.monotonic() >= self._digested + 3600 * self._notify.digest:
            self._digested = time.monotonic()
            self.send(DIGEST)

    def send(self, kind: str, why: str = "") -> None:
        """Once of each kind, but for digests."""
        if self._notify and (line := send(self._notify, self._batch, self._token, kind, why)):
            print(line, file=sys.stderr)


def send(notify: Notify, batch: str, token: str, kind: str, why: str = "") -> str | None:
    """Send a message, unless one of its kind was sent for this submission; what went wrong, without the addresses."""
    try:
        if kind != DIGEST and not files.create_exclusive(_mark(batch, token, kind), "", sync=False):
            return None
        import apprise

        observation, = observe([batch])
        title, body = message(observation, kind, why)
        messenger = apprise.Apprise()
        known = [messenger.add(address) for address in notify.addresses()]
        if not messenger.notify(body=body, title=title) or not all(known):
            return "note: a message could not be sent to every address of notify"
    except ImportError:
        return "note: no message was sent: apprise is not installed (pip install apprise)"
    except UserError as error:
        return f"note: no message was sent: {error}"
    except Exception as error:
        return f"note: no message was sent: {type(error).__name__}"  # its words may hold an address
    return None


def _mark(batch: str, token: str, kind: str) -> str:
    """The file that says that a message of this kind was sent."""
    return os.path.join(batch, run_folder.SUBMISSIONS, run_folder.notified_name(token, kind))


def message(observation: Observation, kind: str, why: str = "") -> tuple[str, str]:
    """Title and text: what has become of the runs, the best of them, failures, and what to type."""
    counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in status.counts(observation).items())
    name = os.path.basename(observation.path)
    title = {FAILED: f"{name}: a run failed", ENDED: f"{name} has ended", DIGEST: f"{name} goes on"}[kind]
    lines = [f"{len(observation.runs)} runs: {counts}", *filter(None, [why])]
    metric = metrics.of_batch(observation.path)
    rows = [row for row in status.rows(observation.runs.values(), metric=metric)
            if row.best is not None and row.best == row.best]
    if rows:
        best = rows[0]
        for row in rows:
            if row.metric == best.metric and row.best is not None and best.best is not None and metrics.better(
                    row.metric or "", row.best, best.best, metric):
                best = row
        lines.append(f"best: {best.best:.4g} {best.metric} of {best.run}")
    lines += [found.line() for found in failures.group_failures(observation.runs.values())][:status.MAX_GROUPS]
    if observation.count(retry_policy.RETRIED):
        lines.append(shell_command("python", "submit_multiple.py", "-r", observation.path))
    return title, "\n".join(lines)


def notify_failure(folder: str, ticket: int) -> None:
    """A run of a Slurm job has failed: have the message sent, if its batch wants one and has had none.

    Of an array or of workers, Slurm itself tells only at their end. Another process sends it, as what has just failed
    may be in no state to; it has a minute. Nothing of it is an error.
    """
    batch, name = os.path.split(folder)
    with contextlib.suppress(OSError, subprocess.SubprocessError, UserError):
        plan = next((plan for plan in reversed(journal.read_history(batch).plans)
                     if plan.get("notify") and plan["tickets"].get(name) == ticket), None)
        if plan and not os.path.exists(_mark(batch, plan["code"], FAILED)):
            command = [sys.executable, os.path.join(_PROJECT, "experiments.py"), "notify", batch, plan["code"], FAILED]
            subprocess.run(command, check=False, stdin=subprocess.DEVNULL, timeout=_MOST_SECONDS)


def submit_notify_jobs(notify: Notify, batch: str, token: str, jobs: Sequence[str], project: str,
                       asked: Mapping[str, str]) -> str:
    """Submit the small Slurm jobs that send messages: one waits for any job to fail, one for all to end, and one for
    the time of a digest. asked: what the runs ask for, of which partition, account and qos hold for these too. What
    went wrong, or "".
    """
    script = os.path.join(os.path.abspath(batch), run_folder.SUBMISSIONS, run_folder.notify_script_name(token))
    some = (f"afternotok:{job}" for job in jobs[:_MOST_JOBS])
    kinds = {FAILED: [f"--dependency={'?'.join(some)}", "--kill-on-invalid-dep=yes"], ENDED: _after(jobs)}
    if notify.digest:
        kinds[DIGEST] = [_in_minutes(60 * notify.digest)]
    try:
        files.write_atomic(script, SCRIPT)
        for kind, options in kinds.items():
            _submit(script, batch, token, kind, options, project, asked)
    except (OSError, client.SbatchError) as error:
        return f"note: not all messages will come: {getattr(error, 'message', error)}"
    return ""


def _after(jobs: Sequence[str]) -> list[str]:
    return [f"--dependency=afterany:{':'.join(jobs[-_MOST_JOBS:])}"]


def _in_minutes(minutes: float) -> str:
    return f"--begin=now+{max(1, round(minutes))}minutes"


def _submit(script: str, batch: str, token: str, kind: str, options: Iterable[str], project: str,
            asked: Mapping[str, str]) -> None:
    taken = [f"--{name}={asked[name]}" for name in ("partition", "account", "qos") if asked.get(name)]
    log = os.path.join(os.path.abspath(batch), run_folder.SUBMISSIONS, run_folder.notified_name(token, f"{kind}.%j"))
    *command, path = client.sbatch_command(f"notify-{os.path.basename(batch)}"[:60], log, f"notify-{token}",
                                          [*taken, *options], script, os.path.abspath(batch), project)
    client.submit([*command, path, token, kind])


def run_notify_job(batch: str, token: str, kind: str, notify: Notify) -> str | None:
    """What such a Slurm job does: send, or have another wait for what still runs. What went wrong, if so.

    A batch has ended when nothing of it is pending or running, also of what was put back or went on in successors; and
    the last submission tells of it.
    """
    if kind == FAILED:
        return send(notify, batch, token, kind)
    observation, = observe([batch])
    jobs = list(dict.fromkeys(run.state.slurm_job.partition("_")[0] for run in observation.runs.values()
                              if run.state.name in retry_policy.ALIVE and run.state.slurm_job))
    if kind == DIGEST:
        later = _again(batch, token, kind, [_in_minutes(60 * (notify.digest or 1))]) if jobs else None
        return (send(notify, batch, token, kind) if jobs else None) or later
    if any(plan.get("notify") and plan.get("code", "") > token for plan in observation.history.plans):
        return None
    if jobs:  # in a minute, as Slurm may say for a moment that what has ended still runs
        return _again(batch, token, kind, [_in_minutes(1), *_after(jobs)])
    return send(notify, batch, token, kind)


def _again(batch: str, token: str, kind: str, options: Iterable[str]) -> str | None:
    """Submit such a Slurm job as this is one."""
    script = os.path.join(os.path.abspath(batch), run_folder.SUBMISSIONS, run_folder.notify_script_name(token))
    asked = slurm_environment.partition_account_and_qos()
    try:
        _submit(script, batch, token, kind, options, os.getcwd(), asked)
    except client.SbatchError as refusal:
        return f"note: no more messages will come: {refusal.message}"
    return None
