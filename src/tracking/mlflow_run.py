"""A run in MLflow, from the files of its folder. Live runs and exports use the same functions, without duplicates."""
from __future__ import annotations

import getpass
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src import run_folder, stats_csv
from src.config import NOT_PARAMETERS
from src.errors import UserError
from src.io import files, yaml_io
from src.tracking.tracker import step_metrics

_MAX_PER_REQUEST = {"params": 100, "metrics": 800, "tags": 100}  # MLflow accepts 1000 altogether
_MAX_LENGTH = {"params": 6000, "tags": 5000}
# tags of this project; _STEP and _LOGGED_STEP are those of the last row of stats.csv and of steps.csv
_ID, _STEP, _LOGGED_STEP, MODEL = "gridiron.id", "gridiron.step", "gridiron.logged_step", "gridiron.model"

Cells = Mapping[str, float]


def connect(uri: str) -> Any:
    """Return an MLflow client, with short timeouts and without telemetry."""
    for name, value in (("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
                        ("MLFLOW_DISABLE_TELEMETRY", "true"), ("GIT_PYTHON_REFRESH", "quiet")):
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri, uri)


class MlflowExperiment:
    """An MLflow experiment: the runs of all batches with one name, below a parent run for each batch."""

    def __init__(self, client: Any, uri: str, name: str, artifacts: str | None = None) -> None:
        self.client = client
        # hashed, since the address may contain a key
        self._key = hashlib.sha256(f"{uri}\n{name}".encode()).hexdigest()[:8]
        self.id = self._find_or_create(name, artifacts)

    def _find_or_create(self, name: str, artifacts: str | None) -> str:
        for _ in range(2):  # another process may create it meanwhile
            if experiment := self.client.get_experiment_by_name(name):
                return str(experiment.experiment_id)
            try:
                return str(self.client.create_experiment(name, artifacts))
            except Exception as error:
                failure = error
        raise failure

    def run(self, folder: str, config: Mapping[str, Any], facts: Mapping[str, Any]) -> MlflowRun:
        """Return the MLflow run of a run folder, created below that of its batch if need be."""
        batch = os.path.dirname(os.path.abspath(folder))
        parent = self._create_batch_run(batch) if run_folder.is_batch_folder(batch) else None
        tags = {"mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL",
                "mlflow.source.git.commit": _commit(batch) or facts.get("commit"),
                "mlflow.note.content": _details(batch).get("description"), "mlflow.parentRunId": parent,
                **{f"facts/{name}": value for name, value in facts.items()},
                **dict.fromkeys(run_folder.tags(folder), "true")}
        run_id = self._create_once(folder, {"mlflow.user": _user(), **tags}, _first_start(folder))
        run = MlflowRun(self.client, run_id)
        run.log_parameters(config, tags)
        return run

    def _create_batch_run(self, batch: str) -> str:
        return self._create_once(batch, {"mlflow.user": _user(), "mlflow.source.git.commit": _commit(batch),
                                         "mlflow.note.content": _details(batch).get("description")})

    def _create_once(self, folder: str, tags: Mapping[str, Any], started: float | None = None) -> str:
        """Return the id of the MLflow run of a folder, created if need be.

        Many runs may create that of their batch at once: the first to write its id to the folder wins, and the others
        delete theirs.
        """
        folder = os.path.abspath(folder)
        name, identity = os.path.basename(folder), run_folder.identity(folder)
        path = os.path.join(folder, run_folder.mlflow_name(self._key))
        has_record = os.path.lexists(path)
        recorded = _recorded_id(path, identity)
        if recorded and self._exists(recorded):
            return recorded
        matches = self.client.search_runs([self.id], f"tags.`{_ID}` = '{identity}'", max_results=1)
        if matches:
            return str(matches[0].info.run_id)
        created = self.client.create_run(self.id, None if started is None else int(1000 * started),
                                         {**_texts(tags, "tags"), _ID: identity}, name)
        run_id = str(created.info.run_id)
        new_record = {"identity": identity, "run_id": run_id}
        if has_record:  # damaged, or of a run that no longer exists
            files.write_json(path, new_record)
        elif not files.create_exclusive(path, yaml_io.dump_value(new_record) + "\n") and (
                first := _recorded_id(path, identity)):
            self.client.delete_run(run_id)
            return first
        if run_folder.is_batch_folder(folder):  # only a heading
            self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def _exists(self, run_id: str) -> bool:
        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except Exception as error:
            if "RESOURCE_DOES_NOT_EXIST" in str(getattr(error, "error_code", error)):
                return False
            raise


