"""Several processes have the numbers of one, up to rounding; they save, stop and go on together, and one writes."""
from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from src.config import Config
from src.datasets.data import IGNORED, Batch, Split
from src.errors import BatchError, ConfigError
from src.io import yaml_io
from src.optimizers.layers import Freeze
from src.tracking import mlflow_run
from src.training.experiment import run_epochs
from src.training.output import resume
from src.training.output.recorder import Row
from src.training.parallel.data_shards import DataShard
from src.training.parallel.distributed import SINGLE_PROCESS, ProcessGroup, SingleProcess, _device
from src.training.parallel.rendezvous import ProcessInfo
from src.training.parallel.sync_batch_norm import synchronize_batch_norms
from src.training.setup.facts import micro_batch_size
from src.training.steps.batches import ordered_batches, shuffled_batches
from src.training.steps.task import Task
from tests.conftest import ROOT
from tests.processes import run_processes
from tests.training.output.test_resume import assert_same
from tests.training.toys import CPU, make_toy, toy_classes, toy_targets
from train import count_processes, train

# 50 samples: the last batch of a pass has two, fewer than there are processes
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "average": {"averaging": "poly_3", "recompute_batch_norm": True, "optim_alg": "adamw", "base_lr": 0.01},
    "accumulation": {"grad_accum_steps": 3, "steps_per_epoch": 3, "train_length": 5},
    "mixup": {"mixup": 0.4, "label_smoothing": 0.1, "eval_batch_size": 7},
    "clipping": {"clip_grad_norm": 0.5, "lr_schedule": "cosine", "warmup_steps": 2},
    "metrics": {"metrics": ["f1", "auroc", "confusion_matrix", "tests.training.parallel.test_distributed:Last"]},
    "numbers": {"loss": "mse", "base_lr": 0.01},
    "bf16": {"precision": "bf16", "base_lr": 0.01}}


class Last:
    """A metric that no sum over parts gives: the class said of the last sample."""

    def __init__(self, _outputs: int) -> None:
        self._said = -1.0

    def update(self, output: Tensor, _target: Tensor) -> None:
        self._said = float(output[-1].argmax())

    def compute(self) -> float:
        return self._said


class OfTeam(SingleProcess):
    """One process's view of a group that does not meet."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.first = rank, size, rank == 0


def net(outputs: int, norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8, bias=not norm), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Tanh(),
                         nn.Linear(8, outputs))


def make(group: SingleProcess, model: nn.Module, splits: dict[str, Split], **options: Any) -> Any:
    if group.size > 1 and options.get("sync_batch_norm", True):
        synchronize_batch_norms(model, group)
    made = make_toy(splits, model, device="cpu", **{"momentum": 0.0, "train_length": 2, **options})
    if group.size == 1:
        return made
    shard = DataShard(group, made.config.batch_size, micro_batch_size(made.config))
    return dataclasses.replace(made, group=group, shard=shard)


def trained(made: Any, folder: Path | None = None, **more: Any) -> tuple[list[Row], dict[str, Tensor]]:
    """Rows without times, and the final weights."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        rows = [row for row, _, _ in run_epochs(made, str(folder) if folder else None, lambda: None, **more)]
    assert made.group.is_first or not out.getvalue(), "the others are silent"
    return [{name: value for name, value in row.items() if not name.endswith(("time", "stamp", "second"))}
            for row in rows], made.model.state_dict()


