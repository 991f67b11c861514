"""Trainings on texts from end to end, without network: classification, language models, exact resume."""
from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import experiments
import train
from src import run_folder
from src.config import Config
from src.training.components import build
from src.training.experiment import run_epochs
from src.training.output.resume import SavedAndExit
from src.training.steps.batches import group_by_length, ordered_batches, shuffled_batches
from src.training.steps.overfit_subset import overfit_subset
from tests.texts import make_folder, reviews, write_csv
from tests.training.output.test_resume import assert_same

pytest.importorskip("datasets")
pytest.importorskip("transformers")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with reviews and two models."""
    folder = tmp_path_factory.mktemp("data")
    write_csv(folder / "reviews/train.csv", reviews(120))
    (folder / "reviews/test.json").write_text("".join(json.dumps(row) + "\n" for row in reviews(50, seed=1)))
    make_folder(folder / "bert")
    make_folder(folder / "gpt2", "gpt2")
    return folder


@pytest.fixture
def spec(folder: Path) -> dict[str, Any]:
    return {"dataset": "hf/./reviews", "model": "hf/./bert", "data_dir": str(folder), "optim_alg": "adamw",
            "base_lr": 3e-3, "batch_size": 16, "train_length": 2, "seed_model": 0, "seed_training": 0,
            "group_by_length": True}


LANGUAGE = {"model": "hf/./gpt2", "targets": "next_token", "train_length": 6, "base_lr": 0.01}


def stats_of(spec: dict[str, Any]) -> pd.DataFrame:
    return list(train.experiment_generator(Config.from_dict(spec)))[-1][0]


def test_texts_are_classified(spec: dict[str, Any], tmp_path: Path) -> None:
    first = stats_of({**spec, "train_length": 12, "output_dir": str(tmp_path / "run"), "averaging": "poly"})
    assert first["test/last/accuracy"].iloc[-1] > 0.95 and first["test/av/accuracy"].iloc[-1] > 0.9
    facts = run_folder.read_spec(tmp_path / "run" / run_folder.CONFIG)["facts"]
    assert (facts["tokenizer"], facts["max_length"], facts["text_column"]) == ("./bert", 24, "text")
    again = stats_of({**spec, "train_length": 12, "averaging": "poly"})
    losses = [name for name in first if name.endswith(("loss", "accuracy"))]
    pd.testing.assert_frame_equal(again[losses], first[losses], check_exact=True)  # equal seeds


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"loss": "mse", "label_column": "text_length"},
                                     {"overfit_batches": 2}, {"metrics": ["f1"], "label_smoothing": 0.1}])
def test_texts_with_other_options(spec: dict[str, Any], options: dict[str, Any], tmp_path: Path) -> None:
    if "label_column" in options:
        write_csv(tmp_path / "numbers.csv", [{**row, "text_length": len(row["text"]) / 10} for row in reviews(60)])
        options = {**options, "dataset": "hf/numbers.csv", "data_dir": str(tmp_path),
                   "model": f"hf/{spec['data_dir']}/bert", "data_splits_map": {"train": "train[:50%]",
                                                                                "test": "train[50%:]"}}
    assert stats_of({**spec, **options})["test/last/loss"].notna().all()


def test_a_language_model_learns(spec: dict[str, Any]) -> None:
    stats = stats_of({**spec, **LANGUAGE})
    for group in ("train", "test/last"):
        assert stats[f"{group}/perplexity"].dropna().tolist() == [math.exp(x) for x in stats[f"{group}/loss"].dropna()]
    assert stats["test/last/perplexity"].iloc[-1] < 0.9 * stats["test/last/perplexity"].iloc[0]
    assert 0.1 < stats["test/last/accuracy"].iloc[-1] < 1


def test_perplexity_is_that_of_all_tokens_of_the_split(spec: dict[str, Any]) -> None:
    """By hand: text by text, without padding; whatever the batch size of the evaluation."""
    spec = {**spec, **LANGUAGE, "train_length": 0, "data_splits_map": {"test": "test"}}
    parts = build(Config.from_dict(spec), None)
    parts.model.eval()
    total, right, count = 0.0, 0, 0
    with torch.no_grad():
        for x, _ in parts.data.splits["test"].batches(1, None, 0):  # type: ignore[union-attr]
            ids = x["input_ids"][0].tolist()
            output = parts.model({"input_ids": x["input_ids"]})[0].double().log_softmax(-1)
            for place, token in enumerate(ids[1:]):
                total -= float(output[place, token])
                right += int(output[place].argmax()) == token
                count += 1
    for batch_size in (7, 50):
        row = stats_of({**spec, "eval_batch_size": batch_size}).iloc[-1]
        assert row["test/last/perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
        assert row["test/last/loss"] == pytest.approx(total / count, rel=1e-5)
        assert row["test/last/accuracy"] == right / count


def test_accumulated_tokens_equal_the_large_batch(spec: dict[str, Any], tmp_path: Path) -> None:
    """Micro-batches have different numbers of tokens; each token counts alike."""
    settings = json.loads((Path(spec["data_dir"]) / "gpt2/config.json").read_text())
    still = {**settings, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}  # no noise, which comes by forward
    make_folder(tmp_path / "still", "gpt2")
    (tmp_path / "still/config.json").write_text(json.dumps(still))
    spec = {**spec, **LANGUAGE, "model": f"hf/{tmp_path}/still", "optim_alg": "sgd", "base_lr": 0.1,
            "group_by_length": False, "train_length": 3}
    whole, parts = stats_of(spec), stats_of({**spec, "grad_accum_steps": 5})
    for name in ("train/loss", "train/accuracy", "test/last/loss"):
        assert parts[name].dropna().tolist() == pytest.approx(whole[name].dropna().tolist(), rel=1e-4)


def test_batches_have_similar_lengths(spec: dict[str, Any]) -> None:
    data = build(Config.from_dict(spec), None).data.splits["train"]
    plain = dataclasses.replace(data, grouped=False)  # type: ignore[type-var]

    def padding(split: Any) -> float:
        batches = shuffled_batches(split, 16, 0, CPU)
        return sum(float((1 - next(batches)[0]["attention_mask"]).sum()) for _ in range(8))

    assert padding(data) < 0.3 * padding(plain)
    lengths = data.lengths  # type: ignore[union-attr]
    order = torch.randperm(120, generator=torch.Generator().manual_seed(5))
    grouped = group_by_length(order, lengths, 16, 0)
    assert sorted(grouped.tolist()) == list(range(120)) and torch.equal(grouped[112:], order[112:])
    longest = [int(part.max()) for part in lengths[grouped[:112]].split(16)]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)  # in no order
    assert torch.equal(grouped, group_by_length(order, lengths, 16, 0)) and not torch.equal(
        grouped, group_by_length(order, lengths, 16, 1))
    assert overfit_subset(data, 32, 0).lengths.shape == (32,)  # type: ignore[union-attr]


def test_pass_over_texts_resumes_at_its_batch(spec: dict[str, Any]) -> None:
    data = build(Config.from_dict(spec), None).data.splits["train"]
    whole = shuffled_batches(data, 16, 3, CPU)
    batches = [next(whole)[0]["input_ids"] for _ in range(20)]
    for start in (0, 3, 8, 11):
        rest = shuffled_batches(data, 16, 3, CPU, start=start)
        assert all(torch.equal(next(rest)[0]["input_ids"], batch) for batch in batches[start:])
    assert [len(y) for _, y in ordered_batches(data, 50)] == [50, 50, 20]


def test_probe_tries_the_longest_texts(spec: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                       ) -> None:
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    assert experiments.main(["probe", str(tmp_path / "spec.yaml"), "--most", "40"]) == 0
    out = capsys.readouterr().out
    assert "batch_size   40 fit, and more were not tried" in out and "the data is in memory" in out
    data = build(Config.from_dict(spec), None).data.splits["train"]
    x, _ = data.longest(3)  # type: ignore[union-attr]
    assert x["attention_mask"].sum(1).tolist() == data.lengths.sort().values[-3:].flip(0).tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("options", [{}, LANGUAGE], ids=["classes", "next_token"])
def test_resumed_text_run_is_identical(spec: dict[str, Any], options: dict[str, Any], tmp_path: Path) -> None:
    spec = {**spec, **options, "train_length": 2, "checkpoint_every": "1step", "save_freq": 1}

    def start(name: str, stop_at: int | None = None) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        parts = build(Config.from_dict(spec), str(tmp_path / name))
        calls = 0

        @contextmanager
        def on_stop(leave: Any) -> Iterator[None]:
            def called(*_: Any) -> None:
                nonlocal calls
                calls += 1
                if calls == stop_at:
                    leave()
            parts.model.register_forward_pre_hook(called)
            yield
        for _ in run_epochs(parts, str(tmp_path / name), lambda: None, on_stop):
            pass

    start("calm")
    for _ in range(10):
        try:
            start("stopped", stop_at=6)
            break
        except SavedAndExit:
            pass
    assert_same(tmp_path / "stopped", tmp_path / "calm")
