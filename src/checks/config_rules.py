"""Rules on combinations of config fields, checked at submission without torch."""
from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from src.checks import registered_names
from src.checks.registered_names import (
    IMAGE_FAMILIES,
    IMAGE_OPTIONS,
    LOSSES,
    MODEL_OPTIONS,
    PRETRAINED_FAMILIES,
    SHALLOW_MODELS,
    SOFT_LABEL_LOSSES,
    STREAMED_KINDS,
    implied_targets,
    is_user_code,
    parse_tiny,
    task_of,
)
from src.errors import ConfigError, did_you_mean

_PER_IMAGE = ("color_jitter", "auto_augment", "random_erasing", "aug_repeats")  # not for batches on a device
_OPTIMIZATION = frozenset(("optim_kwargs", "layer_decay", "clip_grad_norm", "clip_grad_value", "freeze",
                           "unfreeze_epoch", "unfreeze_lr", "warmup_steps"))
_FAMILY = frozenset(("dataset", "data_splits_map", "eval_datasets", "loss", "targets", "overfit_batches", "mixup",
                     "cutmix", "data_on_device"))  # fields of rules in family_rules
_STEP_FIELDS = ("momentum", "optim_alg", "batch_size", "grad_accum_steps", "steps_per_epoch", "samples_per_epoch",
                "averaging", "recompute_batch_norm", "precision", "compile", "device", "task")


