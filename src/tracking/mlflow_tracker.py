"""MLflow: shows a run on a tracking server while it runs. `experiments.py export` writes to files and databases."""
from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from src import run_folder
from src.config import Config
from src.io import files
from src.tracking import mlflow_run
from src.tracking.tracker import Action, EpochView, Tracker, TrackerUnavailable, ping

_MIN_INTERVAL = 1.0  # seconds between requests, however short the epochs are
_PING_TIMEOUT = 1.5  # seconds, after which a server counts as down
NOT_LIVE = ("neither mlflow_tracking_uri nor MLFLOW_TRACKING_URI is set to a server; to show this run in MLflow later, "
            "use `python experiments.py export BATCH --to mlflow --uri sqlite:///mlflow.db`")


class MlflowTracker(Tracker):
    """A child run of the batch's MLflow run, in the experiment of its batch. A resumed run continues it."""

    def __init__(self, with_model: bool) -> None:
        self._example: Any = None  # model input, if the model is logged
        self._wants_example = with_model
        self._run: mlflow_run.MlflowRun | None = None
        self._rows: dict[float, Mapping[str, float]] = {}  # of stats.csv, by step
        self._step_rows: list[Mapping[str, float]] = []  # of steps.csv, not sent yet
        self._sent = 0.0  # when rows were sent last, by time.monotonic

    @staticmethod
    def uri(config: Config) -> str | None:
        """Return the address of the server; None also for a database or folder, to which many runs must not write."""
        uri = config.mlflow_tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
        return uri if uri.startswith(("http://", "https://", "databricks")) else None

    def start(self, config: Config, facts: Mapping[str, Any], folder: str | None) -> None:
        """Continue the MLflow run of an earlier start, or create one."""
        uri = self.uri(config)
        if folder is None or uri is None:
            raise TrackerUnavailable("MLflow needs a run folder" if uri else NOT_LIVE)
        self._folder, self._config, self._facts = folder, config.to_dict(), facts
        if uri.startswith("http"):
            ping(uri, _PING_TIMEOUT)  # before importing MLflow, which takes seconds and waits longer
        if "resumed_at_step" in facts:
            self._rows = {row["step"]: row for row in mlflow_run.read_rows(folder)}
            self._step_rows = [row for row in mlflow_run.read_rows(folder, run_folder.STEPS)
                               if row["step"] <= facts["resumed_at_step"]]
        client = _HeartbeatClient(mlflow_run.connect(uri), self.heartbeat)
        experiment = mlflow_run.MlflowExperiment(client, uri, mlflow_run.experiment_name(folder, self._config))
        self._run = experiment.run(folder, self._config, facts)
        self._run.mark_running()
        self._run.log_artifact(os.path.join(folder, run_folder.CONFIG))
        if str(facts.get("device", "")).startswith("cuda"):
            self._run.log_artifact(_gpu_info(folder))

    def snapshot(self, view: EpochView, step: int) -> Action | None:
        """Copy two samples for the model's input example, the first time."""
        if self._wants_example:
            self._wants_example = False
            samples = view.samples()
            self._example = samples[:2].float().cpu().numpy() if hasattr(samples, "cpu") else None
        return None

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Send the cells of an epoch, and of earlier ones that came too soon after the last request."""
        self._rows[row["step"]] = row
        if time.monotonic() > self._sent + _MIN_INTERVAL:
            self._send_rows()

    def log_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Send the cells of steps, and of earlier ones that came too soon after the last request."""
        self._step_rows += rows
        if time.monotonic() > self._sent + _MIN_INTERVAL:
            self._send_rows()

    def _send_rows(self) -> None:
        assert self._run
        self._run.log_step_rows(self._step_rows)
        self._step_rows = []
        self._run.log_rows(self._rows.values())
        self._sent = time.monotonic()

    def finish(self, end: str | None) -> None:
        """Send the best model, if it was saved, and how the run ended; KILLED if it may be resumed."""
        assert self._run
        self._send_rows()
        if end in run_folder.ENDS:
            self._run.log_best_model(self._folder, self._facts, self._example)
            self._run.log_summary(self._facts, list(self._rows.values()), end)
        self._run.mark_ended(mlflow_run.mlflow_status(end))


class _HeartbeatClient:
    """An MLflow client that calls `heartbeat` whenever the server has answered."""

    def __init__(self, client: Any, heartbeat: Callable[[], None]) -> None:
        self._client, self._heartbeat = client, heartbeat

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            answer = attribute(*arguments, **options)
            self._heartbeat()
            return answer

        return call if callable(attribute) else attribute


def _gpu_info(folder: str) -> str:
    """Write the output of nvidia-smi to the run folder, if that is available. Return the path."""
    path = os.path.join(folder, run_folder.GPU_INFO)
    with contextlib.suppress(FileNotFoundError):  # some containers do not have it
        output = subprocess.run(["nvidia-smi"], stdout=subprocess.PIPE, check=False, timeout=30).stdout
        files.write_atomic(path, output, sync=False)
    return path
