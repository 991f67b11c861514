"""Random configs over the fields of Config, on the data sets of scikit-learn: what may be written, and what follows."""
from __future__ import annotations

import dataclasses
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

import train
from src.checks.registered_names import METRICS, OPTIMIZERS, SKLEARN_DATASETS, TIMM_OPTIMIZERS, TORCH_LOSSES
from src.config import FIELDS
from src.errors import UserError
from src.io import yaml_io
from src.submission.planning.planner import check_point

RATES = st.sampled_from([0.0, 1e-300, 1e-10, 0.001, 0.01, 0.1, 0.5, 0.9, 1.0])
NUMBERS = RATES | st.sampled_from([0, 1, 2, 30.0, 1e6, 1e30, 1e39, 1e300, 1e-45, math.inf, math.nan, -1.0, 10**400])
SMALL = st.sampled_from([1, 2, 3, 4, 5, 7, 11, 16, 17, 32, 33])
COUNTS = SMALL | st.sampled_from([0, 1, 2, 3, 7, 16, 100, 2000, 2**31, 2**62, 2**63 - 1, 2**63, -1, 2.0, 1.5])
FLAGS = st.booleans()
PARTS = st.sampled_from(["train", "train[:33]", "train[:17]", "train[:1]", "train[:50%]", "train[50%:]", "train[-20:]",
                         "train[:10]+train[20:40]", "train[5:5]", "train[:90%]", "train[90%:]", "test", "train[:5000]"])
SPLITS = st.dictionaries(st.sampled_from(["train", "val", "test", "more", "train2"]), PARTS, min_size=1, max_size=3)
LISTS = st.lists(st.sampled_from(["train", "val", "test", "last", "av"]), max_size=2)
MODELS = ["linear", "linear/no_bias", "tiny/lenet", "tiny/resnet_20", "tiny/resnet_18", "tiny/vgg_11", "tiny/wrn_10_1",
          "tiny/wrn_10_1_0.3", "timm/test_resnet", "timm/test_vit"]
