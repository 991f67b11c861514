"""Load the model that a run saved, from its folder or from the MLflow registry."""
from __future__ import annotations

import os
import tempfile
from typing import Any

import torch
from torch import nn

from src import run_folder
from src.config import Config
from src.datasets.data import Data
from src.datasets.factory import make_data
from src.errors import BatchError
from src.models.factory import make_model
from src.training.output import checkpoint
from src.training.steps.task import make_task


def load_model(run: str, uri: str | None = None) -> tuple[nn.Module, Data]:
    """Return the best model of a run, in eval mode on the CPU, and its data.

    run: a run folder, or a registered model such as models:/food11@production in the MLflow registry at `uri`. The
    weights are those of best_checkpoint.pt, otherwise of the newest checkpoint; averaged weights if it has them.
    """
    with tempfile.TemporaryDirectory() as download_folder:
        if run.startswith("models:"):
            from src.tracking.mlflow_export import resolve_model

            run = resolve_model(run, uri, download_folder)
        config, facts = _read_config(run)
        data = make_data(config)
        return _build_model(run, config, facts, data), data


class Predictor:
    """A model behind the interface of MLflow's Python models. folder: holds its config.yaml and checkpoint."""

    def __init__(self, folder: str) -> None:
        config, facts = _read_config(folder)
        self._model = _build_model(folder, config, facts, None)

    def predict(self, x: Any, params: object = None) -> Any:
        """Return the model's output [n, outputs] for samples [n, …]; both are numpy arrays."""
        with torch.inference_mode():
            return self._model(torch.as_tensor(x, dtype=torch.float32)).numpy()


def _read_config(folder: str) -> tuple[Config, dict[str, Any]]:
    """Return the config and the facts of a run that has started."""
    path = os.path.join(folder, run_folder.CONFIG)
    if not os.path.isfile(path):
        raise BatchError("this is not the folder of a run that has started", where=folder,
                         hint="pass a folder with a config.yaml")
    spec = run_folder.read_spec(path)
    return Config.from_dict(spec), spec.get("facts") or {}


def _build_model(folder: str, config: Config, facts: dict[str, Any], data: Data | None) -> nn.Module:
    """Return the model of a run with its saved weights. data: for a user-defined task, which makes the model."""
    content = checkpoint.load(_checkpoint_path(folder))
    task = make_task(config, data, torch.device("cpu")) if data and config.task else None
    model = (task.make_model() if task else None) or make_model(
        config, tuple(facts["input_shape"]), facts["output_dim"], weights=False)
    model.load_state_dict(content["averaged"] or content["model"])
    return model.eval()


def _checkpoint_path(folder: str) -> str:
    best = os.path.join(folder, run_folder.BEST_CHECKPOINT)
    if os.path.isfile(best):
        return best
    names = sorted(name for name in os.listdir(folder) if name.startswith("checkpoint-") and name.endswith(".pt"))
    if not names:
        raise BatchError("this run has not saved a model", where=folder,
                         hint="set save_best_checkpoint: true, or save_freq, and run it again")
    return os.path.join(folder, names[-1])
