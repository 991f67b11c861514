from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import experiments
from src.io import machine
from src.training import probe
from tests.training.test_debugging_options import _Read
from tests.training.toys import CPU, toy_classes


@given(st.integers(0, 5000), st.integers(1, 300), st.integers(1, 4000))
def test_largest_batch_is_found_within_5_percent(limit: int, start: int, most: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    good, bad = probe.find_largest_batch(fits, start, most)
    assert good <= min(limit, most)
    assert (bad is None) == (limit >= most)
    if bad is None:
        assert good == most
    else:
        assert bad > limit and bad - good <= max(1, good // 20)
    assert len(tried) <= 30 and all(1 <= size <= most for size in tried)


def test_out_of_memory_counts_as_not_fitting() -> None:
    def step(batch: Any) -> None:
        if len(batch[1]) > 700:
            raise torch.OutOfMemoryError("CUDA out of memory")

    split = toy_classes(10)
    good, bad = probe.find_largest_batch(lambda size: probe._try(step, (split.x, split.y), size, CPU), 16, 10_000)
    assert good <= 700 < (bad or 0) and good > 660


def test_cpu_is_limited_by_available_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    split = toy_classes(20)
    model = torch.nn.Sequential(torch.nn.Linear(5, 1000), torch.nn.Tanh(), torch.nn.Linear(1000, 3))

    def step(batch: Any) -> None:
        torch.nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()

    per_sample = probe.bytes_per_sample(step, (split.x, split.y))
    assert 4 * 1000 <= per_sample <= 4 * 1000 * 1.2  # tanh keeps its output; the input and the scores are small
    monkeypatch.setattr(machine, "available_memory", lambda: 10**6)
    good, bad = probe.find_largest_batch(probe.make_fit_check(step, (split.x, split.y), CPU), 4, 10**6)
    assert good * per_sample * 3 <= 0.8 * 10**6 < (bad or 0) * per_sample * 3
    monkeypatch.undo()
    assert machine.available_memory() > 2**20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "3")
    assert machine.available_memory() == 3 * 2**20


def test_samples_are_repeated() -> None:
    x, y = probe.repeat_samples(({"a": torch.arange(3.0)}, torch.arange(3)), 7)
    assert x["a"].tolist() == [0, 1, 2, 0, 1, 2, 0] and y.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_fewest_loaders_near_the_best_rate() -> None:
    assert [probe.candidate_loader_counts(most) for most in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]
    assert probe.best_loader_count({1: 100.0, 2: 196.0, 4: 200.0, 8: 190.0}) == 2
    rates = probe.measure_loading_rates(lambda count: _Read(50), [1, 2], 10, CPU, seconds=0.01)
    assert rates.keys() == {1, 2} and min(rates.values()) > 0


def test_probe_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("dataset: sklearn/digits\ndata_splits_map: {train: 'train[:80%]', val: 'train[80%:]'}\n"
                    "model: tiny/lenet\nbatch_size: 50\n")
    assert experiments.main(["probe", str(spec), "--most", "300"]) == 0
    out = capsys.readouterr().out
    assert "tiny/lenet on sklearn/digits" in out
    assert "batch_size   300 fit, and more" in out and "in memory" in out
    job = tmp_path / "job.yaml"
    job.write_text("job_details: {name: x}\nparameters:\n  dataset: sklearn/digits\n  model: [linear, tiny/lenet]\n"
                   "  data_splits_map: {train: 'train[:80%]'}\n  base_lr: [0.1, 0.2]\n")
    assert experiments.main(["probe", str(job), "--most", "40"]) == 0
    assert "tiny/lenet on sklearn/digits, the largest of 2" in capsys.readouterr().out
