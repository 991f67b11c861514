"""Loading a model of somebody else executes no code that their files name."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from src.errors import BatchError, ConfigError
from src.io import ownership, yaml_io
from src.training import saved_model
from train import load_model

FACTS = {"input_shape": [64], "output_dim": 10}
SPEC = {"dataset": "sklearn/digits", "data_splits_map": {"train": "train"}, "model": "linear"}


def write_run(folder: Path, spec: dict[str, object], facts: object = None) -> str:
    folder.mkdir()
    facts = FACTS if facts is None else facts
    (folder / "config.yaml").write_text(yaml_io.dump_flat({**SPEC, **spec, "facts": facts}))
    torch.save({"model": torch.nn.Linear(64, 10).state_dict(), "averaged": None, "epoch": 1, "config": {}},
               folder / "best_checkpoint.pt")
    return str(folder)


@pytest.fixture
def mallory(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files belong to another user."""
    monkeypatch.setattr(ownership, "other_owner", lambda *paths: "mallory")


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("spec", [
    {"model": "torch.hub:load", "model_kwargs": {"repo_or_dir": "evil", "source": "local", "trust_repo": True}},
    {"dataset": "subprocess:run"}, {"loss": "os:system"}, {"task": "pickle:loads"}, {"metrics": ["builtins:eval"]}])
def test_functions_outside_of_the_project_are_never_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: bool,
                                                           spec: dict[str, object]) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "hubconf.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="not in this project"):
        load_model(write_run(tmp_path / "run", spec), trust=trust)
    assert not (tmp_path / "pwned").exists()


def test_code_of_the_project_needs_trust_if_another_user_names_it(tmp_path: Path, mallory: None) -> None:
    run = write_run(tmp_path / "run", {"model": "tests.training.test_foreign_model:make"})
    with pytest.raises(BatchError, match="is of mallory, and executes code of this project: model: tests.training.*"
                       "pass trust=True"):
        load_model(run)
    model, _ = load_model(run, trust=True)
    assert isinstance(model, torch.nn.Linear)


def test_built_in_models_of_another_user_are_loaded(tmp_path: Path, mallory: None) -> None:
    model, data = load_model(write_run(tmp_path / "run", {}))
    assert model.weight.shape == (10, 64) and list(data.splits) == ["train"]


def test_model_of_the_registry_has_no_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow copies it, so that its files belong to this user."""
    run = write_run(tmp_path / "run", {"model": "tests.training.test_foreign_model:make"})
    with pytest.raises(BatchError, match="is of the registry, which has no owner"):
        saved_model.Predictor(run)
    assert saved_model.Predictor(run, trust=True).predict(torch.zeros(2, 64).numpy()).shape == (2, 10)


@pytest.mark.parametrize("facts", ["x", [], {"input_shape": "x", "output_dim": 10}, {"input_shape": [64]},
                                   {"input_shape": [[1]], "output_dim": 10}])
def test_facts_of_another_form_are_an_error(tmp_path: Path, facts: object) -> None:
    with pytest.raises(BatchError, match="no facts input_shape and output_dim"):
        load_model(write_run(tmp_path / "run", {}, facts))


@pytest.mark.parametrize("changes", [
    {"model": {"weight": torch.zeros(3, 3)}}, {"model": {"weight": "x"}}, {"model": {}}, {"model": []}, {"averaged": 1},
    {"epoch": "x"}, {"epoch": -1}, {"config": []}, {"judgement": []}, {"judgement": {"weights": "other", "epoch": 1}},
    {"judgement": {"weights": "av", "epoch": 1}}, {"judgement": {"epoch": 1}}])
def test_a_checkpoint_of_another_form_is_an_error(tmp_path: Path, changes: dict[str, object]) -> None:
    run = write_run(tmp_path / "run", {})
    path = tmp_path / "run" / "best_checkpoint.pt"
    torch.save({**torch.load(path, weights_only=True), **changes}, path)
    with pytest.raises(BatchError, match=r"not a checkpoint|its weights do not fit the model"):
        load_model(run)


@pytest.mark.parametrize("config", [
    {"best_checkpoint_metric": 5}, {"best_checkpoint_metric": "(a+)+$"}, {"eval_models": 7},
    {"best_checkpoint_metric": "loss"}])
def test_the_config_in_an_old_checkpoint_may_have_any_form(tmp_path: Path, config: dict[str, object]) -> None:
    """An old one does not record which weights were judged best: its config and stats.csv decide."""
    run = write_run(tmp_path / "run", {})
    path, weights = tmp_path / "run" / "best_checkpoint.pt", torch.nn.Linear(64, 10).state_dict()
    torch.save({**torch.load(path, weights_only=True), "averaged": weights, "config": config}, path)
    (tmp_path / "run" / "stats.csv").write_text(f"epoch,loss,{'a' * 40}!\nx,1,1\n1,word,1\n")
    assert load_model(run).judgement.weights == "av"


def make(input_shape: tuple[int, ...], output_dim: int) -> torch.nn.Module:
    return torch.nn.Linear(*input_shape, output_dim)
