"""MLflow, in a database of its own: a live run and an export of its files are the same there, once."""
from __future__ import annotations

import contextlib
import json
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

import experiments
import train as entry
from src import run_folder
from src.archive import writer
from src.errors import BatchError, ConfigError
from src.io import yaml_io
from src.submission.job import attempt
from src.tracking import mlflow_export, mlflow_run, trackers
from src.tracking.mlflow_tracker import MlflowTracker

mlflow = pytest.importorskip("mlflow")
pytest.importorskip("alembic")

SPEC = {"dataset": "sklearn/digits", "data_splits_map": {"train": "train[:60%]", "val": "train[60%:]"}, "base_lr": 0.05,
        "train_length": 3, "train_length_unit": "step", "steps_per_epoch": 1, "save_best_checkpoint": True,
        "best_checkpoint_metric": "val/.*/accuracy", "seed_model": 1, "seed_training": 2, "log_steps": 1}


def make_batch(root: Path, name: str = "26-11-20-tracked") -> Path:
    """A batch without runs."""
    batch = root / name
    for folder in ("submissions", "code/one"):
        (batch / folder).mkdir(parents=True)
    (batch / "job.yaml").write_text("job_details: {name: tracked, description: what for}\nparameters: {}\n")
    (batch / "submissions" / f"{name}.jsonl").write_text("{}\n")
    (batch / "code" / "one" / "code.json").write_text(json.dumps({"commit": "1a2b3c"}))
    return batch


def run_in(batch: Path, name: str, **options: Any) -> Path:
    """Train a run, as a job does; its folder."""
    folder = batch / name
    folder.mkdir(exist_ok=True)
    (folder / "spec.yaml").write_text(yaml_io.dump_flat({**SPEC, "TAGS": ["mine"], **options}))
    assert attempt.main([str(folder / "spec.yaml")], entry.train, entry.warm_up) == 0
    return folder


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A client without a server keeps artifacts where it stands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        patch.setattr(trackers, "_SHORT_TIMEOUT", 60.0)  # a busy machine is no failure
        yield


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with its tables, which take seconds to make."""
    address = f"sqlite:///{tmp_path_factory.mktemp('db')}/mlflow.db"
    mlflow_run.connect(address).search_experiments()
    return address


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, uri: str) -> Path:
    """Two runs that were shown live, and one that was not."""
    made = make_batch(tmp_path_factory.mktemp("results"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowTracker, "uri", staticmethod(lambda config: uri))
        for index, rate in enumerate((0.05, 0.1)):
            run_in(made, f"{index:03d}_tracked", base_lr=rate, mlflow=True)
    run_in(made, "002_tracked", base_lr=0.05)
    return made


def runs_of(uri: str, name: str = "tracked") -> dict[str, Any]:
    """All runs of an experiment, by their names."""
    client = mlflow_run.connect(uri)
    found = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert len({run.info.run_name for run in found}) == len(found), "a run was doubled"
    return {run.info.run_name: run for run in found}


def test_live_run_is_complete(batch: Path, uri: str) -> None:
    assert "WARNING" not in (batch / "000_tracked" / "training.log").read_text()
    found = runs_of(uri)
    parent, run = found["26-11-20-tracked"], found["000_tracked"]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (run.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert run.data.params["base_lr"] == "0.05" and run.data.params["data_splits_map/train"] == "train[:60%]"
    assert run.data.params["averaging"] == "None" and "output_dir" not in run.data.params
    assert run.data.tags["mlflow.source.git.commit"] == "1a2b3c"
    assert run.data.tags["mlflow.note.content"] == parent.data.tags["mlflow.note.content"] == "what for"
    assert run.data.tags["mine"] == "true" and run.data.tags["facts/classes"] == "10"
    assert run.data.metrics["trainable_params"] == 640
    client = mlflow_run.connect(uri)
    rows = mlflow_run.read_rows(str(batch / "000_tracked"))
    history = client.get_metric_history(run.info.run_id, "val/last/loss")
    assert [(point.step, point.value) for point in history] == [(row["step"], row["val/last/loss"]) for row in rows]
    history = client.get_metric_history(run.info.run_id, "steps/loss")
    assert [(point.step, point.value, point.timestamp) for point in history] == [
        (row["step"], row["loss"], int(1000 * row["timestamp"])) for row in mlflow_run.read_rows(
            str(batch / "000_tracked"), run_folder.STEPS)]
    assert [point.step for point in history] == [1, 2, 3]
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["config.yaml"]


def test_best_model_is_logged_and_predicts(batch: Path, uri: str) -> None:
    """By MLflow's own loader, with a signature and an example, and nothing of it pickled."""
    address = runs_of(uri)["000_tracked"].data.tags[mlflow_run.MODEL]
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model(address)
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    assert loaded.metadata.saved_input_example_info is not None
    model, data = entry.load_model(str(batch / "000_tracked"))
    x = data.splits["val"].x[:5]
    np.testing.assert_allclose(loaded.predict(x.numpy()), model(x.view(5, 1, 8, 8)).detach().numpy(), rtol=1e-5)
    kept = Path(mlflow.artifacts.download_artifacts(address))
    assert not [path for path in kept.rglob("*") if path.suffix in (".pkl", ".pickle") or "pickle" in path.name]


