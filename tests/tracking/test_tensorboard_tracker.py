"""TensorBoard's files, as TensorBoard's own reader finds them."""
from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from src.datasets.data import Split
from src.tracking import mlflow_run, tensorboard_tracker
from tests.conftest import ROOT
from tests.training.toys import make_toy, toy_classes, train_toy

tensorboard_tracker._disable_tensorflow()
event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def pictures() -> dict[str, Split]:
    """The toy splits as images of 1 × 2 × 3 pixels."""
    made = {"train": toy_classes(features=6), "val": toy_classes(40, features=6, seed=1)}
    return {name: Split(split.x.reshape(-1, 1, 2, 3), split.y) for name, split in made.items()}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))


def read(folder: Path) -> Any:
    kinds = ("scalars", "histograms", "images", "tensors")
    found = event_accumulator.EventAccumulator(str(folder / "tensorboard"), dict.fromkeys(kinds, 0))
    found.Reload()
    return found


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "spec.yaml").write_text('TAGS: ["adam", "small"]\n')
    train_toy(make_toy(pictures(), network(), tensorboard=True, metrics=["pr_curve"]), str(folder))
    return folder


def test_scalars_are_the_cells_of_stats_csv(shown: Path) -> None:
    header, *lines = [line.split(",") for line in (shown / "stats.csv").read_text().splitlines()]
    found = read(shown)
    columns = [name for name in header if "/" in name]
    assert sorted(found.Tags()["scalars"]) == sorted(columns)
    steps = [int(line[header.index("step")]) for line in lines]
    for name in columns:
        told = [float(line[header.index(name)]) for line in lines]
        events = found.Scalars(name)
        assert [event.step for event in events] == steps
        np.testing.assert_allclose([event.value for event in events], told, rtol=1e-6)


def test_rows_of_steps_csv_are_scalars(tmp_path: Path) -> None:
    """At their steps and times; a start that resumes repeats none."""
    def stop() -> None:
        path = tmp_path / "stats.csv"
        if path.exists() and len(path.read_text().splitlines()) == 3:
            raise KeyboardInterrupt

    (tmp_path / "spec.yaml").write_text("{}")
    for check in (stop, lambda: None):
        with contextlib.suppress(KeyboardInterrupt):
            train_toy(make_toy(tensorboard=True, log_steps=3, clip_grad_norm=1.0, checkpoint_every="1epoch"),
                      str(tmp_path), check)
    rows, found = mlflow_run.read_rows(str(tmp_path), "steps.csv"), read(tmp_path)
    assert [row["step"] for row in rows] == [3, 6, 9, 12]
    for name in ("loss", "learning_rate", "grad_norm", "examples_per_second"):
        events = found.Scalars(f"steps/{name}")
        assert [event.step for event in events] == [3, 6, 9, 12]
        np.testing.assert_allclose([event.value for event in events], [row[name] for row in rows], rtol=1e-6)
        assert [event.wall_time for event in events] == pytest.approx([row["timestamp"] for row in rows])
    assert "steps/epoch" not in found.Tags()["scalars"]


def test_histograms_images_and_graph_are_written(shown: Path) -> None:
    found = read(shown)
    tags = found.Tags()
    assert sorted(tags["histograms"]) == [
        f"weights/{index}.{name}" for index in (1, 2, 4) for name in ("bias", "weight")]
    first, *others = found.Histograms("weights/1.weight")
    assert len(others) == 2 and first.histogram_value.num == 24
    image, = found.Images("samples")
    assert image.encoded_image_string.startswith(b"\x89PNG")
    names = [node.name for node in found.Graph().node]
    assert any("Linear" in name for name in names)


def test_pr_curves_are_those_of_the_arrays(shown: Path) -> None:
    found = read(shown)
    tags = [tag for tag in found.Tags()["tensors"] if tag.startswith("val/last/class")]
    assert len(tags) == 3
    from tensorboard.util import tensor_util

    arrays = np.load(sorted((shown / "arrays").iterdir())[-1])
    event = found.Tensors("val/last/class 1")[-1]
    rows = tensor_util.make_ndarray(event.tensor_proto)  # tp, fp, tn, fn, precision, recall
    np.testing.assert_allclose(rows[4], arrays["val/last/pr_curve/precision"][1, :101], rtol=1e-6)
    np.testing.assert_allclose(rows[5], arrays["val/last/pr_curve/recall"][1, :101], rtol=1e-6)


def test_only_changed_hyperparameters_are_written(shown: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    content = read(shown).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    told = metadata.parse_session_start_info_plugin_data(content).hparams
    assert told["base_lr"].number_value == 0.1 and told["batch_size"].number_value == 16
    assert told["TAGS"].string_value == "adam,small"
    assert "momentum" not in told
    end = read(shown).summary_metadata["_hparams_/session_end_info"].plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(end).status == 1  # success


def test_tracking_does_not_change_results(shown: Path, tmp_path: Path) -> None:
    """Dropout would tell if a draw were lost, batch norm if the model were called."""
    train_toy(make_toy(pictures(), network(), metrics=["pr_curve"]), str(tmp_path))

    def numbers(folder: Path) -> list[list[str]]:
        header, *lines = [line.split(",") for line in (folder / "stats.csv").read_text().splitlines()]
        kept = [index for index, name in enumerate(header) if "time" not in name and "second" not in name]
        return [[line[index] for index in kept] for line in lines]

    assert numbers(shown) == numbers(tmp_path)


def test_resumed_run_has_no_duplicate_steps(tmp_path: Path) -> None:
    """Broken off in the third epoch, and begun anew: each step has one point, and the file of the first start stays."""
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_toy(make_toy(tensorboard=True), str(tmp_path), check)
    train_toy(make_toy(tensorboard=True), str(tmp_path))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert [event.step for event in read(tmp_path).Scalars("train/loss")] == [4, 8, 12]


def test_tensorflow_is_not_loaded(tmp_path: Path) -> None:
    program = ("import sys\nfrom tests.training.toys import make_toy, train_toy\n"
               "train_toy(make_toy(tensorboard=True), sys.argv[1])\nassert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT, check=True, env={**os.environ})
    assert list((tmp_path / "tensorboard").iterdir())


def test_model_that_cannot_be_traced_has_no_graph(tmp_path: Path) -> None:
    class Strange(nn.Linear):
        def forward(self, x: Any) -> Any:
            if x.device.type == "cpu" and len(x) == 1:
                raise RuntimeError("not for one sample")
            return super().forward(x)

    train_toy(make_toy(model=Strange(5, 3), tensorboard=True), str(tmp_path))
    assert "WARNING" not in (tmp_path / "training.log").read_text()
    assert read(tmp_path).Tags()["histograms"] and not read(tmp_path).Tags()["graph"]
