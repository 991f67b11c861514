"""Which fields of a config go together: what cannot be is refused at submission, read without torch."""
from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from src.checks import registered_names
from src.checks.registered_names import (
    LOSSES,
    OF_IMAGES,
    OPTIONS_OF_OURS,
    PUBLISHED,
    SHALLOW,
    SHARES,
    parse_tiny,
    task_of,
)
from src.errors import ConfigError, did_you_mean

_ONE_BY_ONE = ("color_jitter", "auto_augment", "random_erasing", "aug_repeats")  # not for whole batches on a device
_OPTIMIZATION = frozenset(("optim_kwargs", "layer_decay", "clip_grad_norm", "clip_grad_value", "freeze",
                           "unfreeze_epoch", "unfreeze_lr", "warmup_steps"))
_TOGETHER = ("momentum", "optim_alg", "batch_size", "grad_accum_steps", "steps_per_epoch", "samples_per_epoch",
             "averaging", "recompute_batch_norm", "precision", "compile", "device", "task")


def check(spec: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """ConfigError unless the fields of `spec`, each of which is allowed alone, go together with each other and with the
    defaults of the rest. What few specs have is looked at only where they have it."""
    get = spec.get
    _check_steps(*[get(key, defaults[key]) for key in _TOGETHER])
    if not _OPTIMIZATION.isdisjoint(spec):
        _check_optimization(lambda key: get(key, defaults[key]))
    loss, model, dataset = get("loss", defaults["loss"]), get("model", defaults["model"]), get(
        "dataset", defaults["dataset"])
    if get("eval_models") or get("metrics"):
        _check_evaluated(get("eval_models"), get("averaging"), get("metrics"), loss, get("targets"), get("task"))
    if get("data_on_device") or any(map(get, OF_IMAGES)):
        _check_images(spec, dataset)
    if model.startswith("hf/") or dataset.startswith("hf/") or get("targets") == "next_token":
        _check_texts(spec, dataset, model, loss)
    if get("model_pretrained") or get("model_kwargs") or get("model_head_init") == "zero_shot":
        check_model_options(spec, model)
    if get("grad_checkpointing"):
        _check_checkpointing(model)
    if get("mixup") or get("cutmix") or get("label_smoothing"):
        _check_mixing(spec, loss, get("targets"), get("task"))
    splits = get("data_splits_map", defaults["data_splits_map"])
    _check_splits(splits, get("eval_at_end"), get("train_length", defaults["train_length"]), get("eval_datasets"))
    if get("eval_datasets") or get("eval_class_maps"):
        _check_further(get("eval_datasets") or {}, get("eval_class_maps"), splits, spec, loss)


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
        raise ConfigError("steps_per_epoch and samples_per_epoch are both given", hint="give one of them")
    if recompute_batch_norm and averaging is None:
        raise ConfigError("recompute_batch_norm is about the averaged model, and there is none", hint=(
            "set averaging, or leave it out"))
    if precision in ("fp16", "tf32") and device in ("cpu", "mps"):
        raise ConfigError(f"precision {precision} needs a CUDA device, not {device}", hint="bf16 works on a CPU too")
    if compile not in (None, "default") and grad_accum_steps > 1:
        raise ConfigError(f"compile {compile} replays CUDA graphs, which do not add up gradients", hint=(
            "set compile: default, or grad_accum_steps: 1"))
    if task is not None and (precision in ("bf16", "fp16") or compile is not None or grad_accum_steps > 1):
        raise ConfigError("a task of one's own takes its own steps, in its own precision", allowed=(
            "precision: float32 or tf32, compile: null, grad_accum_steps: 1"),
            hint="use torch.autocast, torch.compile and accumulation inside the task")


def _check_optimization(get: Callable[[str], Any]) -> None:
    """ConfigError if fields about optimization do not go together. get: a field's value by its name."""
    kwargs, decay, task, freeze = get("optim_kwargs"), get("layer_decay"), get("task"), get("freeze")
    if kwargs and not get("optim_alg").startswith("timm/"):
        raise ConfigError(f"optim_alg {get('optim_alg')} takes none", where="optim_kwargs", allowed="null",
                          hint="they are for the optimizers of timm, as timm/lion")
    if task and (clips := [name for name in ("clip_grad_norm", "clip_grad_value") if get(name) is not None]):
        raise ConfigError("a task of one's own clips its own gradients", where=clips[0], allowed="null",
                          hint="call torch.nn.utils.clip_grad_norm_ in the task")
    if decay not in (None, 1) and get("model").startswith("linear"):
        raise ConfigError("a linear model has one layer", where="layer_decay", allowed="null")
    for name in ("unfreeze_epoch", "unfreeze_lr"):
        if get(name) is not None and freeze is None:
            raise ConfigError("nothing is frozen", where=name, allowed="null", hint="set freeze: backbone")
    if get("unfreeze_lr") is not None and get("unfreeze_epoch") is None:
        raise ConfigError("there is no epoch from which it would hold", where="unfreeze_lr", hint="set unfreeze_epoch")
    if freeze and get("model").startswith("linear"):
        raise ConfigError("a linear model is all head: nothing of it can be frozen", where="freeze", allowed="null")
    if get("warmup_steps") and get("lr_schedule").startswith("onecycle"):
        raise ConfigError("onecycle rises by itself", where="warmup_steps", allowed="0", hint=(
            "onecycle_0.2 rises for a fifth of the steps"))


def _check_evaluated(models: list[str] | None, averaging: str | None, metrics: list[str] | None, loss: str,
                     targets: str | None, task: str | None) -> None:
    of_classes = [name for name in metrics or () if ":" not in name]
    if metrics and task:
        raise ConfigError("a task of one's own measures its own metrics", where="metrics", hint="leave them out")
    if of_classes and task_of(loss, targets) == "regression":
        raise ConfigError(f"{', '.join(of_classes)} need classes, and loss {loss} is of numbers", where="metrics",
                          allowed="metrics of one's own, as my_module:my_metric")
    if models and "av" in models and averaging is None:
        raise ConfigError("there is no average to evaluate", where="eval_models", hint="set averaging, as poly_8")


def _check_images(spec: Mapping[str, Any], dataset: str) -> None:
    """ConfigError unless what `spec` asks for, data_on_device or an augmentation, can be done with the data set."""
    asked = next((name for name in OF_IMAGES if spec.get(name)), "data_on_device")
    if dataset.startswith(("libsvm/", "sklearn/")):
        raise ConfigError(f"samples of {dataset} are no images", where=asked, hint="leave it out: they are kept on the "
                          "training device anyway" if asked == "data_on_device" else None)
    if not spec.get("data_on_device") and not dataset.startswith(("timm/", "folder/")):
        raise ConfigError("images of one's own are augmented on the training device alone", where=asked,
                          hint="set data_on_device: true")
    if spec.get("data_on_device") and (single := [name for name in _ONE_BY_ONE if spec.get(name)]):
        raise ConfigError(f"{single[0]} is for images that are read one by one", where=single[0],
                          hint="leave it out, or data_on_device")
    if (spec.get("aug_repeats") or 1) > 1 and dataset.startswith(("timm/tfds/", "timm/wds/")):
        raise ConfigError(f"{dataset} comes in its own order, each image once", where="aug_repeats", allowed="1")
    if spec.get("crop_padding") is not None and spec.get("scale"):
        raise ConfigError("crop_padding and scale are two ways to crop", where="crop_padding", hint="give one of them")
    if spec.get("ratio") and not spec.get("scale"):
        raise ConfigError("ratio is of the parts that scale takes", where="ratio", hint="give it too, as [0.08, 1.0]")
    if max(spec.get("scale") or [1]) > 1:
        raise ConfigError(f"{spec['scale']} is more than the whole image", where="scale", allowed="shares up to 1.0")


def _check_texts(spec: Mapping[str, Any], dataset: str, model: str, loss: str) -> None:
    """ConfigError unless data set, model, tokenizer and targets fit each other where one of them is about texts."""
    from src.checks.user_code import is_own

    task, targets = spec.get("task"), spec.get("targets")
    texts, reads = dataset.startswith("hf/"), model.startswith("hf/")
    if texts and not (reads or is_own(model) or task):
        raise ConfigError(f"model {model} cannot read texts", where="model", allowed="hf/NAME, or one of one's own")
    if reads and not (texts or is_own(dataset)):
        raise ConfigError(f"model {model} reads texts, and {dataset} has none", where="dataset",
                          allowed="hf/NAME, or one of one's own")
    if texts and not reads and spec.get("tokenizer") is None:
        raise ConfigError(f"texts need a tokenizer, and {model} has none of its own", where="tokenizer",
                          allowed="a name of the hub, as bert-base-uncased, or a folder, as ./tokenizer")
    if targets != "next_token":
        return
    if not (texts or is_own(dataset)) or not (reads or is_own(model) or task):
        raise ConfigError("the next token is asked of a language model", where="targets",
                          allowed="dataset: hf/NAME and model: hf/NAME, or those of one's own")
    if LOSSES.get(loss) != "log" and ":" not in loss and not task:
        raise ConfigError(f"loss {loss} is not for tokens", where="loss", allowed="log")
    if spec.get("metrics"):
        raise ConfigError("loss, accuracy and perplexity are what is measured of next tokens", where="metrics",
                          hint="leave it out")
    if set_too := next((name for name in ("model_head_init", "freeze") if spec.get(name)), None):
        raise ConfigError("the last layer of a language model may be its first", where=set_too, allowed="null")


def check_model_options(spec: Mapping[str, Any], model: str) -> None:
    """ConfigError unless what `spec` says of its model's weights, options and head can be had."""
    from src.checks.user_code import is_own

    family = model.partition("/")[0]
    if spec.get("model_pretrained") and not spec.get("task") and (is_own(model) or family not in PUBLISHED):
        raise ConfigError(f"there are no pretrained weights for {model}", where="model_pretrained", allowed=(
            f"true for models of the families {', '.join(PUBLISHED)} alone"))
    if spec.get("model_head_init") == "zero_shot":
        if family != "clip":
            raise ConfigError(f"{model} does not read names of classes", where="model_head_init",
                              allowed="null, zero or rand", hint="zero_shot is for clip/NAME, as clip/ViT-B-32@openai")
        if (task := task_of(spec.get("loss", "log"), spec.get("targets"))) != "classification" or spec.get("task"):
            raise ConfigError(f"zero_shot is about classes, and this is {spec.get('task') or task}",
                              where="model_head_init", hint="try loss: log")
    if not is_own(model) and family not in PUBLISHED:
        known = OPTIONS_OF_OURS.get((parse_tiny(model) or ("",))[0], ())
        for name, value in (spec.get("model_kwargs") or {}).items():
            if name not in known:
                raise ConfigError(f"{model} has no option '{name}'", where="model_kwargs", allowed=known or "null",
                                  hint=did_you_mean(name, known))
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r}", where="model_kwargs", allowed="1 channel or more")