def test_export_equals_live_run_and_is_idempotent(batch: Path, uri: str,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(batch), "--uri", uri]
    assert experiments.main(words) == 0
    assert capsys.readouterr().out == f"{batch}: 1 runs updated, 2 unchanged\n"
    found = runs_of(uri)
    live, exported = found["000_tracked"], found["002_tracked"]
    assert {**live.data.params, "mlflow": ""} == {**exported.data.params, "mlflow": ""}
    alike = [name for name in live.data.metrics if "time" not in name and "second" not in name]
    assert {name: live.data.metrics[name] for name in alike} == {name: exported.data.metrics[name] for name in alike}
    assert live.data.metrics.keys() == exported.data.metrics.keys()
    tags = set(live.data.tags)
    assert tags - {"mlflow.runName"} == set(exported.data.tags) - {"mlflow.runName"}
    assert experiments.main(words) == 0
    assert capsys.readouterr().out == f"{batch}: 0 runs updated, 3 unchanged\n"
    assert len(runs_of(uri)) == 4


@pytest.mark.parametrize("text", ["", "[]", '{"identity": 5}'])
def test_a_damaged_record_of_the_id_is_written_anew(tmp_path: Path, text: str) -> None:
    client = mock.MagicMock()
    client.search_runs.return_value = []
    client.create_run.return_value.info.run_id = "new"
    experiment = mlflow_run.MlflowExperiment(client, "http://x", "tiny")
    (tmp_path / "spec.yaml").write_text("base_lr: 0.1\n")
    path = tmp_path / f"mlflow-{experiment._key}.json"
    path.write_text(text)
    assert experiment._create_once(str(tmp_path), {}) == "new"
    assert json.loads(path.read_text())["run_id"] == "new"
    client.delete_run.assert_not_called()


def test_export_sends_new_rows(batch: Path, uri: str, tmp_path: Path) -> None:
    """A run that is exported in mid-course and again at its end; and its moved folder is the same run."""
    made = make_batch(tmp_path, "26-11-20-growing")
    folder = run_in(made, "000_growing")
    whole = (folder / "stats.csv").read_text()
    (folder / "done").rename(tmp_path / "done")
    record = folder / "attempt-1-0.json"
    ended = record.read_text()
    record.write_text(json.dumps({**json.loads(ended), "how": None, "end": None}))
    (folder / "stats.csv").write_text("".join(whole.splitlines(True)[:2]) + "2,tor")
    list(mlflow_export.export([str(made)], uri))
    run = runs_of(uri, "growing")["000_growing"]
    assert run.info.status == "RUNNING" and run.data.metrics["epoch"] == 1
    (folder / "stats.csv").write_text(whole)
    record.write_text(ended)
    (tmp_path / "done").rename(folder / "done")
    next(folder.glob("mlflow-*.json")).unlink()
    made.rename(made.parent / "26-11-20-growing.old")
    (made.parent / "elsewhere").mkdir()
    moved = (made.parent / "26-11-20-growing.old").rename(made.parent / "elsewhere" / "26-11-20-growing")
    list(mlflow_export.export([str(moved)], uri))
    again = runs_of(uri, "growing")["000_growing"]
    assert (again.info.run_id, again.info.status, again.data.metrics["epoch"]) == (run.info.run_id, "FINISHED", 3)
    history = mlflow_run.connect(uri).get_metric_history(run.info.run_id, "epoch")
    assert [point.value for point in history] == [1, 2, 3]


