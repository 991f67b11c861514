"""A training that is interrupted, wherever, and goes on has the numbers of one that never was."""
from __future__ import annotations

import copy
import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from src import run_folder
from src.checks.registered_names import parse_interval
from src.config import Config
from src.errors import BatchError, ConfigError
from src.io import files, yaml_io
from src.submission.job import attempt
from src.training.components import TrainingComponents
from src.training.experiment import Experiment, run_epochs
from src.training.output import resume
from src.training.steps.forward import find_compiler
from tests.training.tasks import Centered
from tests.training.toys import make_toy, toy_classes, train_toy


def own(net: nn.Module, **options: Any) -> TrainingComponents:
    made = training(net, task="tests.training.tasks:Centered", **options)
    task = Centered(made.config, made.data, made.device)
    task.optimizers = made.optimizers
    return dataclasses.replace(made, task=task)


def training(net: nn.Module, **options: Any) -> TrainingComponents:
    return make_toy({"train": toy_classes(), "test": toy_classes(40, seed=1)}, net, **options)


# a pass has four steps, the last of them smaller; forwards in an epoch: 4 or 8 steps, then 2 or 3 batches of test
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "average": {"averaging": "poly_3", "recompute_batch_norm": True, "optim_alg": "adamw", "base_lr": 0.01},
    "schedule": {"averaging": "ema_0.9", "lr_schedule": "cosine", "warmup_steps": 5},
    "accumulation": {"grad_accum_steps": 3, "optim_alg": "amsgrad", "base_lr": 0.01},
    "mixup": {"mixup": 0.4, "label_smoothing": 0.1},
    "clipping": {"clip_grad_norm": 0.5, "optim_alg": "timm/lion", "base_lr": 0.01, "momentum": "0.9,0.98"},
    "short_epochs": {"steps_per_epoch": 3, "train_length": 5},
    "long_epochs": {"steps_per_epoch": 7, "save_best_checkpoint": True, "early_stopping_patience": 1,
                    "best_checkpoint_metric": "test/last/loss", "base_lr": 5},
    "steps": {"log_steps": 3, "clip_grad_norm": 0.5},
    "best_at_end": {"eval_at_end": ["test"], "early_stopping_patience": 2, "best_checkpoint_metric": "val/.*/loss",
                    "averaging": "poly_3", "eval_batch_size": 40, "training": lambda net, **options: make_toy(
                        {"train": toy_classes(), "val": toy_classes(20, seed=2), "test": toy_classes(40, seed=1)}, net,
                        **options)},
    "task": {"training": own, "log_steps": 5}, "bf16": {"precision": "bf16", "metrics": ["f1", "confusion_matrix"]}}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power, and half of their time would be fsync."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


OF_ATTEMPTS = ("attempt-", "claim-", "spec.yaml", "done")


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours is run after it."""


class Net(nn.Module):
    """A batch norm with its buffers, noise, and a count of its calls."""

    def __init__(self, layers: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = layers or nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3),
                                              nn.Linear(8, 3))
        self.called: Callable[[], None] = lambda: None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.called()
        return self.layers(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> Net:  # for an average, whose calls are not counted
        return Net(copy.deepcopy(self.layers, memo))


def start(folder: Path, called: Callable[[Callable[[], None]], None] = lambda leave: None, every: str | None = "1step",
          layers: Callable[[], nn.Module | None] = lambda: None, training: Callable[..., TrainingComponents] = training,
          **options: Any) -> None:
    """One start of the training in `folder`. called: at each forward, with what asks the training to leave."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    net = Net(layers())
    made = training(net, **{"checkpoint_every": every, "save_freq": 1, "base_lr": 0.1, **options})

    @contextmanager
    def on_stop(leave: Callable[[], None]) -> Iterator[None]:
        net.called = lambda: called(leave)
        yield
    for _ in run_epochs(made, str(folder), lambda: None, on_stop):
        pass


def at(number: int, what: str) -> Callable[[Callable[[], None]], None]:
    """In the forward `number`: `kill`, or ask to `leave`."""
    count = 0

    def called(leave: Callable[[], None]) -> None:
        nonlocal count
        count += 1
        if count == number and what == "kill":
            raise Killed
        if count == number:
            leave()
    return called


def without_times(path: Path) -> list[list[str]]:
    """The header and the rows of a file; empty if it does not exist."""
    header, *rows = [line.split(",") for line in path.read_text().splitlines()] if path.exists() else [[]]
    kept = [index for index, name in enumerate(header) if not name.endswith(("time", "stamp", "second"))]
    return [[row[index] for index in kept] for row in [header, *rows]]