TASKS = [f"tests.training.tasks:{name}" for name in ("Autoencoder", "Centred", "SharpnessAware")]
WORDS = st.sampled_from(["x", "", "a b", "ü", "1e400"])
# fields that are not drawn: compiling takes half a minute, and these trackers several seconds, for each config
NOT_DRAWN = {"compile", "comet", "wandb", "output_dir", "data_dir"}
# a strategy for each other field
STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "log_interval": NUMBERS, "log_interval_eval": NUMBERS, "log_steps": COUNTS,
    "checkpoint_every": st.sampled_from(["10min", "1step", "2 steps", "0.5epochs", "1epoch", None, "0.00001min"]),
    "checkpoints_kept": COUNTS, "max_requeues": COUNTS, "save_freq": COUNTS, "save_best_checkpoint": FLAGS,
    "best_checkpoint_metric": st.sampled_from(["test/.*/accuracy", "val/last/loss", ".*", "train/loss", "none", "(",
                                               "val/av/accuracy", "(val|test)/last/(loss|accuracy)", "val/last/top2"]),
    "best_checkpoint_goal": st.sampled_from(["maximize", "minimize", "up"]),
    "log_to_stdout": FLAGS, "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:1", "mps"]), "multi_gpu": FLAGS,
    "sync_batch_norm": FLAGS, "num_workers": COUNTS, "eval_batch_size": COUNTS, "max_allowed_loss": NUMBERS,
    "early_stopping_patience": COUNTS, "seed_model": COUNTS, "seed_training": COUNTS, "seed_split": COUNTS,
    "dataset": st.sampled_from([f"sklearn/{name}" for name in SKLEARN_DATASETS]), "data_splits_map": SPLITS,
    "eval_datasets": st.dictionaries(st.sampled_from(["more", "val", "iris"]), st.sampled_from([
        "sklearn/digits@train[:50]", "sklearn/iris@train", "sklearn/digits", "sklearn/wine@train[:9999]"]), max_size=2),
    "eval_class_maps": st.dictionaries(st.sampled_from(["more", "iris"]), st.sampled_from(["0, 1, 2", "3", "0, 0"])),
    "eval_at_end": LISTS, "eval_models": LISTS, "data_on_device": FLAGS,
    "metrics": st.lists(st.sampled_from([*METRICS, "top2", "top11", "accuracy"]), max_size=3),
    "crop_padding": COUNTS, "scale": st.lists(NUMBERS, max_size=2), "hflip": RATES, "interpolation": st.sampled_from(
        ["bilinear", "random", "cubic"]), "crop_pct": RATES, "auto_augment": st.just("rand-m9"),
    "tokenizer": st.just("bert"), "max_length": COUNTS, "group_by_length": FLAGS,
    "mixup": RATES, "cutmix": RATES, "label_smoothing": RATES,
    "model": st.sampled_from(MODELS),
    "model_kwargs": st.dictionaries(st.sampled_from(["width", "drop_path_rate", "depth"]), st.sampled_from(
        [1, 2, 4, 0, 0.1, "x", None]), max_size=2),
    "model_pretrained": FLAGS, "model_head_init": st.sampled_from(["zero", "rand", "zero_shot"]),
    "model_output_dim": st.sampled_from([1, 2, 9, 10, 11, 100]), "model_input_shape": st.sampled_from(
        [[1, 8, 8], [64], [8, 8], [1, 4, 16], [4, 4, 4], [3, 8, 8], [0], [1, 1, 64], [2, 4, 8], [1, 1, 30], [30]]),
    "task": st.sampled_from(TASKS), "targets": st.sampled_from(["classes", "numbers", "next_token"]),
    "loss": st.sampled_from(["log", "xentropy", "mse", "square", *(f"torch/{name}" for name in TORCH_LOSSES)]),
    "batch_size": st.one_of(SMALL, COUNTS), "grad_accum_steps": SMALL,
    "steps_per_epoch": SMALL, "samples_per_epoch": SMALL,
    "optim_alg": st.sampled_from([*OPTIMIZERS, *OPTIMIZERS, *(f"timm/{name}" for name in sorted(TIMM_OPTIMIZERS)),
                                  "timm/lookahead_adam"]),
    "optim_kwargs": st.dictionaries(st.sampled_from(["caution", "lr", "nesterov", "weight_decay", "eps"]),
                                    st.sampled_from([True, 0.1, "x", None]), max_size=2),
    "lr_schedule": st.sampled_from(["linear", "poly", "poly_2", "step", "step_2_0.5", "step_1,2_0.1", "step_1e400,_0.1",
                                    "cosine", "cosine_2", "cosine_3_2", "cosine_99999999999", "cosine_9_1e300",
                                    "onecycle", "onecycle_0.01", "wsd", "wsd_0.999", "poly_1e300", "step_99_1e-320"]),
    "base_lr": NUMBERS, "weight_decay": NUMBERS, "weight_decay_biases": NUMBERS, "ada_eps": NUMBERS,
    "momentum": st.sampled_from([0.0, 0.9, 0.999999, 1.0, "0.9,0.99", "0.9,0.99,0.5", "0,0", "x", "1e-400", math.nan]),
    "warmup_steps": COUNTS, "cooldown_steps": COUNTS, "layer_decay": NUMBERS, "clip_grad_norm": NUMBERS,
    "clip_grad_value": NUMBERS, "freeze": st.just("backbone"), "unfreeze_epoch": COUNTS, "unfreeze_lr": NUMBERS,
    "averaging": st.sampled_from(["poly", "poly_0", "poly_1e300", "ema", "ema_0", "ema_0.9999999", "ema_1"]),
    "recompute_batch_norm": FLAGS, "precision": st.sampled_from(["float32", "tf32", "bf16", "fp16"]),
    "grad_checkpointing": FLAGS, "channels_last": FLAGS, "limit_eval_batches": st.one_of(SMALL, NUMBERS),
    "fast_dev_run": FLAGS, "overfit_batches": COUNTS, "profile": FLAGS, "tensorboard": FLAGS,
    "system_metrics": st.sampled_from([0.01, 0.5, 0.0, -1]),
    "libsvm_base": st.sampled_from([0, 1, 2]), "data_download": FLAGS, "ratio": st.lists(NUMBERS, max_size=3),
    "vflip": RATES, "color_jitter": NUMBERS, "random_erasing": NUMBERS, "aug_repeats": COUNTS,
    "text_column": WORDS, "label_column": WORDS, "class_names": WORDS | st.lists(WORDS, max_size=2),
    "zero_shot_templates": st.lists(st.sampled_from(["{}", "a {}.", "a {x}", ""]), max_size=2), "mlflow": FLAGS,
    "mlflow_tracking_uri": st.sampled_from(["sqlite:///x.db", "http://me:secret@host", "x"]),
    **dict.fromkeys(("mlflow_experiment", "comet_project", "comet_workspace", "wandb_entity", "wandb_project_name",
                     "wandb_run_name"), WORDS), "wandb_tags": st.lists(WORDS, max_size=2)}
