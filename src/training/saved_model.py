"""Load the model that a run saved, from its folder or from the MLflow registry."""
from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from loguru import logger
from torch import nn

from src import run_folder, stats_csv
from src.archive import run_files
from src.checks import user_code
from src.config import Config
from src.datasets.data import Data
from src.datasets.factory import make_data
from src.errors import BatchError, ConfigError, summarize
from src.io import records
from src.metrics import read_for_run
from src.models.factory import make_model
from src.training.output import checkpoint
from src.training.output.recorder import Row
from src.training.steps.task import make_task
from src.training.stopping import BestEpoch, Judgement

_REGISTRY = "the registry, which has no owner"
_JUDGEMENT: records.Forms = {
    "weights": lambda value: value in ("last", "av"), "epoch": records.is_count,
    "metric": records.optional(records.is_text), "value": records.optional(lambda value: isinstance(value, float)),
    "goal": records.optional(records.is_text)}


@dataclass(frozen=True)
class SavedModel:
    """A model of a run, in eval mode on the CPU; its data; and why these weights were chosen.

    `model, data = load_model(run)` unpacks the first two.
    """

    model: nn.Module
    data: Data
    judgement: Judgement

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.data))


def load_model(run: str, uri: str | None = None, trust: bool = False) -> SavedModel:
    """Return the best model of a run with its data.

    The checkpoint is best_checkpoint.pt, otherwise the newest one. Its weights are those that were judged best, the
    last or the averaged ones: see `find_judgement`.

    run: the folder of a run, which may be archived, or a registered model such as models:/food11@production in the
    MLflow registry at `uri`.
    trust: execute user code of this project that a config of another user, or of the registry, names. BatchError if
    that is needed and False.
    """
    with tempfile.TemporaryDirectory() as download_folder:
        is_registered = run.startswith("models:")
        if is_registered:
            from src.tracking.mlflow_export import resolve_model

            run = resolve_model(run, uri, download_folder)
        is_downloaded = is_registered and run.startswith(download_folder)
        config, facts = _read_config(run, trust, _REGISTRY if is_downloaded else None)
        data = make_data(config)
        model, judgement = _build_model(run, config, facts, data)
        return SavedModel(model, data, judgement)


class Predictor:
    """A model behind the interface of MLflow's Python models.

    folder: contains config.yaml and a checkpoint. Who owns it proves nothing, since MLflow copies it.
    trust: as in load_model.
    """

    def __init__(self, folder: str, trust: bool = False) -> None:
        config, facts = _read_config(folder, trust, _REGISTRY)
        self._model = _build_model(folder, config, facts, None)[0]

    def predict(self, x: Any, params: object = None) -> Any:
        """Return the model's output [n, outputs] for samples [n, …]; both are numpy arrays."""
        with torch.inference_mode():
            return self._model(torch.as_tensor(x, dtype=torch.float32)).numpy()


def _read_config(folder: str, trust: bool, owner: str | None) -> tuple[Config, dict[str, Any]]:
    """Return the config and the facts of a run that has started. BatchError if it needs trust.

    owner: where the folder is from, if that is not the user who owns it.
    """
    path = os.path.join(folder, run_folder.CONFIG)
    if not run_files.exists(folder, run_folder.CONFIG):
        raise BatchError("this is not the folder of a run that has started", where=folder,
                         hint="pass a folder with a config.yaml")
    spec = run_folder.read_spec(path)
    user_code.require_trust(spec, trust, path, run_files.location(folder), owner=owner)
    return Config.from_dict(spec), _facts(spec, path)


def _facts(spec: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the facts of a run. BatchError unless they have the shapes that a model is built for."""
    facts = spec.get("facts")
    if not isinstance(facts, dict) or not isinstance(facts.get("output_dim"), int) or not isinstance(
            facts.get("input_shape"), list) or not all(isinstance(size, int) for size in facts["input_shape"]):
        raise BatchError("it has no facts input_shape and output_dim, for which its model is built", where=path)
    return facts


def _build_model(folder: str, config: Config, facts: dict[str, Any], data: Data | None
                 ) -> tuple[nn.Module, Judgement]:
    """Return the model of a run with its saved weights, and why these were chosen. data: for a user-defined task."""
    path = _checkpoint_path(folder)
    content = checkpoint.load(path)
    judgement = find_judgement(content, folder)
    try:
        task = make_task(config, data, torch.device("cpu")) if data and config.task else None
        model = (task.make_model() if task else None) or make_model(
            config, tuple(facts["input_shape"]), facts["output_dim"], weights=False)
        model.load_state_dict(best_weights(content, judgement))
    except (RuntimeError, TypeError, ValueError, LookupError, OverflowError, MemoryError, AttributeError) as error:
        raise BatchError(f"its weights do not fit the model of its config: {summarize(error)}", where=path) from error
    return model.eval(), judgement


def best_weights(content: Mapping[str, Any], judgement: Judgement) -> dict[str, torch.Tensor]:
    """Return the state dict of a checkpoint that was judged best."""
    weights: dict[str, torch.Tensor] = content["averaged"] if judgement.weights == "av" else content["model"]
    return weights


def find_judgement(content: Mapping[str, Any], folder: str) -> Judgement:
    """Return which weights of a checkpoint were judged best, and why.

    A checkpoint of an older version does not record it. If it has averaged weights, the row of its epoch in stats.csv
    decides, by best_checkpoint_metric; without such a row, the averaged weights if the run evaluated them, else the
    last. Either is logged as a warning.
    """
    if "judgement" in content:
        checked = records.fields(content["judgement"], _JUDGEMENT)
        if not checked.keys() >= {"weights", "epoch"} or checked["weights"] == "av" and content["averaged"] is None:
            raise BatchError("not a checkpoint: its judgement has another form", where=folder)
        return Judgement(**{name: checked[name] for name in Judgement._fields if name in checked})
    epoch, config = int(content["epoch"]), {**Config().to_dict(), **content["config"]}
    if content["averaged"] is None:
        return Judgement("last", epoch)
    stats = stats_csv.read(folder)
    cells = dict(zip(stats.epochs, stats.rows, strict=True)).get(epoch, [""] * len(stats.names))
    row: Row = dict(zip(stats.names, map(stats_csv.to_number, cells), strict=True))
    try:
        judgement = BestEpoch(str(config["best_checkpoint_metric"]), stats.names, read_for_run(folder)).judge(row)
    except ConfigError:  # no such column, or no direction
        judgement = None
    models = config["eval_models"]
    is_averaged = "av" in models if isinstance(models, list) and models else True
    judgement = judgement or Judgement("av" if is_averaged else "last", epoch)
    reason = f"by {judgement.metric} in stats.csv" if judgement.metric else "without a metric"
    logger.warning("{}: the checkpoint does not record which weights were judged best; chosen {}: {}", folder, reason,
                   "averaged" if judgement.weights == "av" else "last")
    return judgement


def _checkpoint_path(folder: str) -> str:
    if run_files.exists(folder, run_folder.BEST_CHECKPOINT):
        return os.path.join(folder, run_folder.BEST_CHECKPOINT)
    names = sorted(name for name in run_files.list_names(folder)
                   if name.startswith("checkpoint-") and name.endswith(".pt"))
    if not names:
        raise BatchError("this run has not saved a model", where=folder,
                         hint="set save_best_checkpoint: true, or save_freq, and run it again")
    return os.path.join(folder, names[-1])
