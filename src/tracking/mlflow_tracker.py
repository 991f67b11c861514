"""MLflow: shows a run on a tracking server while it runs. Files and databases are left to `experiments.py export`"""
from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

from src import run_folder
from src.config import Config
from src.io import files
from src.tracking import mlflow_run
from src.tracking.tracker import Action, EpochView, Tracker, TrackerUnavailable, ping

_EVERY = 1.0  # seconds between calls of the server, however short the epochs are
_ANSWERS = 1.5  # seconds in which a server does, or is taken for one that is down
NOT_LIVE = ("MLflow is shown the files of this run later, by `python experiments.py export BATCH --to mlflow --uri "
            "sqlite:///mlflow.db`: no server is named by mlflow_tracking_uri or MLFLOW_TRACKING_URI")


class MlflowTracker(Tracker):
    """The run below its batch, in the experiment of the job's name. One that is put back and goes on is one run."""

    def __init__(self, with_model: bool) -> None:
        self._example: Any = None  # input of the model, if it is shown
        self._wants_example = with_model
        self._run: mlflow_run.MlflowRun | None = None
        self._rows: dict[float, Mapping[str, float]] = {}  # by step
        self._sent = 0.0  # when rows were, by time.monotonic

    @staticmethod
    def uri(config: Config) -> str | None:
        """The server; None if there is none. Many runs must not write one database or folder: those are none."""
        uri = config.mlflow_tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
        return uri if uri.startswith(("http://", "https://", "databricks")) else None

    def start(self, config: Config, facts: Mapping[str, Any], folder: str | None) -> None:
        """Find the run of an earlier start, or make one."""
        uri = self.uri(config)
        if folder is None or uri is None:
            raise TrackerUnavailable("there is no run folder" if uri else NOT_LIVE)
        self._folder, self._config, self._facts = folder, config.to_dict(), facts
        if uri.startswith("http"):
            ping(uri, _ANSWERS)  # before MLflow is loaded, which takes seconds and has more patience
        if "resumed_at_step" in facts:
            self._rows = {row["step"]: row for row in mlflow_run.read_rows(folder)}
        client = _Watched(mlflow_run.connect(uri), self.heartbeat)
        book = mlflow_run.MlflowExperiment(client, uri, mlflow_run.experiment_name(folder, self._config))
        self._run = book.run(folder, self._config, facts)
        self._run.mark_running()
        self._run.log_artifact(os.path.join(folder, run_folder.CONFIG))
        if str(facts.get("device", "")).startswith("cuda"):
            self._run.log_artifact(_gpu_info(folder))

    def snapshot(self, view: EpochView, step: int) -> Action | None:
        """The first time, two samples for the model's input example."""
        if self._wants_example:
            self._wants_example = False
            samples = view.samples()
            self._example = samples[:2].float().cpu().numpy() if hasattr(samples, "cpu") else None
        return None

    def log(self, row: Mapping[str, float], step: int) -> None:
        """The cells of an epoch, and of those before that have come at short intervals."""
        self._rows[row["step"]] = row
        if time.monotonic() > self._sent + _EVERY:
            self._send_rows()

    def _send_rows(self) -> None:
        assert self._run
        self._run.log_rows(self._rows.values())
        self._sent = time.monotonic()

    def finish(self, end: str | None) -> None:
        """The best model, if it was saved, and how the run ended; a run that may go on is KILLED."""
        assert self._run
        self._send_rows()
        if end in run_folder.ENDS:
            self._run.log_best_model(self._folder, self._config, self._facts, self._example)
            self._run.log_summary(self._facts, list(self._rows.values()), end)
        self._run.mark_ended(mlflow_run.mlflow_status(end))


class _Watched:
    """A client that shows a sign of life whenever the server has answered."""

    def __init__(self, client: Any, heartbeat: Callable[[], None]) -> None:
        self._client, self._heartbeat = client, heartbeat

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)

        def call(*words: Any, **options: Any) -> Any:
            answer = found(*words, **options)
            self._heartbeat()
            return answer

        return call if callable(found) else found


def _gpu_info(folder: str) -> str:
    """The path of what nvidia-smi says, if it is there to say anything."""
    path = os.path.join(folder, run_folder.GPU_INFO)
    with contextlib.suppress(FileNotFoundError):  # of a container without it
        said = subprocess.run(["nvidia-smi"], stdout=subprocess.PIPE, check=False, timeout=30).stdout
        files.write_atomic(path, said, sync=False)
    return path
