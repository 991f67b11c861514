from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from src.config import Config
from src.errors import ConfigError
from src.training.setup import facts
from src.training.setup.length import Length
from tests.training.toys import CPU, make_toy


def _git(folder: Path, *command: str) -> str:
    return subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=b", *command], cwd=folder, check=True,
                          capture_output=True, text=True).stdout.strip()


def test_commit_equals_that_of_git(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    repository.mkdir()
    _git(repository, "init", "-q", "-b", "main")
    assert facts.commit(repository) is None  # before the first commit
    _git(repository, "commit", "-q", "--allow-empty", "-m", "one")
    first = _git(repository, "rev-parse", "HEAD")
    assert facts.commit(repository) == first
    _git(repository, "pack-refs", "--all")
    assert facts.commit(repository) == first
    _git(repository, "worktree", "add", "-q", "-b", "side/branch", str(tmp_path / "tree"))
    _git(tmp_path / "tree", "commit", "-q", "--allow-empty", "-m", "two")
    assert facts.commit(tmp_path / "tree") == _git(tmp_path / "tree", "rev-parse", "HEAD") != first
    _git(repository, "checkout", "-q", "--detach")
    assert facts.commit(repository) == first


def test_no_repository_has_no_commit(tmp_path: Path) -> None:
    assert facts.commit(tmp_path) is None
    (tmp_path / "COMMIT").write_text("1a2b\n")  # of a snapshot
    assert facts.commit(tmp_path) == "1a2b"


def test_facts_of_a_run() -> None:
    made = make_toy(batch_size=16, grad_accum_steps=3)
    found = facts.gather(made.config, made.data, made.model, Length.of(made.config, 60), CPU, ["seed_model"])
    assert found["examples"] == {"train": 60, "test": 40}
    assert (found["classes"], found["input_shape"], found["output_dim"]) == (3, [5], 3)
    assert (found["micro_batch_size"], found["steps_per_epoch"], found["steps"], found["epochs"]) == (6, 4, 12, 3)
    assert (found["parameters"], found["device"], found["seeds_drawn"]) == (18, "cpu", ["seed_model"])


def test_regression_has_one_output() -> None:
    made = make_toy(loss="mse")
    assert facts.output_dim(made.config, made.data) == 1
    assert facts.output_dim(Config(model_output_dim=4), make_toy().data) == 4


def test_threads_are_those_of_the_worker_or_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRIDIRON_THREADS", "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    assert facts.allotted_threads() is None
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert facts.allotted_threads() == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert facts.allotted_threads() is None
    monkeypatch.setenv("GRIDIRON_THREADS", "3")
    assert facts.allotted_threads() == 3


def test_missing_device_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no device 'cuda:1'"):
        facts.choose_device("cuda:1")
    assert facts.choose_device("cpu") == CPU


def test_auto_prefers_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert facts.choose_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert facts.choose_device("auto").type == "cuda"