class MlflowRun:
    """A run in MLflow. What it has already is not sent again."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.client, self.id = client, run_id
        self._remote = client.get_run(run_id)
        self._step, self._logged_step = (int(self._remote.data.tags.get(tag, -1)) for tag in (_STEP, _LOGGED_STEP))

    def log_parameters(self, config: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Send parameters that are missing, since MLflow does not let them change, and tags."""
        remote = self._remote.data
        parameters = _texts(flatten_parameters(config), "params")
        missing = {name: value for name, value in parameters.items() if name not in remote.params}
        changed = {name: value for name, value in _texts(tags, "tags").items() if remote.tags.get(name) != value}
        self._send(params=missing, tags=changed)

    def mark_running(self) -> None:
        """Set the status to RUNNING."""
        if self._remote.info.status != "RUNNING":
            self.client.update_run(self.id, "RUNNING")
            self._remote.info._status = "RUNNING"

    def is_current(self, rows: Sequence[Cells], step_rows: Sequence[Cells], status: str) -> bool:
        """Return whether it has this status and all of these rows, of stats.csv and of steps.csv."""
        return self._remote.info.status == status and (not rows or rows[-1]["step"] <= self._step) and (
            not step_rows or step_rows[-1]["step"] <= self._logged_step)

    def log_rows(self, rows: Iterable[Cells]) -> None:
        """Send the rows of epochs, at their steps, except those that it has."""
        from mlflow.entities import Metric

        new = [row for row in rows if row["step"] > self._step]
        metrics = [Metric(name, value, int(1000 * row["timestamp"]), int(row["step"])) for row in new
                   for name, value in row.items() if name not in ("step", "timestamp")]
        if new:
            step = int(new[-1]["step"])
            self._send(metrics=metrics, tags={_STEP: str(step)})
            self._step = step  # after an error they are sent again

    def log_step_rows(self, rows: Iterable[Cells]) -> None:
        """Send rows of steps.csv, except those that it has."""
        from mlflow.entities import Metric

        new = [row for row in rows if row["step"] > self._logged_step]
        if new:
            step = int(max(row["step"] for row in new))
            self._send(tags={_LOGGED_STEP: str(step)}, metrics=[
                Metric(name, value, int(1000 * row["timestamp"]), int(row["step"]))
                for row in new for name, value in step_metrics(row).items()])
            self._logged_step = step

    def log_artifact(self, path: str) -> None:
        """Send a file, if it exists."""
        if os.path.isfile(path):
            self.client.log_artifact(self.id, path)

    def log_best_model(self, folder: str, facts: Mapping[str, Any], example: Any) -> None:
        """Send best_checkpoint.pt as a model that MLflow can load and register, unless it has one.

        example: input [n, …] for the signature; None for zeros. No code is pickled: the model is built from its config.
        """
        checkpoint = os.path.join(folder, run_folder.BEST_CHECKPOINT)
        if MODEL in self._remote.data.tags or not os.path.isfile(checkpoint) or not facts.get("input_shape"):
            return
        import mlflow
        import numpy as np
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        if example is None:
            example = np.zeros((1, *facts["input_shape"]), np.float32)
        signature = ModelSignature(
            Schema([TensorSpec(np.dtype(np.float32), (-1, *facts["input_shape"]))]),
            Schema([TensorSpec(np.dtype(np.float32), (-1, facts["output_dim"]))]))
        mlflow.set_tracking_uri(self.client.tracking_uri)
        with tempfile.TemporaryDirectory() as temporary, mlflow.start_run(self.id, nested=True):
            data = os.path.join(temporary, "run")
            os.mkdir(data)
            for name in (run_folder.CONFIG, run_folder.BEST_CHECKPOINT):
                os.symlink(os.path.join(os.path.abspath(folder), name), os.path.join(data, name))
            info = mlflow.pyfunc.log_model(
                name="model", loader_module="train", data_path=data, signature=signature, input_example=example,
                pip_requirements=[f"torch=={facts.get('torch', '')}".partition("+")[0]])
        self._send(tags={MODEL: info.model_uri})

    def log_summary(self, facts: Mapping[str, Any], rows: Sequence[Cells], end: str | None) -> None:
        """Send numbers of the whole run: trainable_params, and the epoch after which it stopped early."""
        from mlflow.entities import Metric

        last = rows[-1] if rows else {}
        numbers = {"trainable_params": last.get("train/trainable_parameters", facts.get("parameters")),
                   "early_stopping_epoch": last.get("epoch") if end == run_folder.EARLY_STOPPED else None}
        self._send(tags={"end": str(end)}, metrics=[
            Metric(name, float(value), int(1000 * last.get("timestamp", 0)), int(last.get("step", 0)))
            for name, value in numbers.items() if value is not None and name not in self._remote.data.metrics])

    def mark_ended(self, status: str, when: float | None = None) -> None:
        """Set the status FINISHED, FAILED or KILLED. when: Unix time; None for now."""
        self.client.set_terminated(self.id, status, None if when is None else int(1000 * when))

    def _send(self, params: Mapping[str, str] | None = None, metrics: Sequence[Any] = (),
              tags: Mapping[str, str] | None = None) -> None:
        from mlflow.entities import Param, RunTag

        remaining: dict[str, list[Any]] = {
            "params": [Param(*item) for item in (params or {}).items()], "metrics": list(metrics),
            "tags": [RunTag(*item) for item in (tags or {}).items()]}
        while any(remaining.values()):
            request = {kind: items[:_MAX_PER_REQUEST[kind]] for kind, items in remaining.items()}
            if len(remaining["metrics"]) > len(request["metrics"]):
                request["tags"] = []  # last, since they record which metrics were sent
            self.client.log_batch(self.id, **request)
            remaining = {kind: items[len(request[kind]):] for kind, items in remaining.items()}


