"""load_model returns the weights that were judged best: evaluated again, they have the logged value."""
from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from loguru import logger

from src import run_folder
from src.archive import writer
from src.config import Config
from src.errors import BatchError
from src.io import ownership
from src.training.output import checkpoint
from src.training.saved_model import SavedModel, load_model
from src.training.stopping import Judgement
from tests.conftest import ROOT
from train import experiment_generator

SPLITS = {"train": "train[:300]", "val": "train[300:500]", "test": "train[500:700]"}
# averaging, best_checkpoint_metric, eval_models, recompute_batch_norm
COMBINATIONS = [
    (averaging, metric, models, recompute)
    for averaging, metric, models, recompute in itertools.product(
        (None, "poly_8", "ema_0.97"),
        ("val/.*/accuracy", "val/.*/loss", "val/last/accuracy", "val/av/loss", "train/loss"),
        (None, ["last"], ["av"]), (False, True))
    if (averaging or not (recompute or models == ["av"] or "/av/" in metric))
    and not (models == ["av"] and "/last/" in metric) and not (models == ["last"] and "/av/" in metric)]


def train_digits(folder: Path, **options: Any) -> pd.DataFrame:
    """Train a small batch-norm network with large steps. Returns the rows of stats.csv."""
    config = Config.from_dict({
        "dataset": "sklearn/digits", "data_splits_map": SPLITS, "model": "tests.training.tasks:make_normed_net",
        "batch_size": 20, "base_lr": 0.4, "train_length": 4, "seed_model": 1, "seed_training": 2,
        "save_best_checkpoint": True, "output_dir": str(folder), **options})
    for stats, _model in experiment_generator(config):
        rows = stats
    return rows


def values_of(loaded: SavedModel, split: str) -> dict[str, float]:
    """Loss and accuracy of a loaded model on a split, in plain PyTorch."""
    x, y = loaded.data.splits[split].x, loaded.data.splits[split].y  # type: ignore[union-attr]
    with torch.inference_mode():
        output = loaded.model(x)
    return {"loss": F.cross_entropy(output, y).item(), "accuracy": (output.argmax(1) == y).double().mean().item()}


@pytest.mark.parametrize(("averaging", "metric", "models", "recompute"), COMBINATIONS)
def test_loaded_model_has_the_logged_value(averaging: str | None, metric: str, models: list[str] | None,
                                           recompute: bool, tmp_path: Path) -> None:
    rows = train_digits(tmp_path, averaging=averaging, best_checkpoint_metric=metric, eval_models=models,
                        recompute_batch_norm=recompute)
    loaded = load_model(str(tmp_path))
    judged, measure = loaded.judgement, metric.rpartition("/")[2]
    matching = rows.filter(regex=f"^{metric}$")
    best = matching.min() if measure == "loss" else matching.max()
    assert judged.value == (best.min() if measure == "loss" else best.max())
    assert judged.goal == ("minimize" if measure == "loss" else "maximize")
    row = rows[rows["epoch"] == judged.epoch].iloc[0]
    assert row[judged.metric] == judged.value
    assert judged.weights == ("av" if str(judged.metric).startswith("val/av/") else "last")
    if metric.startswith("train/"):  # values before each step: no later evaluation repeats them
        return
    assert values_of(loaded, "val")[measure] == pytest.approx(judged.value, rel=1e-5)
    for split, name in itertools.product(("val", "test"), ("loss", "accuracy")):
        assert values_of(loaded, split)[name] == pytest.approx(row[f"{split}/{judged.weights}/{name}"], rel=1e-5)


def test_both_kinds_of_weights_win_in_these_combinations(tmp_path: Path) -> None:
    """Otherwise the tests above could not tell them apart."""
    winners = set()
    for number, options in enumerate((
            {"averaging": "poly_8", "base_lr": 3}, {"averaging": "ema_0.9999"})):
        train_digits(tmp_path / str(number), best_checkpoint_metric="val/.*/accuracy", **options)
        loaded = load_model(str(tmp_path / str(number)))
        winners.add(loaded.judgement.weights)
        content = checkpoint.load(str(tmp_path / str(number) / run_folder.BEST_CHECKPOINT))
        other = "model" if loaded.judgement.weights == "av" else "averaged"
        judged = values_of(loaded, "val")["accuracy"]
        loaded.model.load_state_dict(content[other])
        assert values_of(loaded, "val")["accuracy"] < judged
    assert winners == {"last", "av"}