def assert_close(mine: tuple[list[Row], dict[str, Tensor]], alone: tuple[list[Row], dict[str, Tensor]],
                 tolerance: float = 2e-4) -> None:
    for row, expected in zip(mine[0], alone[0], strict=True):
        for name, value in expected.items():
            found = row[name]
            assert found == value or math.isclose(found or 0, value or 0, rel_tol=tolerance, abs_tol=tolerance), name
    torch.testing.assert_close(mine[1], alone[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CONFIGS)
def test_three_processes_equal_one(name: str, tmp_path: Path) -> None:
    options = CONFIGS[name]

    def train(group: SingleProcess) -> Any:
        kind = toy_targets if options.get("loss") == "mse" else toy_classes
        model = net(1 if options.get("loss") == "mse" else 3, norm=name != "bf16")
        return trained(make(group, model, {"train": kind(50), "test": kind(41, seed=1)}, **options))
    alone, found = train(SINGLE_PROCESS), run_processes(3, tmp_path, train)
    for mine in found:
        assert_close(mine, alone, 2e-2 if name == "bf16" else 2e-4)
    torch.testing.assert_close(found[2][1], found[0][1], rtol=0, atol=0)


def test_losses_are_weighted_by_tokens(tmp_path: Path) -> None:
    """Texts of very different lengths: the mean of the processes' means would be another number."""
    def texts(samples: int) -> Split:
        generator = torch.Generator().manual_seed(samples)
        x = torch.randint(7, (samples, 6), generator=generator)
        ended = torch.arange(6) >= torch.randint(1, 7, (samples, 1), generator=generator)
        return Split(x, ((x + 1) % 7).masked_fill(ended, IGNORED))

    def train(group: SingleProcess) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 7))
        made = make(group, model, {"train": texts(50), "test": texts(41)}, grad_accum_steps=2)
        return trained(dataclasses.replace(
            made, config=made.config._replace(targets="next_token"),
            data=dataclasses.replace(made.data, task="next_token", classes=())))
    alone, found = train(SINGLE_PROCESS), run_processes(3, tmp_path, train)
    assert "test/last/perplexity" in alone[0][0]
    for mine in found:
        assert_close(mine, alone)


def test_logged_steps_equal_those_of_one_process(tmp_path: Path) -> None:
    """Their last batch has two samples, so that one of the three processes has none."""
    def train(group: SingleProcess) -> Any:
        folder = tmp_path / str(group.size)
        folder.mkdir(exist_ok=True)
        return trained(make(group, net(3), {"train": toy_classes(50)}, log_steps=2, clip_grad_norm=0.5), folder)
    train(SINGLE_PROCESS), run_processes(3, tmp_path / "work", train)
    alone, found = (mlflow_run.read_rows(str(tmp_path / name), "steps.csv") for name in ("1", "3"))
    assert [row["step"] for row in alone] == [row["step"] for row in found] == [2, 4, 6, 8]
    for name in ("loss", "grad_norm", "learning_rate"):
        assert [row[name] for row in found] == pytest.approx([row[name] for row in alone], rel=2e-4)


def test_first_process_writes_the_profile(tmp_path: Path) -> None:
    def train(group: SingleProcess) -> Any:
        return trained(make(group, net(3), {"train": toy_classes(50), "test": toy_classes(41, seed=1)}, profile=True),
                       tmp_path)
    found = run_processes(2, tmp_path / "work", train)
    assert found[0][0] == found[1][0]
    for part in ("data", "training step", "evaluation", "logging"):
        assert part in (tmp_path / "profile.txt").read_text()


def test_unsynchronized_batch_norm_differs(tmp_path: Path) -> None:
    """The control: without synchronizing the numbers are others, and all processes have those of the first."""
    def train(group: SingleProcess) -> Any:
        return trained(make(group, net(3), {"train": toy_classes(48), "test": toy_classes(41, seed=1)},
                            sync_batch_norm=False))
    alone, found = train(SINGLE_PROCESS), run_processes(2, tmp_path, train)
    assert found[0][0] == found[1][0]
    with pytest.raises(AssertionError):
        assert_close(found[0], alone)


def test_unfrozen_layers_are_trained_by_all_processes(tmp_path: Path) -> None:
    def train(group: SingleProcess) -> Any:
        model = net(3)
        made = make(group, model, {"train": toy_classes(50), "test": toy_classes(41, seed=1)}, train_length=4)
        return trained(dataclasses.replace(made, freeze=Freeze(model, model[3], until=3)))
    assert_close(run_processes(2, tmp_path, train)[0], train(SINGLE_PROCESS))


class Spare(nn.Linear):
    """A layer with a parameter of no use."""

    def __init__(self) -> None:
        super().__init__(5, 3)
        self.spare = nn.Parameter(torch.zeros(3))