def test_resumed_run_continues_the_same_run(batch: Path, uri: str, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MlflowTracker, "uri", staticmethod(lambda config: uri))
    folder = make_batch(tmp_path, "26-11-20-resumed") / "000_resumed"
    folder.mkdir()
    (folder / "spec.yaml").write_text(yaml_io.dump_flat({**SPEC, "mlflow": True, "checkpoint_every": "1epoch"}))
    (folder / "attempt-1-0.json").write_text(json.dumps({"start": 1e9}))
    seen = []

    def check() -> None:
        seen.append((folder / "stats.csv").exists() and len((folder / "stats.csv").read_text().splitlines()))
        if seen[-1] == 3:
            raise KeyboardInterrupt

    spec = run_folder.read_spec(folder / "spec.yaml")
    with pytest.raises(KeyboardInterrupt):
        entry.train(spec, str(folder), check)
    killed = runs_of(uri, "resumed")["000_resumed"]
    assert killed.info.status == "KILLED"
    assert entry.train(spec, str(folder), lambda: None) == "completed"
    assert "resumed_at_step" in run_folder.read_spec(folder / "config.yaml")["facts"]
    run = runs_of(uri, "resumed")["000_resumed"]
    assert (run.info.run_id, run.info.status) == (killed.info.run_id, "FINISHED")
    for name in ("epoch", "steps/loss"):
        history = mlflow_run.connect(uri).get_metric_history(run.info.run_id, name)
        assert [point.step for point in history] == [1, 2, 3]


def test_rows_of_a_failed_request_are_sent_again() -> None:
    sent: list[tuple[str, int]] = []
    fails = [True, True]

    def log_batch(run_id: str, metrics: list[Any], **_: Any) -> None:
        if fails and fails.pop():
            raise ConnectionError
        sent.extend((metric.key, metric.step) for metric in metrics)

    client = types.SimpleNamespace(log_batch=log_batch, get_run=lambda run_id: types.SimpleNamespace(
        data=types.SimpleNamespace(tags={})))
    run = mlflow_run.MlflowRun(client, "x")
    for log in (run.log_rows, run.log_step_rows):
        with pytest.raises(ConnectionError):
            log([{"step": 1, "timestamp": 1.0, "loss": 0.5}])
    for _ in range(2):
        run.log_rows([{"step": 1, "timestamp": 1.0, "loss": 0.5}])
        run.log_step_rows([{"step": 1, "timestamp": 1.0, "loss": 0.5}])
    assert sent == [("loss", 1), ("steps/loss", 1)]