def outcome(folder: Path) -> tuple[list[list[str]], dict[str, Any], set[str]]:
    """stats.csv and steps.csv without times, the content of the last checkpoint, and which files there are."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    last = max(name for name in names if name.startswith("checkpoint-"))
    content = torch.load(folder / last, weights_only=True)
    return (without_times(folder / "stats.csv") + without_times(folder / "steps.csv"), content,
            {name for name in names if not run_folder.is_resume_checkpoint(name)})


def assert_same(folder: Path, calm: Path) -> None:
    (rows, content, names), (calm_rows, calm_content, calm_names) = outcome(folder), outcome(calm)
    assert rows == calm_rows
    assert {name for name in names if not name.startswith(OF_ATTEMPTS)} == calm_names
    for which in ("model", "averaged"):
        mine, theirs = content[which] or {}, calm_content[which] or {}
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def interrupted(folder: Path, number: int, what: str, **options: Any) -> None:
    """Interrupt each start at its forward `number`, until one ends before."""
    for _ in range(20):
        try:
            start(folder, at(number, what), **options)
            return
        except (Killed, resume.SavedAndExit):
            pass
    raise AssertionError("it makes no progress")


def assert_nobody_notices(folder: Path, number: int, what: str, calm: Path, **options: Any) -> None:
    interrupted(folder, number, what, **options)
    assert_same(folder, calm)


@pytest.mark.parametrize("what", ["kill", "leave"])
@pytest.mark.parametrize("name", CONFIGS)
def test_resumed_run_is_identical(name: str, what: str, tmp_path: Path) -> None:
    """Each start gets as far as its seventh forward (in evaluations too), then its eleventh."""
    start(tmp_path / "calm", **CONFIGS[name])
    for number in (7, 11):
        assert_nobody_notices(tmp_path / f"at{number}", number, what, tmp_path / "calm", **CONFIGS[name])


def test_best_epoch_is_saved_if_the_evaluation_after_it_was_interrupted(tmp_path: Path) -> None:
    """The last epoch is the best, and forward 16 belongs to the evaluation at the end."""
    options = CONFIGS["best_at_end"] | {"base_lr": 0.01, "momentum": 0.0, "averaging": None, "train_length": 3}
    with pytest.raises(resume.SavedAndExit):
        start(tmp_path, at(16, "leave"), **options)
    assert torch.load(tmp_path / "best_checkpoint.pt", weights_only=True)["epoch"] == 2
    start(tmp_path, **options)
    best = torch.load(tmp_path / "best_checkpoint.pt", weights_only=True)
    assert best["epoch"] == best["judgement"]["epoch"] == 3


def test_run_of_a_version_without_some_columns_resumes(tmp_path: Path) -> None:
    options = CONFIGS["best_at_end"] | {"train_length": 3}
    start(tmp_path / "calm", **options)
    with pytest.raises(resume.SavedAndExit):
        start(tmp_path / "run", at(12, "leave"), **options)
    path = tmp_path / "run" / "stats.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    kept = [index for index, name in enumerate(rows[0]) if "/best/" not in name]
    assert len(rows) > 1 and len(kept) < len(rows[0])
    path.write_text("".join(",".join(row[index] for index in kept) + "\n" for row in rows))
    start(tmp_path / "run", **options)
    assert_same(tmp_path / "run", tmp_path / "calm")


@pytest.mark.skipif(not find_compiler(), reason="there is no C++ compiler")
def test_compiled_model_resumes_within_a_tolerance(tmp_path: Path) -> None:
    def made() -> TrainingComponents:
        return make_toy(compile="default", averaging="ema_0.9", checkpoint_every="3steps")

    def check() -> None:
        if (tmp_path / "run" / "resume-0000000006.pt").exists():  # of twelve steps
            raise Killed
    for name in ("calm", "run"):
        (tmp_path / name).mkdir()
    calm, _ = train_toy(made(), str(tmp_path / "calm"))
    with pytest.raises(Killed):
        train_toy(made(), str(tmp_path / "run"), check)
    rows, end = train_toy(made(), str(tmp_path / "run"))
    assert (len(rows), end) == (2, "completed")
    for row, expected in zip(rows, calm[1:], strict=True):
        numbers = [name for name in row if not name.endswith(("time", "stamp", "second"))]
        assert [row[name] for name in numbers] == pytest.approx([expected[name] for name in numbers], rel=1e-4)


@pytest.mark.parametrize("every", ["1epoch", "0.5epochs", "0.00001min", None])
def test_run_interrupted_at_every_step_is_identical(every: str | None, tmp_path: Path) -> None:
    """Killed once at each forward of a training of three epochs: the rest is done by one more start."""
    options = CONFIGS["average"]
    start(tmp_path / "calm", **options)
    for number in range(1, 22):
        folder = tmp_path / str(number)
        with pytest.raises(Killed):
            start(folder, at(number, "kill"), every, **options)
        start(folder, every=every, **options)
        assert_same(folder, tmp_path / "calm")


class Disk:
    """A disk that takes so many operations on files of a folder, half of the next, and then nothing any more."""

    def __init__(self, folder: Path, takes: float, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.takes, self.taken, self._lock = str(folder), takes, 0, threading.Lock()
        self._open = open
        for name in ("replace", "unlink", "mkdir"):
            patch.setattr(os, name, self._counted(getattr(os, name)))
        patch.setattr(os, "fsync", lambda _: self.do(lambda: None))
        patch.setattr("builtins.open", self.open)

    def do(self, what: Callable[[], Any], half: Callable[[], Any] = lambda: None) -> Any:
        with self._lock:
            self.taken += 1
            if self.taken > self.takes:
                if self.taken == self.takes + 1:
                    half()
                raise Killed
            return what()

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda path, *args, **options: self.do(lambda: call(path, *args, **options)) if str(path).startswith(
            self.folder) else call(path, *args, **options)

    def open(self, path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        name = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else str(path)
        if "r" in mode or not name.startswith(self.folder) or name.endswith(".log"):
            return self._open(path, mode, *args, **options)
        return self.do(lambda: File(self, self._open(path, mode.rstrip("b") + "b", buffering=0)))


class File:
    """One on it, open for writing."""

    def __init__(self, disk: Disk, file: Any) -> None:
        self.disk, self.file, self.fileno, self.close = disk, file, file.fileno, file.close
        self.flush = lambda: None

    def write(self, data: Any) -> None:
        data = data.encode() if isinstance(data, str) else data
        self.disk.do(lambda: self.file.write(data), lambda: self.file.write(data[:len(data) // 2]))

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.mark.parametrize("begun", [False, True], ids=["the first start", "the second"])
def test_run_killed_at_every_file_operation_is_identical(begun: bool, tmp_path: Path) -> None:
    """In the midst of a row, a state, a checkpoint, config.yaml, arrays; before and after each is renamed."""
    options = CONFIGS["average"] | {"metrics": ["confusion_matrix"], "save_best_checkpoint": True, "train_length": 2,
                                    "log_steps": 2}
    start(tmp_path / "calm", every="3steps", **options)
    if begun:
        leave_in(tmp_path / "begun", 9, every="3steps", **options)
    takes = 0
    while True:
        folder = tmp_path / str(takes)
        if begun:
            shutil.copytree(tmp_path / "begun", folder)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(folder, takes, patch)
            try:
                start(folder, every="3steps", **options)
                break
            except Killed:
                pass
        start(folder, every="3steps", **options)
        assert_same(folder, tmp_path / "calm")
        takes += 1
    assert disk.taken == takes > 30


@pytest.mark.parametrize("piece", ["step", "model", "average", "optimizers", "generators", "meters", "seen", "best",
                                   "clipping", "task", "step_log"])
def test_every_part_of_the_state_is_needed(piece: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the comparison fails: it is as it was when the start began."""
    options = CONFIGS["task"] if piece == "task" else CONFIGS["long_epochs"] | {
        "averaging": "poly_3", "clip_grad_norm": 0.5, "log_steps": 4}
    start(tmp_path / "calm", **options)
    restore = Experiment.restore

    def restore_without(self: Experiment, state: resume.TrainingState) -> None:
        fresh = resume._on_cpu(self._state(0)[piece])
        restore(self, {**state, piece: fresh})
    monkeypatch.setattr(Experiment, "restore", restore_without)
    with pytest.raises(AssertionError):
        assert_nobody_notices(tmp_path / "broken", 11, "kill", tmp_path / "calm", **options)