def test_unused_parameters_are_an_error(tmp_path: Path) -> None:
    def train(group: SingleProcess) -> str:
        with pytest.raises(ConfigError, match="the loss does not depend on all parameters"):
            trained(make(group, Spare(), {"train": toy_classes(50)}))
        return "told"
    assert run_processes(2, tmp_path, train) == ["told"] * 2


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)


@pytest.mark.parametrize(("options", "environment", "count"), [
    ({}, {}, 4), ({"device": "cuda"}, {}, 4), ({"device": "cuda:1"}, {}, 1), ({"device": "cpu"}, {}, 1),
    ({"multi_gpu": False}, {}, 1), ({"batch_size": 3}, {}, 3), ({"batch_size": 10, "grad_accum_steps": 4}, {}, 3),
    ({"task": "tests.training.parallel.test_distributed:NotShared"}, {}, 1),
    ({"task": "tests.training.parallel.test_distributed:Shared"}, {}, 4), ({}, {"GRIDIRON_PROCESSES": "2"}, 2),
    ({"device": "cpu"}, {"GRIDIRON_PROCESSES": "2"}, 2), ({}, {"SLURM_STEP_NUM_TASKS": "8"}, 1),
    ({}, {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}, 1)])
def test_one_process_per_visible_gpu(options: dict[str, Any], environment: dict[str, str], count: int,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 4)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert count_processes(Config.from_dict(options)) == count


def test_invalid_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDIRON_PROCESSES", "two")
    with pytest.raises(ConfigError, match=r"GRIDIRON_PROCESSES: 'two' is not a number of processes.*a whole number"):
        count_processes(Config())


def test_mps_is_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert count_processes(Config(device="mps")) == 1
    with pytest.raises(ConfigError, match="2 processes were started for this run, but mps is one device"):
        _device(Config(device="mps"), ProcessInfo(1, 2, 1))


@pytest.mark.parametrize(("name", "local_rank", "there", "found"), [
    ("auto", 3, 4, "cuda:3"), ("cuda", 1, 2, "cuda:1"), ("cuda", 1, 1, "cuda:0"), ("cpu", 1, 2, "cpu"),
    ("auto", 1, 0, "cpu"), ("cuda", 2, 2, "process 3 of its node, which has 2 GPUs"),
    ("cuda:1", 0, 2, "cuda:1 is one device")])
def test_each_process_has_its_device(name: str, local_rank: int, there: int, found: str, monkeypatch: pytest.MonkeyPatch
                             ) -> None:
    gpus(monkeypatch, there)
    place = ProcessInfo(local_rank, 4, local_rank)
    if " " in found:
        with pytest.raises(ConfigError, match=found):
            _device(Config(device=name), place)
    else:
        assert str(_device(Config(device=name), place)) == found


class Shared(Task):
    """The default steps, by hand."""

    several_processes: ClassVar[bool] = True

    def training_step(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        found = self.evaluation_step(model, batch)
        found["loss"].backward()
        self.share_gradients(model.parameters())
        self.optimizers[0].step()
        self.optimizers[0].zero_grad()
        return found

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(model(batch[0]), batch[1])}


class NotShared(Shared):
    several_processes: ClassVar[bool] = False


def with_task(group: SingleProcess, kind: type[Task]) -> Any:
    made = make(group, net(3, norm=False), {"train": toy_classes(50), "test": toy_classes(41, seed=1)})
    task = kind(made.config, made.data, CPU)
    task.optimizers = made.optimizers
    return dataclasses.replace(made, task=task)


def test_user_task_shares_its_gradients(tmp_path: Path) -> None:
    found = run_processes(3, tmp_path, lambda group: trained(with_task(group, Shared)))
    assert_close(found[0], trained(with_task(SINGLE_PROCESS, Shared)))


def test_task_that_does_not_share_gradients_is_refused() -> None:
    with pytest.raises(ConfigError, match="NotShared trains in one process, but 2 were started.*share_gradients"):
        next(run_epochs(with_task(OfTeam(0, 2), NotShared), None, lambda: None))


