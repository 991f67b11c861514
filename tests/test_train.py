from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from src import run_folder
from src.config import Config
from src.errors import BatchError, ConfigError, DataError
from src.io import yaml_io
from tests.datasets.test_images import make_folder
from train import experiment_generator, train, warm_up

ROOT = Path(__file__).parent.parent
DIGITS = {"dataset": "sklearn/digits", "data_splits_map": {"train": "train[:80%]", "val": "train[80%:]"},
          "model": "linear", "batch_size": 32, "train_length": 3, "base_lr": 0.1, "averaging": "poly"}
TIMES = ("time", "timestamp", "per_second")


def _train(folder: Path, data: Path, **options: Any) -> pd.DataFrame:
    """Train digits, whose files are in `data`, in `folder`; stats.csv without its times."""
    folder.mkdir()
    assert train({**DIGITS, "data_dir": str(data), **options}, str(folder), lambda: None) == "completed"
    return _stats(folder)


def _stats(folder: Path) -> pd.DataFrame:
    stats = pd.read_csv(folder / run_folder.STATS)
    return stats[[column for column in stats if not column.endswith(TIMES)]]


def _python(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env={**os.environ, **environment}, check=False)


@pytest.mark.parametrize("model", ["linear", "tiny/wrn_10_1_0.3"])
def test_the_same_seeds_give_the_same_stats(tmp_path: Path, model: str) -> None:
    options = {"model": model, "train_length": 60, "train_length_unit": "step", "steps_per_epoch": 20}
    if model != "linear":
        options |= {"model_input_shape": [1, 8, 8], "train_length": 4, "steps_per_epoch": 2}
    first = _train(tmp_path / "a", tmp_path, **options)
    config = run_folder.read_spec(tmp_path / "a" / run_folder.CONFIG)
    assert config["facts"]["seeds_drawn"] == ["seed_model", "seed_training"]
    torch.rand(5)
    pd.testing.assert_frame_equal(_train(tmp_path / "b", tmp_path, **config), first, check_exact=True)
    other = _train(tmp_path / "c", tmp_path, **options)
    assert not other.equals(first)  # seeds of its own


def test_a_second_attempt_repeats_the_first(tmp_path: Path) -> None:
    first = _train(tmp_path / "a", tmp_path)
    assert train({**DIGITS, "data_dir": str(tmp_path)}, str(tmp_path / "a"), lambda: None) == "completed"
    pd.testing.assert_frame_equal(_stats(tmp_path / "a"), first, check_exact=True)


def test_generator_yields_stats_and_model_after_each_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config.from_dict({**DIGITS, "data_dir": str(tmp_path), "seed_model": 1, "seed_training": 2})
    for count, (stats, model) in enumerate(experiment_generator(config), start=1):
        assert len(stats) == count
        assert model.weight.shape == (10, 64)
        accuracy = stats["val/last/accuracy"].iloc[-1]
    assert accuracy > 0.85
    assert "completed" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    folder = tmp_path / "run"
    recorded = _train(folder, tmp_path, seed_model=1, seed_training=2)
    pd.testing.assert_frame_equal(stats[list(recorded)], recorded, check_dtype=False, check_exact=True)


