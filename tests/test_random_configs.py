"""Random configs on small data sets: each is refused before submission, or trains; none ends in a traceback."""
from __future__ import annotations

import contextlib
import io
import os
import signal
import time
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.random_configs import BASE, Counts, run, specs

CHAOS = os.environ.get("GRIDIRON_CHAOS") == "1"  # `make chaos`: an hour, with other configs each time
SECONDS = float(os.environ.get("GRIDIRON_CONFIG_SECONDS") or (3600 if CHAOS else 45))
FIRST_SEED = int(os.environ.get("GRIDIRON_CHAOS_SEED") or (time.time_ns() % 10**9 if CHAOS else 0))
LIMIT = 120  # seconds for one config, all of which are small
EXAMPLES = 50  # between looks at the clock; a failure among them is reduced to the fields that cause it


def test_random_configs_train_or_are_refused_in_a_sentence() -> None:
    counts, end, number = Counts(), time.monotonic() + SECONDS, FIRST_SEED
    try:
        while time.monotonic() < end:
            _try_some(number, counts)
            number += 1
    finally:
        print(f"{counts}; seeds {FIRST_SEED} to {number}")
    assert counts.trained > 20 and counts.refused > 20


def _try_some(number: int, counts: Counts) -> None:
    @seed(number)
    @settings(max_examples=EXAMPLES, database=None, deadline=None, phases=(Phase.generate, Phase.shrink),
              suppress_health_check=list(HealthCheck))
    @given(specs())
    def try_specs(spec: dict[str, Any]) -> None:
        with _time_limit(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            run(spec, counts)

    try_specs()


@contextlib.contextmanager
def _time_limit() -> Any:
    def stop(*_: object) -> None:
        pytest.fail(f"a small config takes more than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("spec", [
    {"loss": "mse", "targets": "classes"}, {"loss": "log", "targets": "numbers"},
    {"loss": "torch/BCEWithLogitsLoss", "targets": "classes"}, {"base_lr": float("inf")}, {"weight_decay": 10**400},
    {"ada_eps": float("nan")}, {"optim_alg": "timm/lion", "optim_kwargs": {"eps": float("inf")}},
    {"momentum": "1e-400"}, {"averaging": "poly_1e400"}, {"lr_schedule": "cosine_9_1e300"},
    {"lr_schedule": "cosine_99999999999"}, {"lr_schedule": "step_99_1e300"}, {"layer_decay": 1e39},
    {"optim_alg": "timm/sgdp", "ada_eps": 1e300},
    {"data_splits_map": {"train": "train", "test": "test"}}, {"data_splits_map": {"train": "train[:9999]"}},
    {"data_splits_map": {"train": "train[5:5]", "val": "train"}}, {"dataset": "sklearn/diabetes"},
    {"model_output_dim": 9}, {"model_input_shape": [3, 8, 8]}, {"model": "tiny/vgg_11"},
    {"model": "tiny/lenet", "model_input_shape": [64]}, {"metrics": ["top11"]},
    {"cutmix": 1.0, "dataset": "sklearn/wine"},
    {"eval_datasets": {"more": "sklearn/iris"}},
    {"model": "tiny/resnet_18", "batch_size": 16, "data_splits_map": {"train": "train[:33]", "val": "train[33:]"}},
    {"model": "tiny/resnet_18", "batch_size": 7, "grad_accum_steps": 3}, {"layer_decay": 1.0},
    {"model": "tiny/resnet_18", "batch_size": 16, "data_splits_map": {"train": "train[:17]", "val": "train[17:40]"},
     "train_length": 1, "train_length_unit": "step", "averaging": "ema", "recompute_batch_norm": True},
    {"dataset": "libsvm/a9a", "data_splits_map": {"train": "train", "test": "tset"}}, {"dataset": "libsvm/x/y"},
    {"dataset": "folder/x", "loss": "mse"}, {"dataset": "folder/x", "overfit_batches": 1, "eval_at_end": ["train"]},
    {"dataset": "hf/x", "model": "hf/y", "mixup": 0.1}, {"eval_datasets": {"more": "hf/x"}},
    {"model": "timm/resnet18", "model_kwargs": {"num_classes": 3}}],
    ids="-".join)
def test_what_is_known_is_refused_before_submission(spec: dict[str, Any]) -> None:
    """Each of these was found by the test above, or fails without the rule for it when the run starts."""
    counts = Counts()
    run({**BASE, **spec}, counts)
    assert counts.refused == 1


@pytest.mark.parametrize("spec", [
    {"limit_train_batches": 1e-300}, {"clip_grad_value": 1e39}, {"clip_grad_norm": float("inf")},
    {"model": "tiny/resnet_20", "data_splits_map": {"train": "train[:17]", "val": "train[17:40]"}, "batch_size": 16},
    {"model": "tiny/resnet_18", "data_splits_map": {"train": "train[:17]", "val": "train[17:40]"}, "batch_size": 16,
     "train_length": 1, "train_length_unit": "step"}], ids="-".join)
def test_unusual_configs_train(spec: dict[str, Any]) -> None:
    """One sample is enough for batch norm over several pixels; and a last batch that is never reached does no harm."""
    counts = Counts()
    run({**BASE, "train_length": 1, **spec}, counts)
    assert counts.trained == 1
