"""Rules on configs whose data is known before it is read: the data sets of scikit-learn."""
from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from src.checks import registered_names
from src.checks.registered_names import parse_eval_dataset, parse_tiny, task_of
from src.checks.splits import parse_split
from src.errors import ConfigError, DataError


class Known(NamedTuple):
    """A data set. samples: of its only split, train; shape: of a sample; classes: None for measured targets."""

    samples: int
    shape: tuple[int, ...]
    classes: int | None


SKLEARN = {"digits": Known(1797, (1, 8, 8), 10), "breast_cancer": Known(569, (30,), 2), "wine": Known(178, (13,), 3),
           "iris": Known(150, (4,), 3), "diabetes": Known(442, (10,), None), "synthetic": Known(10_000, (20,), 10)}
# the smallest images of tiny/ models, in pixels a side
LEAST_SIDES = {"lenet": 4, "resnet": 8, "wrn": 8, "vgg": 32}


def check(get: Callable[[str], Any]) -> None:
    """Raise ConfigError if a config of a known data set cannot be trained. get: returns the value of a field."""
    known = SKLEARN.get(get("dataset").removeprefix("sklearn/"))
    if known is None or not get("dataset").startswith("sklearn/"):
        return
    sizes = {name: _size(get("dataset"), text, known, "data_splits_map")
             for name, text in get("data_splits_map").items()}
    for name, text in (get("eval_datasets") or {}).items():
        dataset, part = parse_eval_dataset(text)
        if other := SKLEARN.get(dataset.removeprefix("sklearn/")):
            _size(dataset, part, other, f"eval_datasets, {name}")
            if other.shape != known.shape:
                raise ConfigError(f"samples of {text} have the shape {list(other.shape)}, those of {get('dataset')} "
                                  f"{list(known.shape)}", where="eval_datasets")
    task = task_of(get("loss"), get("targets"))
    if task == "classification" and known.classes is None:
        raise ConfigError(f"{get('dataset')} has measured targets, and loss {get('loss')} needs classes", where="loss",
                          hint="try loss: mse")
    check_output_dim(get("model_output_dim"), known.classes if task == "classification" else None)
    shape = tuple(get("model_input_shape") or known.shape)
    check_input_shape(shape, known.shape)
    if get("task") is None:
        outputs = get("model_output_dim") or known.classes or 1
        for name in get("metrics") or ():
            check_top_k(name, outputs if task == "classification" else 1)
        if get("cutmix"):
            check_cutmix(shape)
        check_image_size(get("model"), shape)
        _check_last_batch(get, shape, sizes.get("train", 0))


def check_splits(dataset: str, names: list[str]) -> None:
    """Raise DataError unless these splits of a data set of scikit-learn exist: all samples are in `train`."""
    for name in names:
        if name != "train":
            raise DataError(f"{dataset} has no split '{name}'", where="data_splits_map",
                            allowed="train, which contains all samples",
                            hint="cut it, e.g. {train: 'train[:80%]', test: 'train[80%:]'}")


def _size(dataset: str, text: str, known: Known, where: str) -> int:
    """Return the number of samples of a split expression."""
    try:
        parts = parse_split(text)
        check_splits(dataset, [part.source for part in parts])
        return sum(part.size(known.samples) for part in parts)
    except DataError as error:
        raise ConfigError(error.what, where=where, allowed=error.allowed_values, hint=error.hint) from None


def check_output_dim(output_dim: int | None, classes: int | None) -> None:
    """Raise ConfigError if a model has too few outputs for the classes, or several for one real target (None)."""
    if output_dim is None:
        return
    if classes is None and output_dim != 1:
        raise ConfigError(f"{output_dim} outputs for one real target", where="model_output_dim", allowed="1 or null")
    if classes and output_dim < classes:
        raise ConfigError(f"{output_dim} outputs are too few for {classes} classes", where="model_output_dim",
                          allowed=f"{classes} or more, or null")


def check_input_shape(shape: tuple[int, ...], data_shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless samples can be reshaped to model_input_shape."""
    if math.prod(shape) != math.prod(data_shape):
        raise ConfigError(f"{list(shape)} does not fit samples of shape {list(data_shape)}",
                          where="model_input_shape", hint="choose a shape with the same number of elements, or null")


def check_image_size(model: str, shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless samples are images, and large enough for a tiny/ model; other models pass."""
    kind = "lenet" if model == "tiny/lenet" else (parse_tiny(model) or ("",))[0]
    least = LEAST_SIDES.get(kind, 1)
    if not model.startswith(("tiny/", "timm/", "torchvision/", "clip/")):
        return
    if len(shape) != 3:
        raise ConfigError(f"{model} needs images [channels, height, width], and a sample has the shape {list(shape)}",
                          where="model", hint="try model: linear")
    if min(shape[1:]) < least:
        raise ConfigError(f"{model} cannot take images of {shape[1]} × {shape[2]}", where="model",
                          allowed=f"{least} × {least} or larger", hint="try model: tiny/lenet or linear")


def check_top_k(metric: str, outputs: int) -> None:
    """Raise ConfigError if a metric topK needs more outputs than the model has."""
    if re.fullmatch(r"top\d+", metric) and int(metric.removeprefix("top")) > outputs:
        raise ConfigError(f"{metric} needs {metric.removeprefix('top')} outputs, and the model has {outputs}",
                          where="metrics", allowed=f"top1 to top{outputs}")


def check_cutmix(shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless samples are images, of which cutmix replaces boxes."""
    if len(shape) != 3:
        raise ConfigError(f"samples of shape {list(shape)} are not images", where="cutmix",
                          hint="mixup works with them")


def single_sample_error(samples: int) -> ConfigError:
    """Return the error of a batch norm that would be given one value per channel. samples: in the train split."""
    return ConfigError("a step would have a single sample, for which batch norm has no variance", where="batch_size",
                       hint=f"choose a batch_size and grad_accum_steps that leave more than one sample for the last "
                       f"micro-batch of {samples} training samples")


def smallest_micro_batch(samples: int, batch_size: int, micro_batch_size: int, whole_pass: bool) -> int:
    """Return the size of the smallest micro-batch of a training.

    whole_pass: whether the training reaches the last batch of a pass, which may be smaller.
    """
    batches = {min(batch_size, samples)} | ({samples % batch_size or batch_size} if whole_pass else set())
    return min(batch % micro_batch_size or min(micro_batch_size, batch) for batch in batches)


def _check_last_batch(get: Callable[[str], Any], shape: tuple[int, ...], samples: int) -> None:
    """Raise ConfigError if a step has one sample, in a ResNet whose last of four stages has one pixel."""
    kind, sides = parse_tiny(get("model")) or ("", ()), shape[1:]
    if kind[0] != "resnet" or kind[1][0] not in registered_names.IMAGENET_DEPTHS or max(sides) > 8 or not samples:
        return
    if not get("train_length") or get("overfit_batches") is not None:
        return
    is_unlimited = not get("fast_dev_run") and get("limit_train_batches") is None
    whole_pass = is_unlimited and get("train_length_unit") == "epoch" and get("steps_per_epoch") is None and get(
        "samples_per_epoch") is None
    batch_size = get("batch_size")
    sizes = [smallest_micro_batch(samples, batch_size, -(-batch_size // get("grad_accum_steps")), whole_pass)]
    if get("recompute_batch_norm"):
        sizes.append(smallest_micro_batch(samples, batch_size, batch_size, is_unlimited))
    if min(sizes) == 1:
        raise single_sample_error(samples)


assert set(SKLEARN) == set(registered_names.SKLEARN_DATASETS)