def test_short_epochs_are_sent_together_without_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call a second; what failed is sent with the next."""
    sent: list[list[float]] = []
    now = [0.0]

    def rows(found: Any) -> None:
        steps = [row["step"] for row in found if row["step"] > max([-1, *(step for each in sent for step in each)])]
        if now[0] == 20:
            raise ConnectionError
        sent.append(steps)

    monkeypatch.setattr("src.tracking.mlflow_tracker.time.monotonic", lambda: now[0])
    shown = MlflowTracker(False)
    shown._run = types.SimpleNamespace(  # type: ignore[assignment]
        log_rows=rows, log_step_rows=lambda rows: None, mark_ended=lambda status: None)
    for moment, step in ((10, 1), (10.1, 2), (10.2, 3), (15, 4), (20, 5), (20.5, 6), (30, 7), (30.5, 8)):
        now[0] = moment
        with contextlib.suppress(ConnectionError):
            shown.log({"step": step}, step)
    shown.finish(None)
    assert sent == [[1], [2, 3, 4], [5, 6], [7], [8]]


def test_large_requests_are_split_and_tags_are_sent_last() -> None:
    calls: list[dict[str, list[Any]]] = []
    client = types.SimpleNamespace(log_batch=lambda run_id, **items: calls.append(items), get_run=lambda run_id: (
        types.SimpleNamespace(data=types.SimpleNamespace(tags={}))))
    cells = {f"m{number}": 1.0 for number in range(100)}
    mlflow_run.MlflowRun(client, "x").log_rows([{"step": step, "timestamp": 1.0, **cells} for step in range(20)])
    assert [len(call["metrics"]) for call in calls] == [800, 800, 400]
    assert [[tag.value for tag in call["tags"]] for call in calls] == [[], [], ["19"]]


def test_gpu_info_is_logged(batch: Path, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MlflowTracker, "uri", staticmethod(lambda config: uri))
    for name, smi, kept in (("000_gpu", "#!/bin/sh\necho H100\n", ["config.yaml", "gpu-info.txt"]),
                            ("001_gpu", None, ["config.yaml"])):
        made = tmp_path / name
        made.mkdir()
        monkeypatch.setenv("PATH", f"{made}")
        if smi:
            (made / "nvidia-smi").write_text(smi)
            (made / "nvidia-smi").chmod(0o755)
        folder = make_batch(made, "26-11-20-gpu") / name
        folder.mkdir()
        for file in ("spec.yaml", "config.yaml"):
            (folder / file).write_text("base_lr: 1\n")
        tracker = MlflowTracker(False)
        tracker.start(entry.Config.from_dict(SPEC), {"device": "cuda:0"}, str(folder))
        assert tracker._run is not None
        client = mlflow_run.connect(uri)
        assert [item.path for item in client.list_artifacts(tracker._run.id)] == kept
        tracker.finish(None)


def test_concurrent_runs_create_one_batch_run(batch: Path, uri: str, tmp_path: Path) -> None:
    """Another has left its id in the folder between our search and our making one: ours is taken back."""
    made = make_batch(tmp_path, "26-11-20-raced")
    client = mlflow_run.connect(uri)
    one = mlflow_run.MlflowExperiment(client, uri, "raced")
    other = mlflow_run.MlflowExperiment(client, uri, "raced")
    create = client.create_run

    def create_after_another(*words: Any) -> Any:
        client.create_run = create
        theirs.append(other._create_batch_run(str(made)))
        return create(*words)

    theirs: list[str] = []
    client.create_run = create_after_another
    assert one._create_batch_run(str(made)) == theirs[0]
    assert set(runs_of(uri, "raced")) == {"26-11-20-raced"}


def test_registered_model_can_be_loaded_with_its_data(batch: Path, uri: str, capsys: pytest.CaptureFixture[str],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = str(batch / "001_tracked")
    for _ in range(2):  # the same version
        assert experiments.main(["register", folder, "--name", "digits", "--alias", "production"]) == 0
        assert capsys.readouterr().out == f"digits version 1, production: {folder}\n"
    version = mlflow_run.connect(uri).get_model_version_by_alias("digits", "production")
    assert version.tags["commit"] == "1a2b3c" and version.tags["run"] == "001_tracked"
    assert version.run_id == runs_of(uri)["001_tracked"].info.run_id
    model, data = entry.load_model("models:/digits@production")
    again, _ = entry.load_model("models:/digits/1", uri)
    saved = torch.load(f"{folder}/best_checkpoint.pt", weights_only=True)["model"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name]) and torch.equal(value, again.state_dict()[name])
    assert set(data.splits) == {"train", "val"} and not model.training
    # on a machine without the run's folder
    monkeypatch.setattr(mlflow_export, "_FOLDER", "nothing")
    fetched, _ = entry.load_model("models:/digits@production")
    assert all(torch.equal(value, saved[name]) for name, value in fetched.state_dict().items())


@pytest.mark.parametrize(("words", "message"), [
    (["export", "{batch}"], "the address of MLflow is required"),
    (["export", "{batch}", "--uri", "mlflow.db"], "not an address"),
    (["register", "{batch}/003_bare", "--name", "n", "--uri", "sqlite:////nowhere/x.db"], "not saved a best model")])
def test_user_errors_are_reported(batch: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str],
                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (batch / "003_bare").mkdir(exist_ok=True)
    (batch / "003_bare" / "spec.yaml").write_text("base_lr: 1\n")
    assert experiments.main([word.format(batch=batch) for word in words]) == 2
    assert message in capsys.readouterr().err


def test_loading_an_invalid_model_name_is_refused(batch: Path, uri: str) -> None:
    for name, message in (("models:/x", "not the name of a model"), ("models:/none@production", "not have this model")):
        with pytest.raises(ConfigError, match=message):
            entry.load_model(name, uri)
    with pytest.raises(BatchError, match="not the folder of a run"):
        entry.load_model(str(batch))


def test_archived_runs_name_the_command_that_brings_them_back(tmp_path: Path, uri: str,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    """Their folders keep which run of MLflow is theirs."""
    batch = make_batch(tmp_path)
    folder = batch / "000_tracked"
    folder.mkdir()
    for name in ("spec.yaml", "config.yaml"):
        (folder / name).write_text("base_lr: 1\n")
    writer.publish_runs(str(batch), {folder.name: writer.list_entries(str(folder))})
    shutil.rmtree(folder)
    command = f"`python experiments.py unarchive {folder}` brings its folder back"
    assert experiments.main(["export", str(batch), "--uri", uri]) == 0
    assert command in (out := capsys.readouterr().out) and "1 left out" in out
    assert experiments.main(["register", str(folder), "--name", "n", "--uri", uri]) == 2
    assert command in capsys.readouterr().err and not folder.exists()


def test_without_a_server_the_log_mentions_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a database is no server: many jobs would write it at once."""
    for name, address in (("a", None), ("b", "sqlite:////nowhere/x.db"), ("c", str(tmp_path))):
        if address:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        else:
            monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = run_in(tmp_path, name, mlflow=True, save_best_checkpoint=False)
        assert "experiments.py export BATCH --to mlflow --uri" in (folder / "training.log").read_text()


