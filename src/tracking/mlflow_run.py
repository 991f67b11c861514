"""A run in MLflow, as its folder tells it: a live run and a later export call the same functions; neither doubles it"""
from __future__ import annotations

import getpass
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src import run_folder
from src.config import NOT_PARAMETERS
from src.errors import UserError
from src.io import files, yaml_io

_AT_ONCE = {"params": 100, "metrics": 800, "tags": 100}  # the most that MLflow takes in a call, which is 1000 in all
_LONGEST = {"params": 6000, "tags": 5000}
_ID, _STEP, MODEL = "gridiron.id", "gridiron.step", "gridiron.model"  # tags of ours

Cells = Mapping[str, float]


def connect(uri: str) -> Any:
    """MLflow's client. A server that does not answer is noticed soon; nobody else is told of this project."""
    for name, value in (("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10"),
                        ("MLFLOW_DISABLE_TELEMETRY", "true"), ("GIT_PYTHON_REFRESH", "quiet")):
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri, uri)


class MlflowExperiment:
    """An MLflow experiment: the runs of all batches that have one name, and each batch as their parent."""

    def __init__(self, client: Any, uri: str, name: str, artifacts: str | None = None) -> None:
        self.client = client
        self._key = hashlib.sha256(f"{uri}\n{name}".encode()).hexdigest()[:8]  # names no address: it may hold a key
        self.id = self._found_or_made(name, artifacts)

    def _found_or_made(self, name: str, artifacts: str | None) -> str:
        for _ in range(2):  # another process may make it meanwhile
            if found := self.client.get_experiment_by_name(name):
                return str(found.experiment_id)
            try:
                return str(self.client.create_experiment(name, artifacts))
            except Exception as error:
                failure = error
        raise failure

    def run(self, folder: str, config: Mapping[str, Any], facts: Mapping[str, Any]) -> MlflowRun:
        """The run of a run folder: the one that there is, or a new one below its batch."""
        batch = os.path.dirname(os.path.abspath(folder))
        parent = self._parent(batch) if run_folder.is_batch_folder(batch) else None
        tags = {"mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL",
                "mlflow.source.git.commit": _commit(batch) or facts.get("commit"),
                "mlflow.note.content": _details(batch).get("description"), "mlflow.parentRunId": parent,
                **{f"facts/{name}": value for name, value in facts.items()},
                **dict.fromkeys(run_folder.tags(folder), "true")}
        attempts = run_folder.RunFolder.read(folder)
        first = files.read_json(attempts.file(run_folder.attempt_name(*attempts.attempts[0]))) if (
            attempts.attempts) else None
        run = MlflowRun(self.client, self._made_once(folder, {"mlflow.user": _user(), **tags},
                                                     (first or {}).get("start")))
        run.log_parameters(config, tags)
        return run

    def _parent(self, batch: str) -> str:
        return self._made_once(batch, {"mlflow.user": _user(), "mlflow.source.git.commit": _commit(batch),
                                       "mlflow.note.content": _details(batch).get("description")})

    def _made_once(self, folder: str, tags: Mapping[str, Any], started: float | None = None) -> str:
        """The id of the MLflow run of a folder. Many runs may ask for that of their batch at once: of those that make
        one, the first to leave its id in the folder is right, and the others take theirs back."""
        folder = os.path.abspath(folder)
        name, identity = os.path.basename(folder), run_folder.identity(folder)
        path = os.path.join(folder, run_folder.mlflow_name(self._key))
        known = files.read_json(path)
        if isinstance(known, dict) and known.get("identity") == identity and self._exists(known["run_id"]):
            return str(known["run_id"])
        found = self.client.search_runs([self.id], f"tags.`{_ID}` = '{identity}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        made = self.client.create_run(self.id, None if started is None else int(1000 * started),
                                      {**_texts(tags, "tags"), _ID: identity}, name)
        run_id = str(made.info.run_id)
        record = {"identity": identity, "run_id": run_id}
        if known is not None:  # of a server that is no more
            files.write_json(path, record)
        elif not files.create_exclusive(path, yaml_io.dump_value(record) + "\n"):
            self.client.delete_run(run_id)
            return str(files.read_json(path)["run_id"])
        if run_folder.is_batch_folder(folder):  # a heading: what runs is below it
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
    """One run there. What it has already is not sent again."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.client, self.id = client, run_id
        self._there = client.get_run(run_id)
        self._step = int(self._there.data.tags.get(_STEP, -1))

    def log_parameters(self, config: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
        """Parameters, as far as they are not there (MLflow lets none change), and tags."""
        there = self._there.data
        params = {name: value for name, value in _texts(flatten_parameters(config),
                                                        "params").items() if name not in there.params}
        changed = {name: value for name, value in _texts(tags, "tags").items() if there.tags.get(name) != value}
        self._send(params=params, tags=changed)

    def mark_running(self) -> None:
        """It runs, perhaps again."""
        if self._there.info.status != "RUNNING":
            self.client.update_run(self.id, "RUNNING")
            self._there.info._status = "RUNNING"

    def is_current(self, rows: Sequence[Cells], status: str) -> bool:
        """Whether it ended so, and has all of these rows."""
        return self._there.info.status == status and (not rows or rows[-1]["step"] <= self._step)

    def log_rows(self, rows: Iterable[Cells]) -> None:
        """The cells of epochs, at their steps; rows that are there are left out."""
        from mlflow.entities import Metric

        new = [row for row in rows if row["step"] > self._step]
        metrics = [Metric(name, value, int(1000 * row["timestamp"]), int(row["step"])) for row in new
                   for name, value in row.items() if name not in ("step", "timestamp")]
        if new:
            self._step = int(new[-1]["step"])
            self._send(metrics=metrics, tags={_STEP: str(self._step)})

    def log_artifact(self, path: str) -> None:
        """A file of the run folder, if it is there."""
        if os.path.isfile(path):
            self.client.log_artifact(self.id, path)

    def log_best_model(self, folder: str, config: Mapping[str, Any], facts: Mapping[str, Any], example: Any) -> None:
        """best_checkpoint.pt as a model that MLflow can load and register, with signature and input example [n, …]; no
        code is pickled: it is built from the config again. Once."""
        checkpoint = os.path.join(folder, run_folder.BEST_CHECKPOINT)
        if MODEL in self._there.data.tags or not os.path.isfile(checkpoint) or not facts.get("input_shape"):
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
        with tempfile.TemporaryDirectory() as place, mlflow.start_run(self.id, nested=True):
            data = os.path.join(place, "run")
            os.mkdir(data)
            for name in (run_folder.CONFIG, run_folder.BEST_CHECKPOINT):
                os.symlink(os.path.join(os.path.abspath(folder), name), os.path.join(data, name))
            info = mlflow.pyfunc.log_model(
                name="model", loader_module="train", data_path=data, signature=signature, input_example=example,
                pip_requirements=[f"torch=={facts.get('torch', '')}".partition("+")[0]])
        self._send(tags={MODEL: info.model_uri})

    def log_summary(self, facts: Mapping[str, Any], rows: Sequence[Cells], end: str | None) -> None:
        """Numbers of a run as a whole: trainable_params, and the epoch after which it stopped early."""
        from mlflow.entities import Metric

        last = rows[-1] if rows else {}
        found = {"trainable_params": last.get("train/trainable_parameters", facts.get("parameters")),
                 "early_stopping_epoch": last.get("epoch") if end == run_folder.EARLY_STOPPED else None}
        self._send(tags={"end": str(end)}, metrics=[
            Metric(name, float(value), int(1000 * last.get("timestamp", 0)), int(last.get("step", 0)))
            for name, value in found.items() if value is not None and name not in self._there.data.metrics])

    def mark_ended(self, status: str, when: float | None = None) -> None:
        """FINISHED, FAILED or KILLED; when: unix seconds, None: now."""
        self.client.set_terminated(self.id, status, None if when is None else int(1000 * when))

    def _send(self, params: Mapping[str, str] | None = None, metrics: Sequence[Any] = (),
              tags: Mapping[str, str] | None = None) -> None:
        from mlflow.entities import Param, RunTag

        left: dict[str, list[Any]] = {
            "params": [Param(*item) for item in (params or {}).items()], "metrics": list(metrics),
            "tags": [RunTag(*item) for item in (tags or {}).items()]}
        while any(left.values()):
            now = {kind: items[:_AT_ONCE[kind]] for kind, items in left.items()}
            if len(left["metrics"]) > len(now["metrics"]):
                now["tags"] = []  # which say what is there
            self.client.log_batch(self.id, **now)
            left = {kind: items[len(now[kind]):] for kind, items in left.items()}


def flatten_parameters(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The parameters of a run, those inside of mappings as `a/b`; null stays. Where it wrote is none."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flatten_parameters(value, f"{above}{name}/")
        elif name not in NOT_PARAMETERS and name != "output_dir":
            found[f"{above}{name}"] = value
    return found


def mlflow_status(end: str | None) -> str:
    """MLflow's word for how a run ended; one that was broken off may go on."""
    return "FINISHED" if end in run_folder.ENDS else "FAILED" if end == "failed" else "KILLED"


