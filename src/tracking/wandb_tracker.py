"""Weights & Biases. It never prompts for a key: without one the run is not tracked, unless WANDB_MODE=offline."""
from __future__ import annotations

import glob
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from src import metrics, run_folder
from src.archive import run_files
from src.config import Config
from src.errors import BatchError
from src.tracking.mlflow_run import read_rows
from src.tracking.tracker import Tracker, TrackerUnavailable, ping, step_metrics

_PING_TIMEOUT = 10.0  # seconds


class WandbTracker(Tracker):
    """A W&B run with the config, the facts, and a point per epoch over the optimizer's steps.

    A resumed run continues the same W&B run, by its id, without repeated epochs. Its group is the batch; its tags are
    wandb_tags, TAGS and the parameters in the folder's name; its summary has how the run ended, last and best values.
    """

    def start(self, config: Config, facts: Mapping[str, Any], folder: str | None) -> None:
        """Create the W&B run, or continue it. TrackerUnavailable without a key."""
        for name, value in (("WANDB_CONSOLE", "off"), ("WANDB_ERROR_REPORTING", "false")):
            os.environ.setdefault(name, value)
        import wandb

        mode = wandb.setup().settings.mode  # from WANDB_MODE, or from a file that `wandb offline` wrote
        if mode not in ("offline", "dryrun", "disabled") and not wandb.login(prompt=False):
            raise TrackerUnavailable(
                "no API key: set WANDB_API_KEY or run `wandb login` once, or set WANDB_MODE=offline")
        self._best: dict[str, float] = {}
        self._metric = metrics.read_for_run(folder) if folder else None
        self._run = wandb.init(
            entity=config.wandb_entity, project=config.wandb_project_name, dir=folder,
            config={**config.to_dict(), "facts": dict(facts)},
            # it would store the remote's address as it is, with any password; the commit is among the facts
            settings=wandb.Settings(disable_git=True),
            **(_identification(config, os.path.abspath(folder)) if folder else
               {"name": config.wandb_run_name, "tags": config.wandb_tags}))
        self._held: Mapping[str, float] = {}
        is_resumed = folder is not None and "resumed_at_step" in facts
        for earlier in read_rows(folder) if folder and is_resumed else ():
            self._update_best(earlier)
        if folder and is_resumed:  # rows that an interrupted start did not send
            self.log_steps([row for row in read_rows(folder, run_folder.STEPS)
                            if row["step"] <= facts["resumed_at_step"]])

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Send the cells of an epoch, unless an earlier start has: W&B rejects repeated steps."""
        self._send(dict(row), step)
        self._update_best(row)

    def log_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Send the cells of steps. The last one is held: W&B takes one row for each step, and its epoch may end here.
        """
        for row in rows:
            if self._held:
                self._send({}, int(self._held["step"]))
            self._held = row

    def _send(self, cells: dict[str, float], step: int) -> None:
        """Send cells at a step, after or together with the row of a step that is held."""
        held, self._held = self._held, {}
        if held and held["step"] != step:
            self._log(step_metrics(held), int(held["step"]))
            held = {}
        self._log({**step_metrics(held), **cells}, step)

    def _log(self, cells: dict[str, float], step: int) -> None:
        if step >= self._run.starting_step:
            self._run.log(cells, step=step)

    def _update_best(self, row: Mapping[str, float]) -> None:
        for column in metrics.ranking_columns(row, self._metric):
            if column not in self._best or metrics.is_better(column, row[column], self._best[column], self._metric):
                self._best[column] = row[column]

    def finish(self, end: str | None) -> None:
        """Close the W&B run; one that was interrupted or failed is shown as failed."""
        if self._held and end:  # one that resumes will send it together with its epoch
            self._send({}, int(self._held["step"]))
        self._run.summary.update({"end": end, **{f"best/{name}": value for name, value in self._best.items()}})
        self._run.finish(exit_code=0 if end in run_folder.ENDS else 1)


def _identification(config: Config, folder: str) -> dict[str, Any]:
    """Return id, name, group and tags of a run, by its folder."""
    name, batch = os.path.basename(folder), os.path.dirname(folder)
    in_batch = run_folder.is_batch_folder(batch)
    parameters = name.split("+")[1:] if in_batch else []
    tags = dict.fromkeys([*(config.wandb_tags or ()), *run_folder.tags(folder), *parameters])
    return {"id": run_folder.identity(folder), "resume": "allow", "name": config.wandb_run_name or name,
            "group": os.path.basename(batch) if in_batch else None, "tags": [tag[:64] for tag in tags]}


def sync(batches: Sequence[str]) -> Iterator[tuple[str, bool, str]]:
    """Upload the offline runs of the batches. Yield for each its folder, whether it was sent, and wandb's last line.

    BatchError if W&B does not answer, since `wandb sync` would retry for hours.
    """
    paths = [path for batch in batches
             for path in sorted(glob.glob(os.path.join(glob.escape(batch), "*", "wandb", "offline-run-*")))
             if os.path.isdir(path) and not _is_sent(path)]
    for folder in _archived_offline(batches):
        yield folder, False, f"archived: `{run_files.unarchive_command(folder)}` first"
    if paths:
        _check_server()
    for path in paths:
        run_dir = os.path.dirname(os.path.dirname(os.path.abspath(path)))  # for its logs
        result = subprocess.run([sys.executable, "-m", "wandb", "sync", path], stdin=subprocess.DEVNULL,
                                env={**os.environ, "WANDB_DIR": run_dir, "WANDB_ERROR_REPORTING": "false"},
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        # its exit code is 0 even if the server rejects the run
        yield path, result.returncode == 0 and _is_sent(path), (result.stdout.strip().splitlines() or [""])[-1]


def _archived_offline(batches: Sequence[str]) -> Iterator[str]:
    """Yield the folders of archived runs with offline runs that have not been sent."""
    for folder in (os.path.join(batch, name) for batch in batches for name in run_files.archived_names(batch)):
        paths = [path.split("/") for path in run_files.list_folder(folder, "wandb")]
        sent = {offline for offline, *rest in paths if rest and rest[-1].endswith(".synced")}
        if run_files.is_archived(folder) and any(
                rest and offline.startswith("offline-run-") and offline not in sent for offline, *rest in paths):
            yield folder


def _is_sent(path: str) -> bool:
    """Return whether `wandb sync` has marked an offline run as sent."""
    return bool(glob.glob(os.path.join(glob.escape(path), "*.synced")))


def _check_server() -> None:
    import wandb

    address = os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)
    try:
        ping(address, _PING_TIMEOUT)
    except OSError as error:
        raise BatchError(f"{address} does not answer ({error}): nothing is sent", where="sync-wandb",
                         hint="run it on a machine with internet access, or set WANDB_BASE_URL to another server"
                         ) from None