LENGTH = {"train_length", "train_length_unit", "limit_train_batches"}
LENGTHS = st.one_of(
    st.fixed_dictionaries({"train_length": st.sampled_from([0, 1, 3, 20]), "train_length_unit": st.just("step")}),
    st.fixed_dictionaries({"train_length": st.sampled_from([1, 2]), "limit_train_batches": st.sampled_from(
        [1, 2, 0.01, 0.0001, 1e-300])}),
    st.fixed_dictionaries({"train_length": st.just(100), "train_length_unit": st.just("sample")}))
BASE = {"dataset": "sklearn/digits", "data_splits_map": {"train": "train[:80%]", "val": "train[80%:]"}, "base_lr": 0.01,
        "device": "cpu"}


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Return a spec: a short training on digits, in which up to eight fields are random."""
    names = draw(st.lists(st.sampled_from(sorted(STRATEGIES)), unique=True, max_size=8))
    return {**BASE, **draw(LENGTHS), **{name: draw(STRATEGIES[name]) for name in names}}


# Reasons that a dry run cannot know: the device and the network of the machine, and what code says that it does not
# import, which is timm; a user-defined task decides which fields it uses.
LATE_REASONS = (r"no device '", r"needs a CUDA device", r"CUDA required", r"timm's \w+ cannot be created",
                r"timm/test_\w+ (cannot take images|has no option)", r"cannot be reached")


@dataclasses.dataclass
class Counts:
    """The number of specs that were tried, by result. late: the sentences of those that ended when they started."""

    tried: int = 0
    refused: int = 0
    trained: int = 0
    late: Counter[str] = dataclasses.field(default_factory=Counter)

    def __str__(self) -> str:
        return (f"{self.tried:,} configs tried, {self.refused:,} refused before submission, {self.trained:,} trained, "
                f"{self.late.total():,} ended in a sentence that only machine or libraries know, 0 tracebacks")


def run(spec: dict[str, Any], counts: Counts) -> None:
    """Check a spec as a dry run does, and train it if it passes. Any exception but those of a user error is raised."""
    counts.tried += 1
    text = yaml_io.dump_flat(spec)
    if _sentence(lambda: check_point(None, yaml_io.load_flat(text), "spec")):
        counts.refused += 1
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "spec.yaml").write_text(text)
        if sentence := _sentence(lambda: train.train(spec, folder, lambda: None)):
            assert spec.get("task") or any(re.search(reason, sentence) for reason in LATE_REASONS), (
                f"a dry run could have known: {sentence}")
            counts.late[sentence[:60]] += 1
            return
        assert len(Path(folder, "stats.csv").read_text().splitlines()) > 1
    counts.trained += 1


def _sentence(action: Callable[[], object]) -> str | None:
    """The message of a user error; None without one."""
    try:
        action()
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return str(error)
    return None


assert STRATEGIES.keys() | NOT_DRAWN | LENGTH == FIELDS.keys(), "give new fields a strategy"