def test_unreachable_server_causes_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    folder = run_in(tmp_path, "away", mlflow=True)
    assert (folder / "training.log").read_text().count("MlflowTracker failed and may miss data") == 1
    assert len((folder / "stats.csv").read_text().splitlines()) == 4


def test_missing_package_causes_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    folder = run_in(tmp_path, "bare", mlflow=True)
    assert (folder / "training.log").read_text().count("WARNING") == 1
    with pytest.raises(ConfigError, match="pip install mlflow-skinny"):
        list(mlflow_export.export([str(tmp_path)], "sqlite:////nowhere/x.db"))


def test_address_with_a_key_is_refused() -> None:
    for uri in ("https://me:secret@host/", "https://me:p@ss/word@host/", "https://host/?token=abc", "https://me@host"):
        with pytest.raises(ConfigError, match="a name, a password or a token in it"):
            entry.Config.from_dict({"mlflow_tracking_uri": uri})
    for uri in ("http://127.0.0.1:5000", "sqlite:////tmp/@x/y.db", "https://host/path?a=1"):
        entry.Config.from_dict({"mlflow_tracking_uri": uri})


def test_experiment_is_named_after_the_job() -> None:
    assert mlflow_run.experiment_name("/r/26-11-20-my-job/000_x", {}) == "my-job"
    assert mlflow_run.experiment_name("/r/26-11-20-my-job/000_x", {"mlflow_experiment": "all"}) == "all"
    assert mlflow_run.flatten_parameters({"a": {"b": {"c": 1}, "d": None}, "e": {}, "facts": {},
                                          "output_dir": "x"}) == {
        "a/b/c": 1, "a/d": None, "e": {}}


def test_rows_of_a_file_that_is_no_csv(tmp_path: Path) -> None:
    (tmp_path / "stats.csv").write_text('"epoch' + 200_000 * "x" + "\n1,2\n")
    assert mlflow_run.read_rows(str(tmp_path)) == []
    (tmp_path / "stats.csv").write_text('"epoch", "loss",note\n1,0.5,a\n2,,b\n')
    assert mlflow_run.read_rows(str(tmp_path)) == [{"epoch": 1, "loss": 0.5}, {"epoch": 2}]
