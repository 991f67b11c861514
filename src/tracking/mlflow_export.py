"""Export batches to MLflow, repeatedly if need be, and register models in its model registry."""
from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from src import run_folder
from src.archive import run_files
from src.errors import BatchError, ConfigError, UserError, one_line
from src.io import records
from src.run_folder import RunFolder
from src.tracking import mlflow_run
from src.tracking.mlflow_run import MlflowExperiment, MlflowRun

_FOLDER = "gridiron.folder"  # tag of a model version: its run folder
_MISSING = "pip install mlflow-skinny sqlalchemy alembic sqlparse"


def export(batches: Sequence[str], uri: str) -> Iterator[str]:
    """Send the runs of the batches to MLflow, except what it has already. Yield a line for each batch."""
    client = _client(uri)
    experiments: dict[str, MlflowExperiment] = {}
    for batch in batches:
        sent = unchanged = 0
        left_out = []
        for name in run_folder.run_names(batch):
            folder = os.path.join(batch, name)
            if not run_files.exists(folder, run_folder.CONFIG):
                continue  # not started, or not a run
            try:
                run_files.require_folder(folder, "exported")
                has_changed = export_run(client, uri, folder, experiments)[1]
            except UserError as error:  # one bad run does not stop the others
                left_out.append(f"{folder}: left out: {one_line(str(error))[:500]}")
                continue
            except OSError as error:
                if not str(error.filename or "").startswith(folder):
                    raise  # an error of the server, not of this run's files
                left_out.append(f"{folder}: left out: {os.path.basename(error.filename)}: {error.strerror}")
                continue
            sent, unchanged = sent + has_changed, unchanged + (not has_changed)
        yield f"{batch}: {sent} runs updated, {unchanged} unchanged{f', {len(left_out)} left out' if left_out else ''}"
        yield from left_out


def export_run(client: Any, uri: str, folder: str, experiments: dict[str, MlflowExperiment]
               ) -> tuple[MlflowRun, bool]:
    """Send a run to MLflow. Return it, and whether there was anything to send."""
    config = run_folder.read_spec(os.path.join(folder, run_folder.CONFIG))
    facts = config.pop("facts", None)
    facts = facts if isinstance(facts, dict) else {}
    name = mlflow_run.experiment_name(folder, config)
    experiment = experiments.get(name) or experiments.setdefault(
        name, MlflowExperiment(client, uri, name, _artifact_location(uri)))
    run = experiment.run(folder, config, facts)
    rows, step_rows = ([row for row in mlflow_run.read_rows(folder, name) if all(
        records.is_number(row.get(key)) for key in ("step", "timestamp"))]
        for name in (run_folder.STATS, run_folder.STEPS))
    files_of_run = RunFolder.read(folder)
    attempt = files_of_run.last_attempt() or {}
    ended = files_of_run.ended or ("failed" if attempt.get("how") == "failed" else None)
    status = "RUNNING" if not ended and attempt.get("how") is None and attempt else mlflow_run.mlflow_status(ended)
    if run.is_current(rows, step_rows, status):
        return run, False
    run.log_rows(rows)
    run.log_step_rows(step_rows)
    for artifact in (run_folder.CONFIG, run_folder.GPU_INFO):
        run.log_artifact(os.path.join(folder, artifact))
    if files_of_run.ended:
        run.log_best_model(folder, facts, None)
        run.log_summary(facts, rows, ended)
    if status == "RUNNING":
        run.mark_running()
    else:
        run.mark_ended(status, attempt.get("end") or (rows[-1]["timestamp"] if rows else None))
    return run, True


def register(folder: str, uri: str, name: str, alias: str | None) -> str:
    """Export a run, and create a version of the registered model `name` from it. Return a line about it."""
    run_files.require_folder(folder, "registered")
    if not os.path.isfile(os.path.join(folder, run_folder.BEST_CHECKPOINT)):
        raise BatchError("this run has not saved a best model", where=folder, hint="set save_best_checkpoint: true")
    if RunFolder.read(folder).ended is None:
        raise BatchError("this run has not ended", where=folder, hint="wait for its end: a version does not change")
    client = _client(uri)
    run, _ = export_run(client, uri, folder, {})
    remote = client.get_run(run.id)
    tags = {_FOLDER: os.path.abspath(folder), "batch": os.path.basename(os.path.dirname(os.path.abspath(folder))),
            "run": os.path.basename(os.path.abspath(folder)),
            "commit": remote.data.tags.get("mlflow.source.git.commit", "unknown")}
    try:
        client.create_registered_model(name)
    except Exception as error:
        if "RESOURCE_ALREADY_EXISTS" not in str(getattr(error, "error_code", error)):
            raise
    source = remote.data.tags[mlflow_run.MODEL]
    versions = [version for version in client.search_model_versions(f"name='{name}'") if version.run_id == run.id]
    version = versions[0] if versions else client.create_model_version(
        name, source, run.id, tags, model_id=source.rpartition("/")[2])
    if alias:
        client.set_registered_model_alias(name, alias, version.version)
    return f"{name} version {version.version}{f', {alias}' if alias else ''}: {folder}"


def resolve_model(name: str, uri: str | None, download_folder: str) -> str:
    """Return the run folder of `models:/food11@production` or `models:/food11/3`.

    If it is not on this machine, the config and the checkpoint are downloaded into `download_folder`.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", name)
    if match is None:
        raise ConfigError(f"'{name}' is not the name of a model", allowed=(
            "a run folder, models:/NAME@ALIAS or models:/NAME/VERSION"))
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise ConfigError("the address of the registry is required", where=name,
                          hint="pass uri, or set MLFLOW_TRACKING_URI")
    client = _client(uri)
    try:
        version = client.get_model_version_by_alias(match[1], match[2]) if match[2] else client.get_model_version(
            match[1], match[3])
    except Exception as error:
        raise ConfigError(f"the registry does not have this model: {str(error).splitlines()[0]}", where=name) from None
    folder = version.tags.get(_FOLDER, "")
    if folder and run_files.exists(folder, run_folder.BEST_CHECKPOINT):
        return folder
    import mlflow

    mlflow.set_tracking_uri(uri)
    downloaded: str = mlflow.artifacts.download_artifacts(version.source, dst_path=download_folder)
    return next(path for path, _, names in os.walk(downloaded) if run_folder.BEST_CHECKPOINT in names)


def _client(uri: str) -> Any:
    if "://" not in uri:
        raise ConfigError(f"'{uri}' is not an address", where="--uri", hint="e.g. sqlite:///mlflow.db or http://host:5000")
    try:
        return mlflow_run.connect(uri)
    except ImportError as error:
        raise ConfigError(f"MLflow is not installed ({error})", where="--uri", hint=_MISSING) from None


def _artifact_location(uri: str) -> str | None:
    """Return the folder for artifacts beside a database that is a file; None for a server, which has its own."""
    if not uri.startswith("sqlite:///"):
        return None
    folder = os.path.dirname(os.path.abspath(uri.removeprefix("sqlite:///")))
    return f"file://{os.path.join(folder, 'mlflow-artifacts')}"
