"""Rules that follow from the family of a data set: tables of features, images or texts."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from src.checks.registered_names import is_user_code, parse_eval_dataset, task_of
from src.checks.splits import parse_split
from src.errors import ConfigError, did_you_mean

# what the samples of each family are; user code may return anything
KINDS = {"libsvm": "features", "sklearn": "features", "timm": "images", "folder": "images", "hf": "texts"}
LIBSVM_SPLITS = ("train", "test", "val", "tr")
# options of models that are not for model_kwargs
FROM_DATA = frozenset(("num_classes", "num_labels", "in_chans", "input_shape", "output_dim", "img_size", "image_size",
                       "input_size"))
FROM_WEIGHTS = frozenset(("pretrained", "weights", "checkpoint_path"))


def kind_of(dataset: str) -> str | None:
    """Return features, images or texts; None for user code."""
    return None if is_user_code(dataset) else KINDS.get(dataset.partition("/")[0])


def check(get: Callable[[str], Any]) -> None:
    """Raise ConfigError if a field does not go with the family of the data set. get: returns the value of a field."""
    dataset = get("dataset")
    kind = kind_of(dataset)
    for name, text in (get("eval_datasets") or {}).items():
        other, part = parse_eval_dataset(text)
        other_kind = kind_of(other)
        if kind and other_kind and kind != other_kind:
            raise ConfigError(f"{text} has {other_kind}, and {dataset} has {kind}", where=f"eval_datasets, {name}")
        _check_libsvm(other, part, f"eval_datasets, {name}")
    for text in get("data_splits_map").values():
        _check_libsvm(dataset, text, "data_splits_map")
    task = task_of(get("loss"), get("targets"))
    if kind == "images" and task != "classification":
        raise ConfigError(f"{dataset} has classes, and loss {get('loss')} needs numbers", where="loss",
                          hint="try loss: log")
    if kind == "images" and get("overfit_batches") and not get("data_on_device") and "train" in (
            get("eval_at_end") or ()):
        raise ConfigError("a subset of a train split that is read from files cannot be evaluated",
                          where="overfit_batches", hint="remove train from eval_at_end")
    if kind == "texts" and (field := next((name for name in ("mixup", "cutmix", "data_on_device") if get(name)), None)):
        raise ConfigError(f"samples of {dataset} are texts", where=field, allowed=(
            "false" if field == "data_on_device" else "0"), hint=None if field == "data_on_device" else (
            "label_smoothing works with them"))


def check_model_kwargs(names: Any) -> None:
    """Raise ConfigError for options of a model that follow from the data or from other fields."""
    for name in names:
        if name in FROM_DATA:
            raise ConfigError(f"{name} follows from the data", where="model_kwargs",
                              hint="leave it out; model_output_dim and model_input_shape override it")
        if name in FROM_WEIGHTS:
            raise ConfigError(f"{name} follows from model_pretrained", where="model_kwargs", hint="leave it out")


def _check_libsvm(dataset: str, text: str, where: str) -> None:
    """Check the name and the splits of a LIBSVM data set."""
    if not dataset.startswith("libsvm/"):
        return
    name = dataset.removeprefix("libsvm/")
    if "/" in name or name.startswith("."):
        raise ConfigError(f"'{dataset}' is not the name of a LIBSVM data set", where="dataset",
                          allowed="the name of a file, e.g. libsvm/a9a")
    for part in parse_split(text):
        if part.source not in LIBSVM_SPLITS:
            raise ConfigError(f"{dataset} has no split '{part.source}'", where=where, allowed=LIBSVM_SPLITS,
                              hint=did_you_mean(part.source, LIBSVM_SPLITS))