@pytest.mark.parametrize("name", ["average", "accumulation", "clipping", "mixup"])
def test_signal_to_one_process_saves_all_and_resumes_identically(name: str, tmp_path: Path) -> None:
    """The second process is told in its seventh and later steps; the numbers are those of processes left alone."""
    options = {**CONFIGS[name], "save_freq": 1, "checkpoint_every": "1step", "train_length": 3}

    def train(group: SingleProcess, folder: Path, leaves: bool) -> str:
        @contextlib.contextmanager
        def on_stop(leave: Any) -> Iterator[None]:
            count = 0

            def called(*_: Any) -> None:
                nonlocal count
                count += 1
                if count == 7 and leaves and group.rank == 1:
                    leave()
            model.register_forward_pre_hook(called)
            yield
        model = nn.Sequential(*net(3), nn.Dropout(0.2))
        made = make(group, model, {"train": toy_classes(50), "test": toy_classes(41, seed=1)}, **options)
        try:
            trained(made, folder, on_stop=on_stop)
        except resume.SavedAndExit:
            return "left"
        return "done"
    for folder in ("calm", "run"):
        (tmp_path / folder).mkdir()
    assert run_processes(2, tmp_path / "meet", lambda group: train(group, tmp_path / "calm", False)) == ["done"] * 2
    ends = [run_processes(2, tmp_path / f"meet{start}",
                          lambda group, start=start: train(group, tmp_path / "run", start < 2))
            for start in range(3)]
    assert ends == [["left"] * 2, ["left"] * 2, ["done"] * 2]
    assert_same(tmp_path / "run", tmp_path / "calm")


def test_resume_with_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    state = {"config": Config().to_dict(), "step": 3, "versions": {}, "meters": [{}, {}], "generators": {}}
    resume.write(str(tmp_path / "resume-0000000003.pt"), state)
    with pytest.raises(BatchError, match="interrupted with 2 processes and cannot be resumed with 1"):
        resume.load_newest(str(tmp_path), Config())


def test_request_of_one_process_reaches_all_once(tmp_path: Path) -> None:
    def ask(group: SingleProcess) -> list[int]:
        return [group.agree_on(level if group.rank == 1 else 0) for level in (0, 1, 1, 0, 0, 2, 0, 0)]
    assert run_processes(3, tmp_path, ask) == [[0, 0, 1, 0, 0, 0, 2, 0]] * 3


def test_error_in_the_first_process_ends_the_others(tmp_path: Path) -> None:
    def decide(group: SingleProcess) -> Any:
        assert isinstance(group, ProcessGroup)
        return [group.broadcast(lambda: [group.rank, 0.1, "a", None]), group.gather({"rank": group.rank}),
                group.max(group.rank)]
    assert run_processes(2, tmp_path, decide) == [[[0, 0.1, "a", None], [{"rank": 0}, {"rank": 1}], 1]] * 2


sizes = st.integers(1, 40)