def _recorded_id(path: str, identity: str) -> str | None:
    """Return the id of the MLflow run that a file records for the run folder with this identity; None without one."""
    record = files.read_json(path)
    run_id = record.get("run_id") if isinstance(record, dict) and record.get("identity") == identity else None
    return run_id if isinstance(run_id, str) else None


def flatten_parameters(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the parameters of a config, those inside mappings as `a/b`; output_dir is left out."""
    parameters: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            parameters |= flatten_parameters(value, f"{prefix}{name}/")
        elif name not in NOT_PARAMETERS and name != "output_dir":
            parameters[f"{prefix}{name}"] = value
    return parameters


def mlflow_status(end: str | None) -> str:
    """Return MLflow's status for how a run ended; KILLED for one that was interrupted."""
    return "FINISHED" if end in run_folder.ENDS else "FAILED" if end == "failed" else "KILLED"


def experiment_name(folder: str, config: Mapping[str, Any]) -> str:
    """Return mlflow_experiment, or the name of the batch without its date, so that batches can be compared."""
    batch = os.path.basename(os.path.dirname(os.path.abspath(folder)))
    return str(config.get("mlflow_experiment") or re.sub(r"^\d\d-\d\d-\d\d-", "", batch) or "runs")


def read_rows(folder: str, name: str = run_folder.STATS) -> list[dict[str, float]]:
    """Return the rows of stats.csv or steps.csv, without empty cells and columns of words."""
    stats = stats_csv.read(folder, name)
    return [{column: stats_csv.to_number(cell) for column, cell in zip(stats.names, cells, strict=True)
             if cell and column not in stats.words} for cells in stats.rows]


def _texts(values: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Return names and values as MLflow accepts them: other characters replaced, long values cut, null tags removed."""
    return {re.sub(r"[^\w\-. :/]", "_", name): (value if isinstance(value, str) else "None" if value is None
                                                else yaml_io.dump_value(value))[:_MAX_LENGTH[kind]]
            for name, value in values.items() if kind != "tags" or value is not None}


def _details(batch: str) -> dict[str, Any]:
    """Return job_details of a batch, or an empty mapping."""
    try:
        details = yaml_io.load_file(os.path.join(batch, run_folder.JOB_SPEC)).get("job_details")
    except (UserError, AttributeError):
        return {}
    return details if isinstance(details, dict) else {}


def _first_start(folder: str) -> float | None:
    """Return when the first attempt of a run started, as Unix time."""
    run = run_folder.RunFolder.read(folder)
    return run.attempt(*run.attempts[0]).get("start") if run.attempts else None


def _commit(batch: str) -> str | None:
    """Return the commit of the batch's last submission."""
    code = os.path.join(batch, run_folder.CODE)
    for name in sorted(files.list_folder(code), reverse=True):
        record = files.read_json(os.path.join(code, name, run_folder.CODE_RECORD))
        commit = record.get("commit") if isinstance(record, dict) else None
        if isinstance(commit, str):
            return commit
    return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        return "unknown"
