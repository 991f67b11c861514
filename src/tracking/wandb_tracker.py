"""Weights & Biases. Never asks for a key: without one a run goes on untracked. WANDB_MODE=offline needs none"""
from __future__ import annotations

import glob
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from src import metrics, run_folder
from src.config import Config
from src.errors import BatchError
from src.tracking.mlflow_run import read_rows
from src.tracking.tracker import Tracker, TrackerUnavailable, ping

_ANSWERS = 10.0  # seconds in which a server does


class WandbTracker(Tracker):
    """A W&B run with the config and facts of ours, and a point per epoch over the optimizer's steps.

    A run that goes on is the same one there, by its id, and has no epoch twice. Group: the batch; tags: wandb_tags,
    TAGS and what differs between the runs of the batch, as in the folder's name; summary: how it ended, the last values
    and the best.
    """

    def start(self, config: Config, facts: Mapping[str, Any], folder: str | None) -> None:
        """Raises Refused if there is no key."""
        for name, value in (("WANDB_CONSOLE", "off"), ("WANDB_ERROR_REPORTING", "false")):  # that is its own affair
            os.environ.setdefault(name, value)
        import wandb

        mode = wandb.setup().settings.mode  # of WANDB_MODE, or a file that `wandb offline` wrote
        if mode not in ("offline", "dryrun", "disabled") and not wandb.login(prompt=False):
            raise TrackerUnavailable(
                "no API key: set WANDB_API_KEY or run `wandb login` once, or set WANDB_MODE=offline")
        self._best: dict[str, float] = {}
        self._metric = metrics.read_from_batch(os.path.dirname(os.path.abspath(folder))) if folder else None
        self._run = wandb.init(
            entity=config.wandb_entity, project=config.wandb_project_name, dir=folder,
            config={**config.to_dict(), "facts": dict(facts)},
            **(_place(config, os.path.abspath(folder)) if folder else
               {"name": config.wandb_run_name, "tags": config.wandb_tags}))
        for earlier in read_rows(folder) if folder and "resumed_at_step" in facts else ():
            self._judge(earlier)

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Send the cells of an epoch, unless an earlier start has: they are the same, and W&B takes no step twice."""
        if step >= self._run.starting_step:
            self._run.log(dict(row), step=step)
        self._judge(row)

    def _judge(self, row: Mapping[str, float]) -> None:
        for column in metrics.ranking_columns(row, self._metric):
            if column not in self._best or metrics.is_better(column, row[column], self._best[column], self._metric):
                self._best[column] = row[column]

    def finish(self, end: str | None) -> None:
        """Close the W&B run; one that was broken off, or failed, is shown as failed."""
        self._run.summary.update({"end": end, **{f"best/{name}": value for name, value in self._best.items()}})
        self._run.finish(exit_code=0 if end in run_folder.ENDS else 1)


def _place(config: Config, folder: str) -> dict[str, Any]:
    """What a run is called in W&B, by its folder."""
    name, batch = os.path.basename(folder), os.path.dirname(folder)
    in_batch = run_folder.is_batch_folder(batch)
    told = name.split("+")[1:] if in_batch else []
    tags = dict.fromkeys([*(config.wandb_tags or ()), *run_folder.tags(folder), *told])
    return {"id": run_folder.identity(folder), "resume": "allow", "name": config.wandb_run_name or name,
            "group": os.path.basename(batch) if in_batch else None, "tags": [tag[:64] for tag in tags]}


def sync(batches: Sequence[str]) -> Iterator[tuple[str, bool, str]]:
    """Send what offline runs of the batches have left: for each its folder, whether it was sent, wandb's last words.

    BatchError if W&B does not answer: `wandb sync` would try again for hours.
    """
    paths = [path for batch in batches
             for path in sorted(glob.glob(os.path.join(glob.escape(batch), "*", "wandb", "offline-run-*")))
             if os.path.isdir(path) and not _is_sent(path)]
    if paths:
        _look_for_server()
    for path in paths:
        place = os.path.dirname(os.path.dirname(os.path.abspath(path)))  # of its logs, else where one stands
        done = subprocess.run([sys.executable, "-m", "wandb", "sync", path], stdin=subprocess.DEVNULL,
                              env={**os.environ, "WANDB_DIR": place, "WANDB_ERROR_REPORTING": "false"},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        # it ends with 0 also when the server refuses
        yield path, done.returncode == 0 and _is_sent(path), (done.stdout.strip().splitlines() or [""])[-1]


def _is_sent(path: str) -> bool:
    """Whether `wandb sync` has left its mark in an offline run's folder."""
    return bool(glob.glob(os.path.join(glob.escape(path), "*.synced")))


def _look_for_server() -> None:
    import wandb

    address = os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)
    try:
        ping(address, _ANSWERS)
    except OSError as error:
        raise BatchError(f"{address} does not answer ({error}): nothing is sent", where="sync-wandb",
                         hint="give it on a machine with internet; or set WANDB_BASE_URL, if the server is another"
                         ) from None