@settings(max_examples=60)
@given(st.integers(1, 5), sizes, st.integers(1, 4), sizes)
def test_each_sample_is_in_exactly_one_shard(processes: int, batch_size: int, pieces: int, samples: int
                                                         ) -> None:
    piece = -(-batch_size // pieces)
    split = Split(torch.arange(samples, dtype=torch.float32)[:, None], torch.arange(samples))
    shards = [DataShard(OfTeam(rank, processes), batch_size, piece) for rank in range(processes)]
    streams = [shuffled_batches(split, batch_size, 1, CPU, shard=shard) for shard in shards]
    steps = -(-samples // batch_size)
    for whole, _ in zip(shuffled_batches(split, batch_size, 1, CPU), range(2 * steps), strict=False):
        found: list[int] = []
        for stream, shard in zip(streams, shards, strict=True):
            y = next(stream)[1]
            assert shard.samples == len(whole[1])
            parts_of_it = y.split(shard.max_rows)
            assert len(parts_of_it) == len(shard.rows)
            assert [len(part) for part in parts_of_it] == [max(1, rows) for rows in shard.rows]
            for part, rows in zip(parts_of_it, shard.rows, strict=True):
                found += part[:rows].tolist()
        assert sorted(found) == sorted(whole[1].tolist())
        assert max(sum(shard.rows) for shard in shards) - min(sum(shard.rows) for shard in shards) <= pieces
    evaluated = [shard.with_whole_batches(batch_size) for shard in shards]
    streams = [ordered_batches(split, batch_size, shard) for shard in evaluated]
    for whole in ordered_batches(split, batch_size):
        found = [label for stream, shard in zip(streams, evaluated, strict=True)
                 for label in next(stream)[1][:shard.rows[0]].tolist()]
        assert found == whole[1].tolist(), "in order, so that they can be put together"
    assert all(next(stream, None) is None for stream in streams)


def nobody() -> None:
    """Nobody takes the run over."""


def test_train_starts_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the spec to the files: what one process writes, two write, and the numbers agree."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    spec = {"dataset": "sklearn/digits", "data_dir": str(tmp_path), "data_splits_map": {"train": "train[:80%]", "val":
            "train[80%:]"}, "model": "tiny/lenet", "model_input_shape": [1, 8, 8], "train_length": 2, "base_lr": 0.01,
            "steps_per_epoch": 6, "save_freq": 2, "averaging": "ema_0.9", "seed_model": 0, "device": "cpu"}
    for name, count in (("one", "1"), ("two", "2")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv("GRIDIRON_PROCESSES", count)
        (tmp_path / name / "config.yaml").write_text("seed_training: 5\n")  # as an earlier start drew it
        assert train(spec, str(tmp_path / name), nobody) == "completed"
    one, two = (sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("one", "two"))
    assert one == two
    one, two = (yaml_io.load_file(str(tmp_path / name / "config.yaml")) for name in ("one", "two"))
    assert two["facts"]["processes"] == 2
    assert (two["seed_training"], two["facts"]["seeds_drawn"]) == (5, ["seed_training"])
    weights = [torch.load(tmp_path / name / "checkpoint-00002.pt", weights_only=True) for name in ("one", "two")]
    for which in ("model", "averaged"):
        torch.testing.assert_close(weights[1][which], weights[0][which], rtol=1e-3, atol=1e-4)


def test_torchrun_starts_the_processes(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(yaml_io.dump_flat({
        "dataset": "sklearn/digits", "data_dir": str(tmp_path), "data_splits_map": {"train": "train[:80%]"},
        "model": "linear", "train_length": 2, "base_lr": 0.01, "device": "cpu"}))
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1",
                    "--nproc-per-node=2", str(ROOT / "train.py"), str(tmp_path / "spec.yaml")], check=True, timeout=300,
                   env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}, capture_output=True)
    assert (tmp_path / "done").read_text() == "completed\n"
    assert yaml_io.load_file(str(tmp_path / "config.yaml"))["facts"]["processes"] == 2
    assert len((tmp_path / "stats.csv").read_text().splitlines()) == 3
    assert [path.name for path in tmp_path.glob("claim-*")] == ["claim-1"]


def test_two_processes_evaluate_the_best_checkpoint_of_one(tmp_path: Path) -> None:
    splits = {"train": toy_classes(50), "val": toy_classes(30, seed=2), "test": toy_classes(41, seed=1)}
    options = {"eval_at_end": ["test"], "early_stopping_patience": 2, "train_length": 9, "base_lr": 2.0,
               "averaging": "poly_3", "best_checkpoint_metric": "val/.*/loss", "limit_eval_batches": 2}

    def train(group: SingleProcess) -> Any:
        folder = tmp_path / ("one" if group.size == 1 else "two")
        folder.mkdir(exist_ok=True)
        return trained(make(group, net(3), splits, **options), folder)

    alone, found = train(SINGLE_PROCESS), run_processes(2, tmp_path, train)
    assert alone[0][-1]["test/best/loss"] != alone[0][-1]["test/last/loss"]
    for mine in found:
        assert_close(mine, alone, 5e-3)  # large steps enlarge rounding
