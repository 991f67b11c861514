"""Messages about a batch, through apprise: when a run fails first, when all have ended, and a digest now and then"""
from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from src import files, metrics, run_folder
from src.errors import JobSpecError, UserError, to_type
from src.submission import failures, slurm, states, status
from src.submission.observe import Observation, observe

FAILED, ENDED, DIGEST = "failed", "ended", "digest"
VARIABLE, FILE = "GRIDIRON_NOTIFY", "~/.gridiron-notify"  # where the addresses are, unless the job spec says
_ALLOWED = f"true (${VARIABLE}, or {FILE}), the name of a variable as $SLACK, a file, or {{to: …, digest: hours}}"
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


@dataclass(frozen=True)
class Notify:
    """to: `$NAME` or a file, with addresses of apprise; digest: hours between digests, None: none."""

    to: str | None = None
    digest: float | None = None

    def addresses(self) -> list[str]:
        """The addresses, which are keys. JobSpecError if there are none, or others can read them."""
        to = self.to or (f"${VARIABLE}" if os.environ.get(VARIABLE) else FILE)
        if to.startswith("$"):
            text, hint = os.environ.get(to[1:], ""), f"export {to[1:]}='slack://…'"
        else:
            path = os.path.expanduser(to)
            text, hint = files.read_text(path) or "", f"write them into {to}, one on each line; or export {VARIABLE}"
            if text and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
                raise JobSpecError("others can read this file, and it holds keys", where=path, hint=f"chmod 600 {to}")
        found = [word for word in text.split() if "://" in word]
        if not found:
            raise JobSpecError(f"there are no addresses in {to}", where="notify", hint=hint)
        return found


def check(value: Any, where: str) -> Notify | None:
    """What job_details.notify says. JobSpecError, at `where`, if it is wrong: above all if it is an address itself."""
    if value is False:
        return None
    given = value if isinstance(value, dict) else {} if value is True else {"to": value}
    to, digest = given.get("to"), given.get("digest")
    if isinstance(to, str) and "://" in to:
        raise JobSpecError("an address is a key, and a job spec is kept with the results", where=where,
                           hint=f"export {VARIABLE}='{to.partition(':')[0]}://…', and write notify: true")
    if given.keys() - {"to", "digest"} or not (to is None or isinstance(to, str) and to) or not (
            digest is None or isinstance(digest, (int, float)) and digest > 0 and digest is not True):
        raise JobSpecError(f"{value!r} says nothing of messages", where=where, allowed=_ALLOWED)
    return Notify(to, digest)


class Notices:
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
    mark = os.path.join(batch, run_folder.SUBMISSIONS, run_folder.notified_name(token, kind))
    try:
        if kind != DIGEST and not files.create_exclusive(mark, "", sync=False):
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
    lines += [found.line() for found in failures.group(observation.runs.values())][:status.GROUPS]
    if observation.count(states.RETRIED):
        lines.append(to_type("python", "submit_multiple.py", "-r", observation.path))
    return title, "\n".join(lines)


def follow(notify: Notify, batch: str, token: str, jobs: Iterable[str], project: str, asked: Mapping[str, str]) -> None:
    """Submit the small Slurm jobs that send messages: one waits for any job to fail, one for all to end, and one for
    the time of a digest. asked: what the runs ask for, of which partition, account and qos hold for these too.
    """
    script = os.path.join(os.path.abspath(batch), run_folder.SUBMISSIONS, run_folder.notify_script(token))
    files.write_atomic(script, SCRIPT)
    jobs = list(jobs)
    kinds = {FAILED: [f"--dependency={'?'.join(f'afternotok:{job}' for job in jobs)}", "--kill-on-invalid-dep=yes"],
             ENDED: [f"--dependency=afterany:{':'.join(jobs)}"]}
    if notify.digest:
        kinds[DIGEST] = [f"--begin=now+{max(1, round(60 * notify.digest))}minutes"]
    for kind, options in kinds.items():
        _submit(script, batch, token, kind, options, project, asked)


def _submit(script: str, batch: str, token: str, kind: str, options: list[str], project: str,
            asked: Mapping[str, str]) -> None:
    taken = [f"--{name}={asked[name]}" for name in ("partition", "account", "qos") if asked.get(name)]
    log = os.path.join(os.path.abspath(batch), run_folder.SUBMISSIONS, run_folder.notified_name(token, f"{kind}.%j"))
    *command, path = slurm.sbatch_command(f"notify-{os.path.basename(batch)}"[:60], log, f"notify-{token}",
                                          [*taken, *options], script, os.path.abspath(batch), project)
    slurm.submit([*command, path, token, kind])


def in_job(batch: str, token: str, kind: str, notify: Notify) -> str | None:
    """What such a Slurm job does: send, and have the next digest sent while there are runs. What went wrong, if so."""
    if kind == DIGEST:
        observation, = observe([batch])
        if not observation.count((states.PENDING, states.RUNNING)):
            return None
        script = os.path.join(os.path.abspath(batch), run_folder.SUBMISSIONS, run_folder.notify_script(token))
        asked = {name: os.environ.get(f"SLURM_JOB_{name.upper()}", "") for name in ("partition", "account", "qos")}
        _submit(script, batch, token, DIGEST, [f"--begin=now+{max(1, round(60 * (notify.digest or 1)))}minutes"],
                os.getcwd(), asked)
    return send(notify, batch, token, kind)