def test_periodic_checkpoint_has_the_evaluated_weights(tmp_path: Path) -> None:
    for models, weights in ((None, "av"), (["last"], "last")):
        folder = tmp_path / weights
        rows = train_digits(folder, averaging="poly_8", eval_models=models, save_best_checkpoint=False, save_freq=4)
        model, _data = loaded = load_model(str(folder))
        assert model is loaded.model
        assert loaded.judgement == Judgement(weights, 4)
        assert values_of(loaded, "val")["loss"] == pytest.approx(rows.iloc[-1][f"val/{weights}/loss"], rel=1e-5)


@pytest.fixture
def warnings() -> Any:
    """The messages that are logged as warnings."""
    messages: list[str] = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level="WARNING")
    yield messages
    logger.remove(sink)


def forget_judgement(folder: Path) -> None:
    """Write best_checkpoint.pt as the version before judgements did."""
    path = folder / run_folder.BEST_CHECKPOINT
    content = checkpoint.load(str(path))
    del content["judgement"]
    torch.save(content, path)


def test_the_model_of_an_archived_run_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "batch" / "000_digits"
    train_digits(folder, train_length=1, save_freq=1, save_best_checkpoint=False)
    (folder / "spec.yaml").write_text("base_lr: 0.4\n")
    loaded = load_model(str(folder))
    writer.publish_runs(str(folder.parent), {folder.name: writer.list_entries(str(folder))})
    shutil.rmtree(folder)
    archived = load_model(str(folder))
    assert values_of(archived, "val") == values_of(loaded, "val") and archived.judgement == loaded.judgement
    assert not folder.exists()
    volume = folder.parent / "archive" / "1.zip"
    monkeypatch.setattr(ownership, "other_owner", lambda *paths: "eve" if str(volume) in paths else None)
    with pytest.raises(BatchError, match="this is of eve"):  # its config names code of this project
        load_model(str(folder))
    data = volume.read_bytes()
    start = data.index(b"checkpoint-00001.pt") + 1000
    volume.write_bytes(data[:start] + bytes(100) + data[start + 100:])
    with pytest.raises(OSError, match="damaged in the archive"):
        load_model(str(folder), trust=True)


def test_older_checkpoint_is_judged_by_its_row_with_a_warning(tmp_path: Path, warnings: list[str]) -> None:
    train_digits(tmp_path, averaging="ema_0.9999", best_checkpoint_metric="val/.*/accuracy")
    judged = load_model(str(tmp_path)).judgement
    forget_judgement(tmp_path)
    assert not warnings
    loaded = load_model(str(tmp_path))
    assert loaded.judgement == judged
    assert judged.weights == "last"
    assert values_of(loaded, "val")["accuracy"] == judged.value
    assert "which weights were judged best; chosen by val/last/accuracy in stats.csv: last" in warnings[0]


def test_older_checkpoint_without_rows_has_averaged_weights(tmp_path: Path, warnings: list[str]) -> None:
    train_digits(tmp_path, averaging="ema_0.9", best_checkpoint_metric="val/.*/accuracy")
    forget_judgement(tmp_path)
    (tmp_path / run_folder.STATS).unlink()
    assert load_model(str(tmp_path)).judgement.weights == "av"
    assert "chosen without a metric: averaged" in warnings[0]


def test_checkpoint_of_the_version_before_has_the_value_of_its_row(warnings: list[str]) -> None:
    older = ROOT / "tests/golden/older-batch/26-11-29-before-layout/000_before-layout+bas_lr=0.25"
    loaded = load_model(str(older))
    rows = pd.read_csv(older / run_folder.STATS).set_index("epoch")
    judged = loaded.judgement
    assert judged.value == rows.loc[judged.epoch, judged.metric] == rows.filter(regex="^val/.*/accuracy$").max().max()
    assert values_of(loaded, "val")["accuracy"] == pytest.approx(judged.value)
    assert len(warnings) == 1


def test_older_checkpoint_without_averaging_causes_no_warning(tmp_path: Path, warnings: list[str]) -> None:
    train_digits(tmp_path, best_checkpoint_metric="val/.*/accuracy")
    forget_judgement(tmp_path)
    assert load_model(str(tmp_path)).judgement.weights == "last"
    assert not warnings