def test_generator_writes_to_a_new_output_dir(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "run"
    config = Config.from_dict({**DIGITS, "data_dir": str(tmp_path), "output_dir": str(folder)})
    *_, (stats, _model) = experiment_generator(config)
    assert sorted(path.name for path in folder.iterdir()) == sorted([
        run_folder.SPEC, run_folder.CONFIG, run_folder.STATS, run_folder.LOG, run_folder.DONE])
    pd.testing.assert_frame_equal(_stats(folder), stats[list(_stats(folder))], check_dtype=False, check_exact=True)
    assert Config.from_dict(run_folder.read_spec(folder / run_folder.SPEC)) == config._replace(
        output_dir=None)
    before = (folder / run_folder.STATS).read_bytes()
    with pytest.raises(BatchError, match="a run in this folder already"):
        next(experiment_generator(config))
    assert (folder / run_folder.STATS).read_bytes() == before


def test_failing_config_does_not_occupy_the_output_dir(tmp_path: Path) -> None:
    options = {**DIGITS, "data_dir": str(tmp_path), "output_dir": str(tmp_path / "run")}
    with pytest.raises(DataError):
        next(experiment_generator(Config.from_dict({**options, "dataset": "libsvm/none", "data_download": False})))
    assert not list(tmp_path.iterdir())
    next(experiment_generator(Config.from_dict(options)))


def test_host_program_does_not_affect_the_training(tmp_path: Path) -> None:
    """It draws numbers, leaves gradients, and runs another training at the same time; dropout and momentum notice."""
    config = Config.from_dict({
        **DIGITS, "data_dir": str(tmp_path), "model": "tiny/wrn_10_1_0.3", "batch_size": 100, "train_length": 9,
        "train_length_unit": "step", "steps_per_epoch": 3, "seed_model": 1, "seed_training": 2})
    alone = [stats["val/last/loss"].iloc[-1] for stats, _ in experiment_generator(config)]
    for (stats, model), (other, _) in zip(experiment_generator(config), experiment_generator(config), strict=True):
        assert stats["val/last/loss"].tolist() == other["val/last/loss"].tolist() == alone[:len(stats)]
        torch.manual_seed(0)
        model(torch.rand(2, 1, 8, 8)).sum().backward()


def test_command_line_run_and_its_repeat_are_identical(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / run_folder.SPEC).write_text(yaml_io.dump_flat({**DIGITS, "data_dir": str(tmp_path)}))
    done = _python("train.py", folder / run_folder.SPEC)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (folder / run_folder.DONE).read_text() == "completed\n"
    assert _python("train.py", folder / run_folder.CONFIG).returncode == 0
    (repeat,) = (path for path in tmp_path.iterdir() if path.name.startswith("run-"))
    pd.testing.assert_frame_equal(_stats(repeat), _stats(folder), check_exact=True)


def test_save_that_takes_long_has_the_run_exit_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durations: list[float] = []
    exits: list[Callable[[], None]] = []

    class Timer:
        def __init__(self, request_exit: Callable[[], None]) -> None:
            exits.append(request_exit)
            self.set, self.cancel = durations.append, lambda: durations.append(0.0)

    monkeypatch.setattr("train.SaveTimer", Timer)
    _train(tmp_path / "run", tmp_path, checkpoint_every="1epoch")
    assert len(durations) > 1
    assert durations[-1] == 0  # a run that has ended is not signalled
    assert min(durations[:-1]) > 0
    received: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    try:
        exits[0]()  # as Slurm's own warning
        assert received == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_a_user_error_is_one_line(tmp_path: Path) -> None:
    spec = tmp_path / "linear.yaml"
    spec.write_text(yaml_io.dump_flat({**DIGITS, "data_dir": str(tmp_path), "save_best_checkpoint": True}))
    done = _python("train.py", spec)  # the default metric is of a test split, and there is none
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "best_checkpoint_metric: 'test/.*/accuracy' matches no metric" in done.stderr
    assert done.stderr.count("\n") == 1


def test_bad_input_is_refused_before_training(tmp_path: Path) -> None:
    for options, message in (({"bach_size": 3}, "batch_size"), ({"model_output_dim": 3}, "too few"),
                             ({"model_input_shape": [9, 9]}, "does not fit"), ({"device": "cuda:99"}, "no device")):
        with pytest.raises(ConfigError, match=message):
            train({**DIGITS, "data_dir": str(tmp_path), **options}, str(tmp_path), lambda: None)
    assert not (tmp_path / run_folder.STATS).exists()


@pytest.mark.parametrize("model", ["linear", "tiny/lenet"])
def test_a_small_run_imports_neither_optional_libraries_nor_the_compiler(tmp_path: Path, model: str) -> None:
    """torch._dynamo alone takes as long as torch; pandas is for experiment_generator."""
    script = ("import json, sys, train\n"
              "train.train(json.loads(sys.argv[1]), None, lambda: None)\n"
              "print(json.dumps(sorted(sys.modules)))")
    lines = "\n".join(f"{index % 2} 1:{index} 16:{index % 7}" for index in range(50))
    (tmp_path / "toy").write_text(lines + "\n")
    spec = {"dataset": "libsvm/toy", "data_dir": str(tmp_path), "data_splits_map": {"train": "train"},
            "train_length": 1, "averaging": "poly", "optim_alg": "adam", "save_freq": 1, "model": model,
            "model_input_shape": [1, 4, 4]}
    done = _python("-c", script, json.dumps(spec))
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout.splitlines()[-1])
    assert "torch" in modules
    for name in ("torch._dynamo", "torchvision", "timm", "tensorflow", "wandb", "matplotlib"):
        assert name not in modules


