from __future__ import annotations

from pathlib import Path

import pytest

import submit_multiple
from src.submission.execution import smoke

JOB = """
job_details: {{name: smoked, output_dir: {out}}}
parameters:
  dataset: sklearn/digits
  data_splits_map: {{train: "train[:80%]", val: "train[80%:]"}}
  model: [linear, {model}]
  base_lr: [0.1, 0.2]
  train_length: 1000
"""


def test_smoke_runs_each_model_and_data_set_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # a machine without nvidia-smi
    specs = [{"model": model, "dataset": data, "base_lr": rate, "precision": "fp16", "device": "cuda", "wandb": True,
              "mlflow": True}
             for model in ("a", "b") for data in ("x", "y") for rate in (1, 2)]
    chosen = smoke.distinct_specs(specs)
    assert [(spec["model"], spec["dataset"], spec["base_lr"]) for spec in chosen] == [
        (model, data, 1) for model in ("a", "b") for data in ("x", "y")]
    assert all((spec["fast_dev_run"], spec["precision"], spec["device"]) == (True, "bf16", "auto") for spec in chosen)
    assert not any("wandb" in spec or "mlflow" in spec for spec in chosen)
    assert "fast_dev_run" not in specs[0]


def test_smoke_run_has_the_goal_of_the_job_spec() -> None:
    """It cannot read the job spec of the batch."""
    by_energy = {"save_best_checkpoint": True, "best_checkpoint_metric": "val/.*/energy"}
    assert smoke.distinct_specs([by_energy], "minimize")[0]["best_checkpoint_goal"] == "minimize"
    for spec, goal in ((by_energy, None), ({"best_checkpoint_metric": "val/.*/loss"}, "maximize"), ({}, "minimize")):
        assert "best_checkpoint_goal" not in smoke.distinct_specs([spec], goal)[0]


def test_smoke_runs_before_the_submission_and_stops_it_on_failure(tmp_path: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    job, out = tmp_path / "job.yaml", tmp_path / "results"
    job.write_text(JOB.format(out=out, model="tiny/lenet"))
    assert submit_multiple.main([str(job), "--smoke", "-s", "submit_cpu.sh", "--no-submit"]) == 2
    # the images are too small for this model, which only timm knows
    job.write_text(JOB.format(out=out, model="timm/test_vit"))
    assert submit_multiple.main([str(job), "--smoke", "--local", "-y"]) == 2
    output = capsys.readouterr()
    assert "smoke      linear on sklearn/digits: one batch works" in output.out
    assert "smoke: timm/test_vit on sklearn/digits fails in its first batch: " in output.err
    assert "Traceback" not in output.err
    assert not out.exists()


def test_smoke_rejects_external_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"job_details: {{name: own, command: echo, output_dir: {tmp_path}}}\nparameters: {{a: 1}}\n")
    assert submit_multiple.main([str(job), "--smoke", "--local", "-y"]) == 2
    assert "--smoke can only run train.py" in capsys.readouterr().err