def test_state_is_due_after_the_interval_in_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(resume, "perf_counter", lambda: now)
    saver = resume.ResumeSaver(str(tmp_path), parse_interval("10min"), 1, 1, lambda step: {}, lambda: None)
    assert (saver.due, saver.due_step) == (700, 1 << 62)
    now = 705.0
    saver.save(1)
    saver.close()
    assert saver.due == 1305


def test_duration_of_each_save_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the copy of the state to the end of writing it."""
    write = resume.write
    monkeypatch.setattr(resume, "write", lambda *arguments: (time.sleep(0.1), write(*arguments)))
    durations: list[float] = []
    for _ in run_epochs(training(Net(), checkpoint_every="5steps"), str(tmp_path), lambda: None,
                        on_saved=durations.append):
        pass
    assert len(durations) == 2
    assert min(durations) >= 0.1


@pytest.mark.parametrize("text", ["10", "0min", "1.5steps", "often", "-1epoch"])
def test_invalid_interval_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"checkpoint_every: '{text}' is not an interval; allowed: e.g. 10min"):
        Config.from_dict({"checkpoint_every": text})


def leave_in(folder: Path, forward: int = 6, **options: Any) -> None:
    with pytest.raises(resume.SavedAndExit):
        start(folder, at(forward, "leave"), **options)


def test_newest_states_are_kept(tmp_path: Path) -> None:
    leave_in(tmp_path / "run", 10, checkpoints_kept=3)
    assert resume.state_names(str(tmp_path / "run")) == [f"resume-{step:010d}.pt" for step in (7, 6, 5)]
    assert not list((tmp_path / "run").glob(".*"))


def test_rows_after_the_state_and_incomplete_rows_are_dropped(tmp_path: Path) -> None:
    start(tmp_path / "calm")
    leave_in(tmp_path / "run", 10)
    with open(tmp_path / "run" / "stats.csv", "a") as file:
        file.write("2,8,1.0,0.1\n3,1")
    start(tmp_path / "run")
    assert_same(tmp_path / "run", tmp_path / "calm")


def test_missing_rows_are_an_error(tmp_path: Path) -> None:
    leave_in(tmp_path / "run", 10)
    stats = tmp_path / "run" / "stats.csv"
    stats.write_text(stats.read_text().splitlines()[0] + "\n")
    with pytest.raises(BatchError, match=r"cannot resume at epoch 2: .*train.py --fresh .*run/spec.yaml"):
        start(tmp_path / "run")


def test_incomplete_newest_state_is_skipped(tmp_path: Path) -> None:
    start(tmp_path / "calm")
    leave_in(tmp_path / "run")
    name, before = resume.state_names(str(tmp_path / "run"))
    path = tmp_path / "run" / name
    for damage in (lambda data: data[:-9], lambda data: data[:-300] + b"x" + data[-299:], lambda data: b""):
        data = path.read_bytes()
        path.write_bytes(damage(data))
        with pytest.raises(ValueError, match="incomplete"):
            resume.read(str(path))
        path.write_bytes(data)
    path.write_bytes(path.read_bytes()[:-9])
    start(tmp_path / "run")
    assert f"{name} cannot be used: the file is incomplete" in (tmp_path / "run" / "training.log").read_text()
    assert "resumed_at_step" in (tmp_path / "run" / "training.log").read_text()
    assert_same(tmp_path / "run", tmp_path / "calm")
    assert int(before[7:17]) < int(name[7:17])


def test_other_versions_cause_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_in(tmp_path / "run")
    monkeypatch.setattr(torch, "__version__", "9.9")
    start(tmp_path / "run")
    assert ", now 9.9: results may differ from here on" in (tmp_path / "run" / "training.log").read_text()


def test_no_usable_state_is_an_error(tmp_path: Path) -> None:
    leave_in(tmp_path / "run")
    for name in resume.state_names(str(tmp_path / "run")):
        (tmp_path / "run" / name).write_bytes(b"")
    with pytest.raises(BatchError, match="none of its saved states can be used"):
        start(tmp_path / "run")


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hacked",)


def test_malicious_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    resume.write("x.pt", {"a": Hostile()})
    with pytest.raises(ValueError, match="contains objects that a state never contains"):
        resume.read("x.pt")
    assert not Path("hacked").exists()


@pytest.mark.parametrize("content", [[], {}, {"config": [], "versions": {}, "step": 1, "meters": [], "generators": {}}])
def test_a_state_of_another_form_is_refused(tmp_path: Path, content: Any) -> None:
    resume.write(str(tmp_path / "resume-0000000003.pt"), content)
    with pytest.raises(BatchError, match="holds no state of a training"):
        resume.load_newest(str(tmp_path), Config())


def test_a_pipe_in_place_of_a_state_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "resume-0000000003.pt")
    with pytest.raises(BatchError, match="not a regular file"):
        resume.load_newest(str(tmp_path), Config())


def test_changed_spec_is_refused_with_the_difference(tmp_path: Path) -> None:
    leave_in(tmp_path / "run")
    with pytest.raises(BatchError, match=r"base_lr was 0\.1, now 0\.2.*--fresh"):
        start(tmp_path / "run", base_lr=0.2)
    start(tmp_path / "run", log_interval=3, num_workers=0, max_requeues=7)  # not about the numbers


def test_new_config_field_does_not_prevent_resuming() -> None:
    now = Config(base_lr=0.5).to_dict()
    then = {key: value for key, value in now.items() if key != "mixup"}
    assert resume.config_differences(then, now) == []
    assert resume.config_differences(then, {**now, "mixup": 0.2}) == ["mixup was 0.0, now 0.2"]


def test_full_disk_keeps_the_last_complete_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(tmp_path / "calm")
    atomic_writer = files.atomic_writer

    def full(path: str, sync: bool = True) -> Any:
        if "resume-" in path and int(path[-13:-3]) >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return atomic_writer(path, sync)
    monkeypatch.setattr(files, "atomic_writer", full)
    with pytest.raises(OSError, match="No space left on device"):
        start(tmp_path / "run")
    assert resume.state_names(str(tmp_path / "run"))[0] == "resume-0000000002.pt"
    monkeypatch.undo()
    start(tmp_path / "run")
    assert_same(tmp_path / "run", tmp_path / "calm")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A run folder on a disk of 160 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    (folder / "000_x").mkdir()
    yield folder / "000_x"
    subprocess.run(["umount", folder], check=True)


def test_run_on_a_full_disk_fails_and_resumes_when_there_is_space(
        small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handlers

    def train_toy(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
        start(Path(folder or ""), train_length=20)
        return "completed"
    start(tmp_path / "calm", train_length=20)
    (small_disk / "spec.yaml").write_text("train_length: 20\n")
    assert attempt.run_spec(str(small_disk / "spec.yaml"), train_toy) == 1
    record = files.read_json(small_disk / "attempt-1-0.json")
    assert record["how"] == "failed"
    assert record["error"].startswith("disk full: ")
    assert "Make room, then `python submit_multiple.py -r BATCH` resumes from it" in capfd.readouterr().err
    assert resume.read(str(small_disk / resume.state_names(str(small_disk))[0]))["step"] > 4
    subprocess.run(["mount", "-o", "remount,size=2m", small_disk.parent], check=True)
    assert attempt.run_spec(str(small_disk / "spec.yaml"), train_toy) == 0
    assert_same(small_disk, tmp_path / "calm")


def test_superseded_attempt_writes_no_state(tmp_path: Path) -> None:
    class Fenced(Exception):
        pass

    def check() -> None:
        raise Fenced
    saver = resume.ResumeSaver(str(tmp_path), None, 1, 1, lambda step: {"step": step}, check)
    with pytest.raises(Fenced):
        saver.save(1)
    assert not list(tmp_path.iterdir())


def test_state_is_copied_at_its_step(tmp_path: Path) -> None:
    """Changes by the training while the state is written are not in it."""
    weight = torch.zeros(3)
    saver = resume.ResumeSaver(str(tmp_path), None, 1, 1, lambda step: {"weight": weight, "list": [(weight, 1)]},
                         lambda: None)
    saver.save(1)
    weight += 1
    saver.close()
    content = resume.read(str(tmp_path / "resume-0000000001.pt"))
    assert not content["weight"].any()
    assert not content["list"][0][0].any()


def test_generators_are_restored(tmp_path: Path) -> None:
    import random

    import numpy as np

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))
    resume.write(str(tmp_path / "x.pt"), resume.generator_states(torch.device("cpu")))
    expected = drawn()
    resume.restore_generators(resume.read(str(tmp_path / "x.pt")), torch.device("cpu"))
    assert drawn() == expected


def test_facts_contain_the_step_of_the_resume(tmp_path: Path) -> None:
    leave_in(tmp_path / "run")
    start(tmp_path / "run")
    assert yaml_io.load_file(str(tmp_path / "run" / "config.yaml"))["facts"]["resumed_at_step"] == 4


def test_temporary_files_of_a_killed_start_are_removed(tmp_path: Path) -> None:
    leave_in(tmp_path / "run")
    (tmp_path / "run" / ".resume-0000000009.pt.host.1.tmp").write_bytes(b"x")
    start(tmp_path / "run")
    assert not list((tmp_path / "run").glob(".resume*"))