def test_a_worker_warms_up_once_and_its_forks_train(tmp_path: Path) -> None:
    script = ("import json, os, sys, threading, torch, train\n"
              "specs = json.loads(sys.argv[1])\n"
              "train.warm_up(specs)\n"
              "assert torch.get_num_threads() == 1 and not torch.cuda.is_initialized()\n"
              "heavy = {name for name in ('tensorflow', 'pyarrow', 'wandb', 'mlflow') if name in sys.modules}\n"
              "assert not heavy and 'torchmetrics' in sys.modules, heavy\n"
              "for spec in specs:\n"
              "    pid = os.fork()\n"
              "    if not pid:\n"
              "        os.environ['GRIDIRON_THREADS'] = '2'\n"
              "        os.makedirs(spec['output_dir'])\n"
              "        os._exit(train.train(spec, spec['output_dir'], lambda: None) != 'completed')\n"
              "    assert os.waitpid(pid, 0)[1] == 0\n")
    specs = [{**DIGITS, "data_dir": str(tmp_path), "output_dir": str(tmp_path / name), "seed_model": 0,
              "seed_training": 0, "metrics": ["f1"]} for name in ("a", "b")]
    done = _python("-c", script, json.dumps(specs))
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(_stats(tmp_path / "a"), _stats(tmp_path / "b"), check_exact=True)
    assert run_folder.read_spec(tmp_path / "a" / run_folder.CONFIG)["facts"]["threads"] == 2


def test_warm_up_leaves_errors_to_the_runs(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        warm_up([{**DIGITS, "dataset": "libsvm/nowhere", "data_dir": str(tmp_path), "data_download": False}])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("name", "val", "test"), [
    ("linear-breast-cancer", (0.96, 0.98), (0.935, 0.965)), ("lenet-digits", (0.925, 0.955), (0.935, 0.985))])
def test_example_specs_reach_the_accuracy_in_their_headers(
        name: str, val: tuple[float, float], test: tuple[float, float]) -> None:
    spec = run_folder.read_spec(ROOT / "jobs" / "single" / f"{name}.yaml")
    *_, (stats, _) = experiment_generator(Config.from_dict(spec))
    assert val[0] < stats["val/last/accuracy"].iloc[-1] < val[1]
    assert test[0] < stats["test/last/accuracy"].iloc[-1] < test[1]


@pytest.mark.parametrize("model", ["tiny/resnet_20", "tiny/wrn_10_1"])
def test_small_networks_learn(tmp_path: Path, model: str) -> None:
    stats = _train(tmp_path / "run", tmp_path, model=model, train_length=2, lr_schedule="cosine", averaging="ema_0.9",
                   seed_model=0, seed_training=0, eval_batch_size=500)
    assert stats["val/last/accuracy"].iloc[-1] > 0.9
    assert stats["val/av/accuracy"].iloc[-1] > 0.9


def test_logistic_regression_on_real_data(shared_data: Path, tmp_path: Path) -> None:
    """a9a is known to give about 85 %."""
    for name in ("a9a", "a9a.t"):
        (tmp_path / name).symlink_to(shared_data / name)
    folder = tmp_path / "run"
    folder.mkdir()
    spec = {"dataset": "libsvm/a9a", "data_dir": str(tmp_path), "batch_size": 128, "train_length": 10, "base_lr": 0.05,
            "momentum": 0.0, "averaging": "poly", "eval_batch_size": 10_000}
    assert train(spec, str(folder), lambda: None) == "completed"
    last = pd.read_csv(folder / run_folder.STATS).iloc[-1]
    assert 0.845 <= last["test/last/accuracy"] <= 0.855
    assert 0.845 <= last["test/av/accuracy"] <= 0.855


