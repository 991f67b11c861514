from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from loguru import logger
from torch import nn

from src import run_folder
from src.config import Config
from src.errors import ConfigError
from src.training.experiment import Experiment, run_epochs
from src.training.steps import forward
from tests.training.toys import CPU, make_toy, toy_classes, train_toy

DIGITS = {"dataset": "sklearn/digits", "data_splits_map": {"train": "train[:80%]", "val": "train[80%:]"},
          "model": "tiny/lenet", "batch_size": 32, "seed_model": 1, "seed_training": 2, "train_length": 6,
          "base_lr": 0.05}


def _accuracy(folder: Path, **options: Any) -> float:
    from train import train as train_spec

    folder.mkdir()
    assert train_spec({**DIGITS, **options, "data_dir": str(folder)}, str(folder), lambda: None) == "completed"
    return float(pd.read_csv(folder / run_folder.STATS)["val/last/accuracy"].iloc[-1])


def test_bf16_learns_as_float32_does(tmp_path: Path) -> None:
    plain = _accuracy(tmp_path / "float32")
    assert plain > 0.9
    assert _accuracy(tmp_path / "bf16", precision="bf16") == pytest.approx(plain, abs=0.03)
    assert _accuracy(tmp_path / "last", channels_last=True) == pytest.approx(plain, abs=0.02)


def test_bf16_computes_in_16_bits_and_gives_32() -> None:
    made = make_toy()
    seen: list[torch.dtype] = []
    made.model.register_forward_hook(lambda _module, _input, output: seen.append(output.dtype))
    call = forward.make_forward(Config(precision="bf16"), made.model, CPU)
    output = call(toy_classes().x)
    assert (seen, output.dtype) == ([torch.bfloat16], torch.float32)
    output.sum().backward()
    assert made.model.weight.grad.dtype == torch.float32
    assert forward.make_forward(Config(), made.model, CPU) is made.model  # what is not asked for costs nothing


def test_channels_last_reaches_the_convolutions(tmp_path: Path) -> None:
    from src.training.components import build

    model = build(Config.from_dict({**DIGITS, "channels_last": True, "data_dir": str(tmp_path)}), None).model
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.parametrize("options", [{"precision": "fp16"}, {"precision": "tf32"}])
def test_unsupported_precision_is_refused_before_data_is_read(options: dict[str, Any], tmp_path: Path) -> None:
    from src.training.components import build

    with pytest.raises(ConfigError, match="needs a CUDA device"):
        Config.from_dict({**options, "device": "cpu"})
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="precision: .* needs a CUDA device, and this run is on cpu"):
            build(Config(dataset="libsvm/none", **options), None)


def test_compile_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"compile: .*C\+\+ compiler"):
        forward.check_device_support(Config(compile="default"), CPU)


@pytest.mark.skipif(not forward.find_compiler(), reason="there is no C++ compiler")
def test_a_compiled_model_learns_the_same() -> None:
    plain, compiled = train_toy(make_toy())[0], train_toy(make_toy(compile="default"))[0]
    assert compiled[-1]["test/last/loss"] == pytest.approx(plain[-1]["test/last/loss"], rel=1e-4)


def test_failing_compiler_is_logged_and_training_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def gives_up(model: nn.Module, mode: str | None) -> Any:
        def call(x: Any) -> None:
            raise BackendCompilerFailed(lambda: None, RuntimeError("no such instruction"), None)
        return call

    monkeypatch.setattr(torch, "compile", gives_up)
    rows, end = train_toy(make_toy(compile="max-autotune"), str(tmp_path))
    assert end == "completed"
    assert rows[-1]["test/last/loss"] == train_toy(make_toy())[0][-1]["test/last/loss"]
    log = (tmp_path / "training.log").read_text()
    assert log.count("torch.compile failed, the model runs without it: BackendCompilerFailed") == 1
    assert "no such instruction" in log


def _normed() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def test_recomputed_batch_norm_is_that_of_torch() -> None:
    made = make_toy(model=_normed(), averaging="poly_0", recompute_batch_norm=True, batch_size=20)
    *_, (_row, model, _end) = run_epochs(made, None, lambda: None)
    reference = made.average.module()  # the parameters' average, with the model's statistics
    copied = reference[1].running_mean.clone()
    torch.optim.swa_utils.update_bn([made.data.splits["train"].x], reference)
    whole = reference[1].running_mean.clone()
    ours = _run_average(recompute_batch_norm=True)
    torch.testing.assert_close(ours[1].running_mean, whole, rtol=1e-4, atol=1e-5)  # equal batches: the same mean
    assert not torch.allclose(copied, whole, rtol=1e-3)
    assert torch.equal(model[1].running_mean, _run_average()[1].running_mean)  # the training did not notice


def _run_average(**options: Any) -> Any:
    run = Experiment(make_toy(model=_normed(), averaging="poly_0", batch_size=20, **options))
    for number in run.epochs:
        run.run_epoch(number, logger)
    return run.averaged


def test_limits_apply_to_batch_norm_recomputation() -> None:
    def seen(**options: Any) -> int:
        return int(_run_average(recompute_batch_norm=True, train_length=1, **options)[1].num_batches_tracked)

    assert (seen(), seen(limit_train_batches=2), seen(fast_dev_run=True)) == (3, 2, 1)


def test_only_the_average_is_evaluated() -> None:
    rows, _ = train_toy(make_toy(averaging="poly", eval_models=["av"], save_best_checkpoint=True))
    assert "test/av/accuracy" in rows[0] and not any("last" in name for name in rows[0])
    for options in ({"eval_models": ["av"]}, {"eval_models": ["best"], "averaging": "ema"}, {"eval_models": []},
                    {"recompute_batch_norm": True}):
        with pytest.raises(ConfigError, match="average|models"):
            Config.from_dict(options)


def test_cuda_graphs_and_accumulation_are_refused() -> None:
    with pytest.raises(ConfigError, match="reduce-overhead replays CUDA graphs"):
        Config.from_dict({"compile": "reduce-overhead", "grad_accum_steps": 2})