def check(spec: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise ConfigError if fields of `spec`, each of them valid, contradict each other or the defaults of the others.

    Rules about rare fields run only if the spec has them.
    """
    get = spec.get
    _check_steps(*[get(key, defaults[key]) for key in _STEP_FIELDS])
    if not _OPTIMIZATION.isdisjoint(spec):
        _check_optimization(lambda key: get(key, defaults[key]))
    loss, model, dataset = get("loss", defaults["loss"]), get("model", defaults["model"]), get(
        "dataset", defaults["dataset"])
    if get("eval_models") or get("metrics"):
        _check_evaluated(get("eval_models"), get("averaging"), get("metrics"), loss, get("targets"), get("task"))
    if get("data_on_device") or any(map(get, IMAGE_OPTIONS)):
        _check_images(spec, dataset)
    if model.startswith("hf/") or dataset.startswith("hf/") or get("targets") == "next_token":
        _check_texts(spec, dataset, model, loss)
    if get("model_pretrained") or get("model_kwargs") or get("model_head_init") == "zero_shot":
        check_model_options(spec, model)
    if get("grad_checkpointing"):
        _check_checkpointing(model)
    if get("mixup") or get("cutmix") or get("label_smoothing"):
        _check_mixing(spec, loss, get("targets"), get("task"))
    if loss != defaults["loss"] or get("targets"):
        _check_targets(loss, get("targets"), get("task"))
    splits = get("data_splits_map", defaults["data_splits_map"])
    _check_splits(splits, get("eval_at_end"), get("train_length", defaults["train_length"]), get("eval_datasets"))
    if get("eval_datasets") or get("eval_class_maps"):
        _check_further(get("eval_datasets") or {}, get("eval_class_maps"), splits, spec, loss)
    if not _FAMILY.isdisjoint(spec):
        from src.checks import family_rules

        family_rules.check(lambda key: get(key, defaults[key]))
    if dataset.startswith("sklearn/"):
        from src.checks import known_data  # few specs need it

        known_data.check(lambda key: get(key, defaults[key]))


@functools.lru_cache(maxsize=10_000)
def _check_steps(momentum: float | str, optim_alg: str, batch_size: int, grad_accum_steps: int,
                 steps_per_epoch: int | None, samples_per_epoch: int | None, averaging: str | None,
                 recompute_batch_norm: bool, precision: str, compile: str | None, device: str, task: str | None
                 ) -> None:
    registered_names.parse_momentum(momentum, optim_alg)
    if grad_accum_steps > batch_size:
        raise ConfigError(f"grad_accum_steps {grad_accum_steps} is more than batch_size {batch_size}",
                          hint="a micro-batch needs at least one sample")
    if steps_per_epoch is not None and samples_per_epoch is not None:
        raise ConfigError("steps_per_epoch and samples_per_epoch are both set", hint="set one of them")
    if recompute_batch_norm and averaging is None:
        raise ConfigError("recompute_batch_norm needs averaged weights", hint="set averaging, or remove it")
    if precision in ("fp16", "tf32") and device in ("cpu", "mps"):
        raise ConfigError(f"precision {precision} needs a CUDA device, not {device}", hint="bf16 works on a CPU too")
    if compile not in (None, "default") and grad_accum_steps > 1:
        raise ConfigError(f"compile {compile} replays CUDA graphs, which cannot accumulate gradients", hint=(
            "set compile: default, or grad_accum_steps: 1"))
    if task is not None and (precision in ("bf16", "fp16") or compile is not None or grad_accum_steps > 1):
        raise ConfigError("a user-defined task makes its own steps, in its own precision", allowed=(
            "precision: float32 or tf32, compile: null, grad_accum_steps: 1"),
            hint="use torch.autocast, torch.compile and accumulation inside the task")


def _check_optimization(get: Callable[[str], Any]) -> None:
    """Check fields about optimization. get: returns the value of a field."""
    kwargs, decay, task, freeze = get("optim_kwargs"), get("layer_decay"), get("task"), get("freeze")
    if kwargs and not get("optim_alg").startswith("timm/"):
        raise ConfigError(f"optim_alg {get('optim_alg')} accepts no optim_kwargs", where="optim_kwargs", allowed="null",
                          hint="they are for optimizers of timm, e.g. timm/lion")
    if task and (clips := [name for name in ("clip_grad_norm", "clip_grad_value") if get(name) is not None]):
        raise ConfigError("a user-defined task clips its own gradients", where=clips[0], allowed="null",
                          hint="call torch.nn.utils.clip_grad_norm_ in the task")
    if decay is not None and get("model").startswith("linear"):
        raise ConfigError("a linear model has only one layer", where="layer_decay", allowed="null")
    for name in ("unfreeze_epoch", "unfreeze_lr"):
        if get(name) is not None and freeze is None:
            raise ConfigError("nothing is frozen", where=name, allowed="null", hint="set freeze: backbone")
    if get("unfreeze_lr") is not None and get("unfreeze_epoch") is None:
        raise ConfigError("unfreeze_lr needs unfreeze_epoch", where="unfreeze_lr", hint="set unfreeze_epoch")
    if freeze and get("model").startswith("linear"):
        raise ConfigError("a linear model has no backbone to freeze", where="freeze", allowed="null")
    if get("warmup_steps") and get("lr_schedule").startswith("onecycle"):
        raise ConfigError("onecycle has a warm-up of its own", where="warmup_steps", allowed="0", hint=(
            "onecycle_0.2 warms up for a fifth of the steps"))


def _check_targets(loss: str, targets: str | None, task: str | None) -> None:
    """Check that targets are of the kind that a built-in loss takes."""
    wanted = implied_targets(loss)
    if task is None and wanted and targets in ("classes", "numbers") and targets != wanted:
        other = "log" if targets == "classes" else "mse"
        raise ConfigError(f"loss {loss} needs {wanted}, and targets are {targets}", where="targets",
                          allowed=f"{wanted} or null", hint=f"or set loss: {other}")


def _check_evaluated(models: list[str] | None, averaging: str | None, metrics: list[str] | None, loss: str,
                     targets: str | None, task: str | None) -> None:
    builtin = [name for name in metrics or () if ":" not in name]
    if metrics and task:
        raise ConfigError("a user-defined task measures its own metrics", where="metrics", hint="remove metrics")
    if builtin and task_of(loss, targets) == "regression":
        raise ConfigError(f"{', '.join(builtin)} need classes, and loss {loss} is for regression", where="metrics",
                          allowed="your own metrics, e.g. my_module:my_metric")
    if models and "av" in models and averaging is None:
        raise ConfigError("there are no averaged weights to evaluate", where="eval_models",
                          hint="set averaging, e.g. poly_8")


def _check_images(spec: Mapping[str, Any], dataset: str) -> None:
    """Check that the data set supports data_on_device and the augmentations of `spec`."""
    field = next((name for name in IMAGE_OPTIONS if spec.get(name)), "data_on_device")
    if dataset.startswith(("libsvm/", "sklearn/")):
        raise ConfigError(f"samples of {dataset} are not images", where=field, hint="remove it: they are always kept "
                          "on the training device" if field == "data_on_device" else None)
    family, _, name = dataset.partition("/")
    if not spec.get("data_on_device") and family not in IMAGE_FAMILIES:
        raise ConfigError("your own images can be augmented only on the training device", where=field,
                          hint="set data_on_device: true")
    if spec.get("data_on_device") and (single := [name for name in _PER_IMAGE if spec.get(name)]):
        raise ConfigError(f"{single[0]} is for images that are loaded one by one", where=single[0],
                          hint="remove it, or data_on_device")
    if (spec.get("aug_repeats") or 1) > 1 and family == "timm" and name.partition("/")[0] in STREAMED_KINDS:
        raise ConfigError(f"{dataset} is streamed, each image once", where="aug_repeats", allowed="1")
    if spec.get("crop_padding") is not None and spec.get("scale"):
        raise ConfigError("crop_padding and scale both crop", where="crop_padding", hint="set one of them")
    if spec.get("ratio") and not spec.get("scale"):
        raise ConfigError("ratio needs scale", where="ratio", hint="set scale too, e.g. [0.08, 1.0]")
    if max(spec.get("scale") or [1]) > 1:
        raise ConfigError(f"{spec['scale']} is more than the whole image", where="scale", allowed="fractions up to 1.0")


def _check_texts(spec: Mapping[str, Any], dataset: str, model: str, loss: str) -> None:
    """Check that data set, model, tokenizer and targets agree where one of them is for texts."""
    task, targets = spec.get("task"), spec.get("targets")
    has_texts, reads_texts = dataset.startswith("hf/"), model.startswith("hf/")
    if has_texts and not (reads_texts or is_user_code(model) or task):
        raise ConfigError(f"model {model} cannot read texts", where="model", allowed="hf/NAME, or your own")
    if reads_texts and not (has_texts or is_user_code(dataset)):
        raise ConfigError(f"model {model} reads texts, and {dataset} has none", where="dataset",
                          allowed="hf/NAME, or your own")
    if has_texts and not reads_texts and spec.get("tokenizer") is None:
        raise ConfigError(f"texts need a tokenizer, and {model} has none", where="tokenizer",
                          allowed="a name of the hub, e.g. bert-base-uncased, or a folder, e.g. ./tokenizer")
    if targets != "next_token":
        return
    if not (has_texts or is_user_code(dataset)) or not (reads_texts or is_user_code(model) or task):
        raise ConfigError("targets: next_token needs texts and a language model", where="targets",
                          allowed="dataset: hf/NAME and model: hf/NAME, or your own")
    if LOSSES.get(loss) != "log" and ":" not in loss and not task:
        raise ConfigError(f"loss {loss} is not for tokens", where="loss", allowed="log")
    if spec.get("metrics"):
        raise ConfigError("next_token is evaluated by loss, accuracy and perplexity", where="metrics",
                          hint="remove metrics")
    if set_too := next((name for name in ("model_head_init", "freeze") if spec.get(name)), None):
        raise ConfigError("the last layer of a language model may be shared with its first", where=set_too,
                          allowed="null")


def check_model_options(spec: Mapping[str, Any], model: str) -> None:
    """Raise ConfigError unless the model has the pretrained weights, options and head that `spec` requests."""
    if spec.get("model_kwargs"):
        from src.checks.family_rules import check_model_kwargs

        check_model_kwargs(spec["model_kwargs"])
    family = model.partition("/")[0]
    if spec.get("model_pretrained") and not spec.get("task") and (
            is_user_code(model) or family not in PRETRAINED_FAMILIES):
        raise ConfigError(f"there are no pretrained weights for {model}", where="model_pretrained", allowed=(
            f"true only for models of the families {', '.join(PRETRAINED_FAMILIES)}"))
    if spec.get("model_head_init") == "zero_shot":
        if family != "clip":
            raise ConfigError(f"{model} cannot be initialized from class names", where="model_head_init",
                              allowed="null, zero or rand", hint="zero_shot is for clip/NAME: clip/ViT-B-32@openai")
        if (task := task_of(spec.get("loss", "log"), spec.get("targets"))) != "classification" or spec.get("task"):
            raise ConfigError(f"zero_shot needs classification, and this is {spec.get('task') or task}",
                              where="model_head_init", hint="try loss: log")
    if not is_user_code(model) and family not in PRETRAINED_FAMILIES:
        known = MODEL_OPTIONS.get((parse_tiny(model) or ("",))[0], ())
        for name, value in (spec.get("model_kwargs") or {}).items():
            if name not in known:
                raise ConfigError(f"{model} has no option '{name}'", where="model_kwargs", allowed=known or "null",
                                  hint=did_you_mean(name, known))
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r}", where="model_kwargs", allowed="1 channel or more")


def _check_checkpointing(model: str) -> None:
    """Check that the model has enough layers for gradient checkpointing."""
    if model in SHALLOW_MODELS:
        raise ConfigError(f"{model} is too small for gradient checkpointing", where="grad_checkpointing",
                          allowed="false")


def _check_mixing(spec: Mapping[str, Any], loss: str, targets: str | None, task: str | None) -> None:
    """Check that the loss accepts class probabilities, which mixup, cutmix and label_smoothing make of labels."""
    field = next(name for name in ("mixup", "cutmix", "label_smoothing") if spec.get(name))
    if task is not None:
        raise ConfigError("a user-defined task mixes its own batches", where=field,
                          hint="mix them in the task, as src/training/steps/mixing.py does")
    if (task := task_of(loss, targets)) != "classification":
        raise ConfigError(f"{field} needs classification, and this is {task}", where=field, hint="try loss: log")
    if loss not in SOFT_LABEL_LOSSES and ":" not in loss:
        raise ConfigError(f"loss {loss} does not accept class probabilities", where=field,
                          allowed=(*SOFT_LABEL_LOSSES, "my_module:my_loss, given probabilities [n, classes]"))


def _check_splits(splits: dict[str, str], at_end: list[str] | None, train_length: int,
                  further: dict[str, str] | None = None) -> None:
    if "train" not in splits and train_length > 0:
        raise ConfigError("train is missing", where="data_splits_map",
                          allowed="splits with train among them, e.g. {train: 'train[:90%]', val: 'train[90%:]'}",
                          hint="add one, or set train_length: 0 to evaluate only")
    if not at_end and not further and splits.keys() <= {"train"} and train_length == 0:
        raise ConfigError("there is no split to evaluate", where="data_splits_map", hint=(
            "add a split beside train, e.g. {train: train, test: test}, or set eval_at_end: [train]"))
    for name, text in splits.items():
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ConfigError(f"invalid split name {name!r}",
                              where="data_splits_map", allowed="letters, digits, _ . -")
        try:
            registered_names.check_split(text)
        except ConfigError as error:
            raise error.at("data_splits_map") from None
    for name in at_end or ():
        if name not in splits and name not in (further or {}):
            raise ConfigError(f"unknown split '{name}'", where="eval_at_end", allowed=splits)


def _check_further(sets: dict[str, str], maps: dict[str, str] | None, splits: dict[str, str], spec: Mapping[str, Any],
                   loss: str) -> None:
    """Check the entries of eval_datasets and eval_class_maps against the splits."""
    for name, text in sets.items():
        if name in splits or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ConfigError(f"'{name}' is a split already" if name in splits else
                              f"invalid name {name!r}", where="eval_datasets",
                              allowed="letters, digits, _ . -", hint="choose another name")
        try:
            dataset, part = registered_names.parse_eval_dataset(text)
            registered_names.check_dataset(dataset)
            registered_names.check_split(part)
        except ConfigError as error:
            raise error.at(f"eval_datasets, {name}") from None
    if unknown := next((name for name in maps or () if name not in sets), None):
        raise ConfigError(f"unknown data set '{unknown}'", where="eval_class_maps",
                          allowed=sets or None, hint=did_you_mean(unknown, sets))
    if maps and (spec.get("metrics") or spec.get("task") or task_of(loss, spec.get("targets")) == "regression"):
        raise ConfigError("class maps need classification without metrics and task", where="eval_class_maps",
                          hint="remove metrics and task, and choose a loss for classification")