def test_closed_stdout_is_not_an_error() -> None:
    process = subprocess.Popen([sys.executable, "train.py", "jobs/single/linear-breast-cancer.yaml"], cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == 0


@pytest.mark.parametrize(("options", "message"), [
    ({"multi_gpu": False}, "4 processes were started for a run that allows one"),
    ({"batch_size": 3}, "3 samples per step are too few for 4 processes"),
    ({"batch_size": 12, "grad_accum_steps": 4}, "12 samples per step in 4 micro-batches are too few for 4 processes")])
def test_several_processes_are_refused_if_not_allowed(options: dict[str, Any], message: str, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(ConfigError, match=message):
        train({"dataset": "sklearn/digits", "data_splits_map": {"train": "train"}, "device": "cpu", **options},
              str(tmp_path), lambda: None)
    assert not list(tmp_path.iterdir())


def test_frozen_backbone_is_unfrozen_at_its_epoch(tmp_path: Path) -> None:
    """Frozen for two epochs, then freed with a tenth of the rate; interrupted in the second epoch of each kind."""
    options = {"model": "tiny/wrn_10_1", "model_input_shape": [1, 8, 8], "steps_per_epoch": 4, "train_length": 4,
               "freeze": "backbone", "unfreeze_epoch": 3, "unfreeze_lr": 0.01, "save_freq": 1, "seed_training": 1,
               "seed_model": 2, "layer_decay": 0.5, "averaging": None}
    stats = _train(tmp_path / "calm", tmp_path, **options)
    sizes = stats["train/trainable_parameters"]
    assert list(sizes[:2]) == [650, 650]  # 64 features and a bias for each of 10 digits
    assert sizes[2] == sizes[3] > 70_000
    assert list(stats["train/learning_rate"]) == [0.1, 0.1, 0.01, 0.01]
    weights = [torch.load(tmp_path / "calm" / run_folder.checkpoint_name(epoch), weights_only=True)["model"]
               for epoch in (1, 2, 3)]
    moved = [{name for name in weights[0] if not torch.equal(weights[now][name], weights[now + 1][name])}
             for now in (0, 1)]
    assert moved[0] == {"head.weight", "head.bias"} or len(moved[0]) == 2
    assert len(moved[1]) > 20
    frozen = _train(tmp_path / "frozen", tmp_path, **{**options, "unfreeze_epoch": None, "unfreeze_lr": None,
                                                      "layer_decay": None})
    assert set(frozen["train/trainable_parameters"]) == {650}


@pytest.mark.parametrize(("options", "message"), [
    ({"unfreeze_epoch": 2, "model": "tiny/lenet"}, "nothing is frozen"),
    ({"freeze": "backbone", "unfreeze_lr": 1, "model": "tiny/lenet"}, "set unfreeze_epoch"),
    ({"freeze": "backbone"}, "no backbone to freeze"), ({"layer_decay": 0.5}, "one layer"),
    ({"warmup_steps": 3, "lr_schedule": "onecycle"}, "has a warm-up of its own"),
    ({"clip_grad_norm": 1, "task": "tests.training.tasks:Autoencoder"}, "clips its own gradients"),
    ({"clip_grad_norm": 0}, "more than 0")])
def test_contradicting_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_dict(options)


@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_image_training_is_identical(workers: int, tmp_path: Path) -> None:
    """Killed at some instants, with loader processes or without: the same rows and weights as calmly and alone."""
    pytest.importorskip("timm")
    make_folder(tmp_path / "colors", {"train": 7, "test": 3})
    options = {"dataset": "folder/colors", "data_splits_map": {"train": "train", "test": "test"}, "averaging": None,
               "model": "tiny/wrn_10_1_0.3", "batch_size": 4, "train_length": 2, "steps_per_epoch": 5, "save_freq": 2,
               "seed_model": 1, "seed_training": 2, "crop_padding": 1, "hflip": 0.5, "color_jitter": 0.2, "mixup": 0.2,
               "random_erasing": 0.3, "checkpoint_every": "1step"}
    calm = _train(tmp_path / "calm", tmp_path, **options, num_workers=0)
    folder = tmp_path / "run"
    folder.mkdir()

    class Killed(Exception):
        pass
    for last in (4, 7, 9, 100):
        calls = iter(range(last))

        def check(calls: Any = calls) -> None:
            if next(calls, None) is None:
                raise Killed
        try:
            train({**DIGITS, "data_dir": str(tmp_path), **options, "num_workers": workers}, str(folder), check)
        except Killed:
            continue
    pd.testing.assert_frame_equal(_stats(folder), calm, check_exact=True)
    mine, theirs = (torch.load(place / run_folder.checkpoint_name(2), weights_only=True)["model"]
                    for place in (folder, tmp_path / "calm"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    log = (folder / run_folder.LOG).read_text()
    assert log.count("resumed_at_step") == 3