def _check_checkpointing(model: str) -> None:
    """ConfigError if all that the model keeps for its backward pass is needed at once."""
    if model in SHALLOW:
        raise ConfigError(f"{model} is too small to compute parts of it again", where="grad_checkpointing",
                          allowed="false")


def _check_mixing(spec: Mapping[str, Any], loss: str, targets: str | None, task: str | None) -> None:
    """ConfigError unless the loss takes what mixup, cutmix or label_smoothing, one of which `spec` asks for, make of
    labels: shares of classes."""
    asked = next(name for name in ("mixup", "cutmix", "label_smoothing") if spec.get(name))
    if task is not None:
        raise ConfigError("a task of one's own gets its batches as they are", where=asked,
                          hint="mix them inside the task, as src/training/steps/mixing.py does")
    if (task := task_of(loss, targets)) != "classification":
        raise ConfigError(f"{asked} makes shares of classes, and this is {task}", where=asked, hint="try loss: log")
    if loss not in SHARES and ":" not in loss:
        raise ConfigError(f"loss {loss} takes one class, not shares of classes", where=asked,
                          allowed=(*SHARES, "my_module:my_loss, given shares [n, classes]"))


def _check_splits(splits: dict[str, str], at_end: list[str] | None, train_length: int,
                  further: dict[str, str] | None = None) -> None:
    if "train" not in splits and train_length > 0:
        raise ConfigError("there is no train split to train on", where="data_splits_map",
                          allowed="splits with train among them, as {train: 'train[:90%]', val: 'train[90%:]'}",
                          hint="add one, or set train_length: 0 to evaluate only")
    if not at_end and not further and splits.keys() <= {"train"} and train_length == 0:
        raise ConfigError("there is nothing to evaluate", where="data_splits_map", hint=(
            "name a split beside train, as {train: train, test: test}, or set eval_at_end: [train]"))
    for name, text in splits.items():
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ConfigError(f"the split name {name!r} cannot stand in a column of stats.csv",
                              where="data_splits_map", allowed="letters, digits, _ . -")
        try:
            registered_names.check_split(text)
        except ConfigError as error:
            raise error.at("data_splits_map") from None
    for name in at_end or ():
        if name not in splits and name not in (further or {}):
            raise ConfigError(f"there is no split '{name}'", where="eval_at_end", allowed=splits)


def _check_further(sets: dict[str, str], maps: dict[str, str] | None, splits: dict[str, str], spec: Mapping[str, Any],
                   loss: str) -> None:
    """ConfigError unless the entries of eval_datasets and eval_class_maps can be added to the splits."""
    for name, text in sets.items():
        if name in splits or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ConfigError(f"'{name}' is a split already" if name in splits else
                              f"the name {name!r} cannot stand in a column of stats.csv", where="eval_datasets",
                              hint="call the set otherwise")
        try:
            dataset, part = registered_names.split_of(text)
            registered_names.check_dataset(dataset)
            registered_names.check_split(part)
        except ConfigError as error:
            raise error.at(f"eval_datasets, {name}") from None
    if strange := next((name for name in maps or () if name not in sets), None):
        raise ConfigError(f"there is no set '{strange}' in eval_datasets", where="eval_class_maps",
                          allowed=sets or None, hint=did_you_mean(strange, sets))
    if maps and (spec.get("metrics") or spec.get("task") or task_of(loss, spec.get("targets")) == "regression"):
        raise ConfigError("class maps cut the outputs of a classification", where="eval_class_maps",
                          hint="leave out metrics and task, and choose a loss of classes")
