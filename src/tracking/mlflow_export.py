"""Finished files into MLflow: a whole batch at once, again for what is new; and its model registry"""
from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from src import run_folder
from src.errors import BatchError, ConfigError
from src.run_folder import RunFolder
from src.tracking import mlflow_run
from src.tracking.mlflow_run import MlflowExperiment, MlflowRun

_FOLDER = "gridiron.folder"  # a tag of a model version: the run folder that it is from
_MISSING = "pip install mlflow-skinny sqlalchemy alembic sqlparse"


def export(batches: Sequence[str], uri: str) -> Iterator[str]:
    """Bring every run of the batches into MLflow; a line for each batch. What is there already is not sent again."""
    client = _client(uri)
    books: dict[str, MlflowExperiment] = {}
    for batch in batches:
        sent = same = 0
        for name in run_folder.run_names(batch):
            folder = os.path.join(batch, name)
            if not os.path.isfile(os.path.join(folder, run_folder.CONFIG)):
                continue  # not begun, or no run
            if export_run(client, uri, folder, books)[1]:
                sent += 1
            else:
                same += 1
        yield f"{batch}: {sent} runs brought up to date, {same} left as they were"


def export_run(client: Any, uri: str, folder: str, books: dict[str, MlflowExperiment]) -> tuple[MlflowRun, bool]:
    """Bring a run into MLflow; it, and whether there was anything to send."""
    config = run_folder.read_spec(os.path.join(folder, run_folder.CONFIG))
    facts = config.pop("facts", None) or {}
    name = mlflow_run.experiment_name(folder, config)
    book = books.get(name) or books.setdefault(name, MlflowExperiment(client, uri, name, _artifacts_beside(uri)))
    run = book.run(folder, config, facts)
    rows, at = mlflow_run.read_rows(folder), RunFolder.read(folder)
    attempt = at.last_attempt() or {}
    ended = at.ended or ("failed" if attempt.get("how") == "failed" else None)
    status = "RUNNING" if not ended and attempt.get("how") is None and attempt else mlflow_run.mlflow_status(ended)
    if run.is_current(rows, status):
        return run, False
    run.log_rows(rows)
    for artifact in (run_folder.CONFIG, run_folder.GPU_INFO):
        run.log_artifact(os.path.join(folder, artifact))
    if at.ended:
        run.log_best_model(folder, config, facts, None)
        run.log_summary(facts, rows, ended)
    if status == "RUNNING":
        run.mark_running()
    else:
        run.mark_ended(status, attempt.get("end") or (rows[-1]["timestamp"] if rows else None))
    return run, True


def register(folder: str, uri: str, name: str, alias: str | None) -> str:
    """Make a version of the registered model `name` from a run, which is exported for that; a line about it."""
    if not os.path.isfile(os.path.join(folder, run_folder.BEST_CHECKPOINT)):
        raise BatchError("this run has saved no best model", where=folder, hint="set save_best_checkpoint: true")
    if RunFolder.read(folder).ended is None:
        raise BatchError("this run has not ended", where=folder, hint="a version is of a model that stays as it is")
    client = _client(uri)
    run, _ = export_run(client, uri, folder, {})
    there = client.get_run(run.id)
    tags = {_FOLDER: os.path.abspath(folder), "batch": os.path.basename(os.path.dirname(os.path.abspath(folder))),
            "run": os.path.basename(os.path.abspath(folder)),
            "commit": there.data.tags.get("mlflow.source.git.commit", "unknown")}
    try:
        client.create_registered_model(name)
    except Exception as error:
        if "RESOURCE_ALREADY_EXISTS" not in str(getattr(error, "error_code", error)):
            raise
    source = there.data.tags[mlflow_run.MODEL]
    versions = [version for version in client.search_model_versions(f"name='{name}'") if version.run_id == run.id]
    version = versions[0] if versions else client.create_model_version(
        name, source, run.id, tags, model_id=source.rpartition("/")[2])
    if alias:
        client.set_registered_model_alias(name, alias, version.version)
    return f"{name} version {version.version}{f', {alias}' if alias else ''}: {folder}"


def resolve_model(name: str, uri: str | None, place: str) -> str:
    """Of `models:/food11@production` or `models:/food11/3`: the run folder that it is from, or, where that is not on
    this machine, its config and checkpoint, fetched into `place`."""
    match = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", name)
    if match is None:
        raise ConfigError(f"'{name}' names no model", allowed=(
            "a run folder, models:/NAME@ALIAS or models:/NAME/VERSION"))
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise ConfigError("where is the registry?", where=name, hint="give its uri, or set MLFLOW_TRACKING_URI")
    client = _client(uri)
    try:
        version = client.get_model_version_by_alias(match[1], match[2]) if match[2] else client.get_model_version(
            match[1], match[3])
    except Exception as error:
        raise ConfigError(f"the registry does not have it: {str(error).splitlines()[0]}", where=name) from None
    folder = version.tags.get(_FOLDER, "")
    if os.path.isfile(os.path.join(folder, run_folder.BEST_CHECKPOINT)):
        return folder
    import mlflow

    mlflow.set_tracking_uri(uri)
    fetched: str = mlflow.artifacts.download_artifacts(version.source, dst_path=place)
    return next(path for path, _, names in os.walk(fetched) if run_folder.BEST_CHECKPOINT in names)


def _client(uri: str) -> Any:
    if "://" not in uri:
        raise ConfigError(f"'{uri}' is no address", where="--uri", hint="as sqlite:///mlflow.db or http://host:5000")
    try:
        return mlflow_run.connect(uri)
    except ImportError as error:
        raise ConfigError(f"MLflow is not installed ({error})", where="--uri", hint=_MISSING) from None


def _artifacts_beside(uri: str) -> str | None:
    """For a database that is a file: a folder beside it; a server knows its own."""
    if not uri.startswith("sqlite:///"):
        return None
    place = os.path.dirname(os.path.abspath(uri.removeprefix("sqlite:///")))
    return f"file://{os.path.join(place, 'mlflow-artifacts')}"