def experiment_name(folder: str, config: Mapping[str, Any]) -> str:
    """mlflow_experiment, or the name of the batch without its date, so that batches can be compared."""
    batch = os.path.basename(os.path.dirname(os.path.abspath(folder)))
    return str(config.get("mlflow_experiment") or re.sub(r"^\d\d-\d\d-\d\d-", "", batch) or "runs")


def read_rows(folder: str) -> list[dict[str, float]]:
    """The rows of stats.csv, without empty cells."""
    header, *lines = (files.read_text(os.path.join(folder, run_folder.STATS)) or "").split("\n")[:-1] or [""]
    names = header.split(",")
    return [{name: float(cell) for name, cell in zip(names, line.split(","), strict=True) if cell} for line in lines
            if line.count(",") == header.count(",")]


def _texts(values: Mapping[str, Any], kind: str) -> dict[str, str]:
    """As MLflow takes them: names without what it refuses, values as strings, cut where it cuts. Of tags, null is left
    out; NaN and infinities are words anyway."""
    return {re.sub(r"[^\w\-. :/]", "_", name): (value if isinstance(value, str) else "None" if value is None
                                                else yaml_io.dump_value(value))[:_LONGEST[kind]]
            for name, value in values.items() if kind != "tags" or value is not None}


def _details(batch: str) -> dict[str, Any]:
    """job_details of a batch; empty where there are none."""
    try:
        details = yaml_io.load_file(os.path.join(batch, run_folder.JOB_SPEC)).get("job_details")
    except (UserError, AttributeError):
        return {}
    return details if isinstance(details, dict) else {}


def _commit(batch: str) -> str | None:
    """The commit of the batch's last submission."""
    code = os.path.join(batch, run_folder.CODE)
    for name in sorted(os.listdir(code), reverse=True) if os.path.isdir(code) else ():
        record = files.read_json(os.path.join(code, name, run_folder.CODE_RECORD))
        if isinstance(record, dict):
            return record.get("commit")
    return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        return "unknown"


