"""Config: every parameter of a run with its default, checked strictly; an unknown name is answered with the nearest."""
from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from src.checks import config_rules, patterns, registered_names
from src.errors import ConfigError, did_you_mean, listed
from src.frozen import Frozen, field

BOOKKEEPING = ("TAGS", "SUBTESTS")  # keys that say where a grid point belongs
# Keys of a grid point that say how it is run and where it belongs. They are never axes of a grid.
PER_POINT = ("SBATCH", "SCRIPT", "COMMAND", "CWD", "WORKERS", *BOOKKEEPING)
# Keys of spec.yaml and config.yaml that are not parameters; facts are the last key of config.yaml.
NOT_PARAMETERS = frozenset((*PER_POINT, "facts"))
scalar = str | int | float | bool | None


class Config(Frozen):
    """All parameters of a run. A released default never changes: tests/golden/config_defaults.yaml pins them.

    The comments are the source of docs/reference/config.md (`make reference`): a comment between dashes opens a
    section; a field is described beside it, or in the lines above it where that is too long.
    """

    # --- Logging and checkpoints ---
    log_interval: float = 10  # seconds between progress lines within a training epoch; 0: none
    log_interval_eval: float | None = None  # the same within an evaluation; null: the value of log_interval
    log_steps: int | None = None  # optimizer steps between rows of steps.csv, e.g. 50; null: no such file
    # interval between resume checkpoints, from which an interrupted run continues: 10min, 0.5epochs, 500steps; null:
    # only when the run is told to stop
    checkpoint_every: str | None = "10min"
    checkpoints_kept: int = 2  # number of resume checkpoints kept; all are removed once the run is done
    max_requeues: int = 100  # maximum number of requeues of one submission of a run after a time limit; 0: none
    save_freq: int = 0  # epochs between model checkpoints (checkpoint-EPOCH.pt), which are kept; 0: none
    # keep the model of the best epoch in best_checkpoint.pt, and evaluate it on the splits of eval_at_end. Early
    # stopping with eval_at_end does both too
    save_best_checkpoint: bool = False
    # regular expression for the columns of stats.csv that define the best epoch. If several match, the best of them
    # counts. Early stopping uses it too
    best_checkpoint_metric: str = "test/.*/accuracy"
    # minimize or maximize that metric; null: the goal of job_details.metric for its columns, else by the metric's name
    best_checkpoint_goal: str | None = None
    output_dir: str | None = None  # run folder; null: write nothing. Runs of a batch get theirs at submission
    log_to_stdout: bool = False  # print training.log on stdout too

    # --- Devices and processes ---
    device: str = "auto"  # auto, cpu, cuda, cuda:N or mps; auto: the first available of cuda, mps, cpu
    multi_gpu: bool = True  # train on every visible GPU, one process each; false: on one GPU
    sync_batch_norm: bool = True  # with several processes: batch statistics of the whole batch instead of each part
    num_workers: int = 2  # data-loader processes, for data sets that are not held in memory

    # --- Evaluation and early end ---
    eval_batch_size: int | None = None  # samples per batch in evaluations; null: batch_size
    max_allowed_loss: float = 1e6  # a larger training loss, or NaN, ends the run as diverged
    # number of epochs without a new best value of best_checkpoint_metric after which the run stops; null: never
    early_stopping_patience: int | None = None

    # --- Seeds ---
    seed_model: int | None = None  # for the initial weights; null: drawn, and recorded in config.yaml
    seed_training: int | None = None  # for the order of the data, augmentation and dropout; null: drawn and recorded
    seed_split: int = 0  # for the permutation behind splits such as train[:80%]

    # --- Data ---
    # libsvm/NAME, sklearn/NAME, hf/NAME, folder/PATH, timm/{torch,hfds,tfds,wds}/NAME or my_module:make_dataset
    # (docs/data.md)
    dataset: str = "libsvm/a9a"
    data_dir: str = "data"  # folder of the data; ~ and $VAR are expanded where the run runs
    data_download: bool = True  # download data that is missing; false: never use the network
    # number of the first column in LIBSVM files: 0 or 1; null: 0 if any part of the data set has a column 0, else 1
    libsvm_base: int | None = None
    # name -> part of the data set, e.g. {train: "train[:90%]", val: "train[90%:]", test: test}. The run trains on
    # `train` and evaluates all others after each epoch
    data_splits_map: dict[str, str] = field(default_factory=lambda: {"train": "train", "test": "test"})
    eval_datasets: dict[str, str] | None = None  # further data sets to evaluate: name -> DATASET[@SPLIT]
    # for evaluation sets with classes of their own: name -> for each of its classes the index of the training class, as
    # '3, 0, 7', or a file of these
    eval_class_maps: dict[str, str] | None = None
    eval_at_end: list[str] | None = None  # splits that are evaluated once, after training
    eval_models: list[str] | None = None  # last, av or both; null: last, and av if the weights are averaged
    metrics: list[str] | None = None  # additional evaluation metrics, e.g. [top5, f1, auroc, my_module:my_metric]

    # --- Images ---
    data_on_device: bool = False  # keep the images on the training device as bytes, and transform whole batches there
    crop_padding: int | None = None  # random crop after padding by this number of black pixels
    scale: list[float] | None = None  # random resized crop: range of its fraction of the area, e.g. [0.08, 1.0]
    ratio: list[float] | None = None  # range of its width / height; null: [0.75, 1.3333]
    hflip: float = 0.0  # probability of a horizontal flip
    vflip: float = 0.0  # probability of a vertical flip
    interpolation: str | None = None  # for resizing: bilinear (null), bicubic, or random (either, in training only)
    # evaluation resizes the shorter side to the input size / crop_pct and takes a center crop of the input size; null:
    # the model's own value, or 1
    crop_pct: float | None = None
    color_jitter: float | None = None  # maximum relative change of brightness, contrast and saturation, e.g. 0.4
    auto_augment: str | None = None  # in timm's notation: rand-m9-mstd0.5 (RandAugment), original, augmix-m3-w3
    random_erasing: float = 0.0  # probability that a random box is replaced by noise
    aug_repeats: int | None = None  # copies of each image in a batch, each augmented differently; null: 1

    # --- Texts ---
    tokenizer: str | None = None  # a name on the Hugging Face hub, or a folder such as ./tokenizer; null: the model's
    max_length: int = 512  # maximum number of tokens; longer texts are truncated, also to what the model allows
    text_column: str | None = None  # the column, or two for pairs: 'premise,hypothesis'; null: found by its usual names
    label_column: str | None = None  # null: found by its usual names
    group_by_length: bool = False  # batch texts of similar length, which needs less padding

    # --- Mixed batches ---
    mixup: float = 0.0  # alpha of mixup: blend pairs of samples with a weight from Beta(alpha, alpha); 0: off
    cutmix: float = 0.0  # alpha of CutMix; 0: off. With mixup, each batch uses one of the two, with probability 1/2
    label_smoothing: float = 0.0  # fraction of each training label that is spread evenly over all classes

    # --- Model ---
    # linear, linear/no_bias, tiny/{lenet,resnet_D,vgg_D,wrn_D_W}, {timm,torchvision,clip,hf}/NAME or
    # my_module:make_model (docs/models.md)
    model: str = "linear/no_bias"
    model_kwargs: dict[str, scalar] | None = None  # further options of the model, e.g. {drop_path_rate: 0.1}
    model_pretrained: bool = False  # start from pretrained weights
    model_head_init: str | None = None  # zero, rand, or zero_shot (of clip/NAME); null: the model's own initialization
    # for zero_shot: the class names, a list or the path of a file with one per line; null: those of the data set
    class_names: str | list[str] | None = None
    zero_shot_templates: list[str] = field(default_factory=lambda: list(registered_names.TEMPLATES))  # {}: class name
    model_output_dim: int | None = None  # null: the number of classes, or 1 for regression
    model_input_shape: list[int] | None = None  # shape of a sample, e.g. [3, 32, 32]; null: that of the data

    # --- Training ---
    task: str | None = None  # my_module:MyTask, with training steps of its own; null: a loss of output and targets
    loss: str = "log"  # log (= xentropy), mse (= square), torch/NAME such as torch/L1Loss, or my_module:my_loss
    targets: str | None = None  # classes, numbers or next_token; null: what the loss expects (your own: classes)
    batch_size: int = 100  # samples per optimizer step
    train_length: int = 100  # length of the training in units of train_length_unit; 0: only evaluate
    train_length_unit: str = "epoch"  # epoch, step or sample; samples are rounded up to whole steps
    steps_per_epoch: int | None = None  # optimizer steps per epoch; null: an epoch is one pass over the data
    samples_per_epoch: int | None = None  # the same in samples
    grad_accum_steps: int = 1  # micro-batches per optimizer step

    # --- Optimization ---
    optim_alg: str = "sgd"  # sgd, adam, adamw, amsgrad, amsgradw, or timm/NAME such as timm/lion
    optim_kwargs: dict[str, scalar] | None = None  # further options of a timm optimizer, e.g. {caution: true}
    lr_schedule: str = "constant"  # constant, linear, poly, step, cosine, onecycle or wsd (docs/optimization.md)
    base_lr: float = 1.0  # learning rate that the schedule multiplies
    weight_decay: float = 0.0  # of weights
    weight_decay_biases: float = 0.0  # of biases and normalization layers
    momentum: float | str = 0.9  # sgd: Nesterov momentum; Adam variants: 'beta1,beta2', or beta1 alone
    ada_eps: float = 1e-8  # epsilon of the Adam variants
    warmup_steps: int = 0  # first steps, in which the learning rate rises linearly to its value
    cooldown_steps: int = 0  # last steps, in which the learning rate falls linearly to 0
    layer_decay: float | None = None  # learning rate of each layer as a multiple of the next layer's; null: all equal
    clip_grad_norm: float | None = None  # maximum norm of the gradient; adds the column train/grad_norm
    clip_grad_value: float | None = None  # maximum absolute value of each gradient component
    freeze: str | None = None  # backbone: train only the head
    unfreeze_epoch: int | None = None  # epoch from which all parameters are trained; null: never
    unfreeze_lr: float | None = None  # base_lr from that epoch on; null: unchanged
    averaging: str | None = None  # weight averaging: poly_ETA (poly: poly_8) or ema_DECAY (ema: ema_0.999)
    recompute_batch_norm: bool = False  # recompute the averaged model's batch-norm statistics before each evaluation

    # --- Speed and memory ---
    precision: str = "float32"  # float32, tf32, bf16, or fp16 (with loss scaling); weights stay in float32
    grad_checkpointing: bool = False  # recompute activations in the backward pass: less memory, more time
    channels_last: bool = False  # store images and convolutions in channels-last order, which tensor cores prefer
    compile: str | None = None  # mode of torch.compile: default, reduce-overhead or max-autotune; null: off

    # --- Debugging and profiling ---
    limit_train_batches: int | float | None = None  # per epoch: 10 is ten batches, 0.1 a tenth of them; null: all
    # the same for each evaluation: a random sample of the split, drawn with seed_split, the same in all epochs
    limit_eval_batches: int | float | None = None
    fast_dev_run: bool = False  # one batch of training and of each evaluation, to see that everything runs
    overfit_batches: int | None = None  # train on this number of fixed batches; null: on all data
    profile: bool = False  # write profile.txt, a table of where time goes, and a trace of ten steps

    # All fields from here on are TRACKER_FIELDS.
    # --- System metrics ---
    system_metrics: float | None = None  # seconds between samples for system.csv, e.g. 5; null: none

    # --- Trackers ---
    tensorboard: bool = False  # event files in the run folder
    mlflow: bool = False  # on the server of mlflow_tracking_uri, also while the run trains
    mlflow_tracking_uri: str | None = None  # address of the server, without credentials; null: $MLFLOW_TRACKING_URI
    mlflow_experiment: str | None = None  # null: the name of the job spec
    comet: bool = False  # online if $COMET_API_KEY is set, else into an archive in the run folder
    comet_project: str | None = None  # null: Comet's own default
    comet_workspace: str | None = None  # null: that of the API key's user
    wandb: bool = False  # Weights & Biases; $WANDB_MODE=offline keeps it in the run folder
    wandb_entity: str | None = None  # user or team; null: W&B's own default
    wandb_project_name: str | None = None  # null: W&B's own default
    wandb_run_name: str | None = None  # null: the name of the run folder
    wandb_tags: list[str] | None = None  # beside the run's TAGS and its parameters

    def __repr__(self) -> str:
        changed = (f"{key}={value!r}" for key, value in self._asdict().items() if value != DEFAULTS[key])
        return f"Config({', '.join(changed)})"

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any], where: str = "spec") -> Config:
        """Return the config of a spec, with defaults filled in and numbers in their declared type.

        Keys in NOT_PARAMETERS are dropped. ConfigError if check_parameters finds a mistake.
        """
        check_parameters(spec, where)
        return cls(**{key: convert(key, value) for key, value in spec.items() if key not in NOT_PARAMETERS})

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters by name, in the order in which they are declared."""
        return self._asdict()


@functools.cache
def defaults_version() -> str:
    """Return a hash of all defaults, which changes if any default changes."""
    import hashlib  # only runs and their readers ask
    import json

    return hashlib.sha256(json.dumps(DEFAULTS).encode()).hexdigest()[:12]


FIELDS: dict[str, str] = Config.__annotations__  # name -> declared types: "int | None"
# fields that decide only how a run is shown; job_details of a job spec may set them for all of its runs
TRACKER_FIELDS = tuple(FIELDS)[tuple(FIELDS).index("system_metrics"):]
# fields that decide what is logged and stored, and where: they do not change what is trained
OUTPUT_FIELDS = frozenset(("log_interval", "log_interval_eval", "log_steps", "log_to_stdout", "save_freq",
                           "save_best_checkpoint", "checkpoint_every", "checkpoints_kept", "max_requeues", "output_dir",
                           "profile", *TRACKER_FIELDS))
# fields that no rule on combinations reads: a grid is checked once for each of their values
INDEPENDENT_FIELDS = frozenset(("base_lr", "weight_decay", "weight_decay_biases", "ada_eps", "seed_model",
                                "seed_training", "seed_split", "cooldown_steps"))
DEFAULTS = Config().to_dict()
# name -> the same as a set: {"int", "None"}
_KINDS = {name: frozenset(types.split(" | ")) for name, types in FIELDS.items()}
_KIND_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a string",
               "None": "null", "dict[str, str]": "a mapping of strings", "list[str]": "a list of strings",
               "list[int]": "a list of whole numbers", "list[float]": "a list of numbers",
               "dict[str, scalar]": "a mapping of names to numbers, strings, true, false, null, or lists of them"}


def declared_types(name: str) -> frozenset[str]:
    """Return the declared types of a field, e.g. {"int", "None"}; empty if Config has no such field."""
    return _KINDS.get(name, frozenset())


def _kind_of(value: object) -> frozenset[str]:
    """Return the declared types that accept `value`."""
    if value is None:
        return frozenset(("None",))
    if isinstance(value, bool):
        return frozenset(("bool",))
    if isinstance(value, int):
        return frozenset(("int", "float"))
    if isinstance(value, float):  # 1e5 is a float in YAML, and people write counts that way
        return frozenset(("int", "float")) if value.is_integer() else frozenset(("float",))
    if isinstance(value, str):
        return frozenset(("str",))
    if isinstance(value, dict):
        kinds = {"dict[str, str]": _all_strings([*value, *value.values()]), "dict[str, scalar]": _all_strings(
            [*value]) and all(isinstance(item, scalar) for one in value.values() for item in (
                one if isinstance(one, list) else [one]))}
        return frozenset(kind for kind, fits in kinds.items() if fits)
    if isinstance(value, list):
        return frozenset(kind for kind, types in (("list[str]", str), ("list[int]", int), ("list[float]", (int, float)))
                         if all(isinstance(item, types) and not isinstance(item, bool) for item in value))
    return frozenset()


def _all_strings(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def convert(key: str, value: Any) -> Any:
    """Return a number in the type that its field declares: 1e5 -> 100000 for an int, 1 -> 1.0 for a float."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not {"int", "float"} <= _KINDS[key]:
        if "float" in _KINDS[key]:
            return float(value)
        if "int" in _KINDS[key]:
            return int(value)
    return value


def _at_least(least: float) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if value is not None and not value >= least:  # NaN is refused too
            raise ConfigError(f"{value!r} is too small", allowed=f"{least} or more")
    return check


def _above_zero(value: float | None) -> None:
    if value is not None and not value > 0:
        raise ConfigError(f"{value!r} is too small", allowed="more than 0")


def _one_of(allowed: tuple[str, ...]) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if value is not None and value not in allowed:
            raise ConfigError(f"unknown value {value!r}", allowed=allowed, hint=did_you_mean(value, allowed))
    return check


def _is(what: str, allowed: str, accepts: Callable[[Any], bool]) -> Callable[[Any], None]:
    """Return a check that a value is null, or `what`: ConfigError unless `accepts` returns True."""
    def check(value: Any) -> None:
        if value is not None and not accepts(value):
            raise ConfigError(f"{value!r} is not {what}", allowed=allowed)
    return check


def _check_device(value: str) -> None:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ConfigError(f"unknown device {value!r}", allowed="auto, cpu, cuda, cuda:1, mps")


def _check_address(value: str | None) -> None:
    if not value:
        return
    from src.io import secrets  # imported on demand: few configs have an address

    if secrets.has_credentials(value):
        raise ConfigError("this address has a name, a password or a token in it, and would be kept with the results",
                          hint="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN")


# fields in which infinity means: no limit, or never
_MAY_BE_INFINITE = ("max_allowed_loss", "clip_grad_norm", "clip_grad_value", "log_interval", "log_interval_eval")
# fields that optimizers compute with in float32, in which a larger number overflows
_FLOAT32_FIELDS = ("base_lr", "unfreeze_lr", "weight_decay", "weight_decay_biases", "ada_eps")
_MAX_FLOAT32 = 3.4028234e38
_CHECKS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("batch_size", "eval_batch_size", "steps_per_epoch", "samples_per_epoch", "grad_accum_steps",
                     "early_stopping_patience", "checkpoints_kept", "log_steps", "model_output_dim",
                     "overfit_batches", "unfreeze_epoch", "max_length", "aug_repeats"), _at_least(1)),
    **dict.fromkeys(("log_interval", "log_interval_eval", "save_freq", "num_workers", "train_length", "base_lr",
                     "weight_decay", "weight_decay_biases", "ada_eps", "warmup_steps", "cooldown_steps", "seed_model",
                     "seed_training", "seed_split", "max_allowed_loss", "crop_padding", "max_requeues"), _at_least(0)),
    **dict.fromkeys(("scale", "ratio"), _is(
        "a range", "two positive numbers, the smaller first, e.g. [0.08, 1.0]",
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] < math.inf)),
    "libsvm_base": _is("a column base", "0, 1 or null", lambda value: value in (0, 1)),
    "best_checkpoint_goal": _one_of(registered_names.GOALS),
    "interpolation": _one_of(registered_names.INTERPOLATIONS),
    "crop_pct": _is("a fraction of an image's side", "more than 0, up to 1, e.g. 0.875", lambda value: 0 < value <= 1),
    **dict.fromkeys(("hflip", "vflip", "random_erasing"), _is(
        "a probability", "0 to 1, e.g. 0.5", lambda value: 0 <= value <= 1)),
    "color_jitter": _above_zero,
    "auto_augment": registered_names.check_auto_augment,
    **dict.fromkeys(("mixup", "cutmix"), _is(
        "an alpha of a Beta distribution", "0 (off) or more, e.g. 0.2", lambda value: 0 <= value < math.inf)),
    "label_smoothing": _is("a label smoothing", "0 to less than 1, e.g. 0.1", lambda value: 0 <= value < 1),
    "best_checkpoint_metric": patterns.check,
    "checkpoint_every": registered_names.parse_interval,
    "device": _check_device,
    "mlflow_tracking_uri": _check_address,
    "dataset": registered_names.check_dataset,
    "model": registered_names.check_model,
    "model_head_init": _one_of(registered_names.HEAD_INITS),
    "zero_shot_templates": registered_names.check_templates,
    "model_input_shape": _is("a shape", "a list of positive sizes, e.g. [3, 32, 32]",
                             lambda value: bool(value) and min(value) >= 1),
    "loss": registered_names.check_loss,
    "targets": _one_of(registered_names.TARGETS),
    "task": registered_names.check_user_code,
    "precision": _one_of(registered_names.PRECISIONS),
    "compile": _one_of(registered_names.COMPILE_MODES),
    "eval_models": _is("a choice of models", "[last], [av], [last, av] or null",
                       lambda value: bool(value) and set(value) <= {"last", "av"}),
    **dict.fromkeys(("limit_train_batches", "limit_eval_batches"), _is(
        "a number of batches", "1, 2, … batches, or a fraction above 0, up to 1.0",
        lambda value: value >= 1 if isinstance(value, int) else 0 < value <= 1)),
    "metrics": registered_names.check_metrics,
    "train_length_unit": _one_of(registered_names.TRAIN_LENGTH_UNITS),
    "optim_alg": registered_names.check_optimizer,
    "freeze": _one_of(("backbone",)),
    "layer_decay": _is("a factor for learning rates", "above 0, up to 10, e.g. 0.75", lambda value: 0 < value <= 10),
    **dict.fromkeys(("clip_grad_norm", "clip_grad_value", "unfreeze_lr", "system_metrics"), _above_zero),
    "lr_schedule": registered_names.parse_schedule,
    "averaging": registered_names.parse_averaging,
}
# names of parameters in other programs; the field with the most similar name is often a different one
_OTHER_NAMES = {
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs", "max_epochs", "train_epochs", "num_train_epochs"),
                    "train_length"),
    **dict.fromkeys(("steps", "max_steps", "train_steps", "num_steps", "iterations"),
                    "train_length, with train_length_unit: step"),
    **dict.fromkeys(("lr", "learning_rate"), "base_lr"), **dict.fromkeys(("wd", "l2"), "weight_decay"),
    **dict.fromkeys(("bs", "train_batch_size"), "batch_size"),
    **dict.fromkeys(("optimizer", "optim", "opt"), "optim_alg"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "schedule", "sched"), "lr_schedule"),
    **dict.fromkeys(("seed", "random_seed", "manual_seed"), "seed_model, seed_training and seed_split"),
    **dict.fromkeys(("model_name", "arch", "architecture", "network"), "model"),
    **dict.fromkeys(("dataset_name", "data"), "dataset"),
    **dict.fromkeys(("image_size", "img_size", "input_size"), "model_input_shape"),
    **dict.fromkeys(("splits", "train_split", "val_split", "test_split", "test_size", "val_size"), "data_splits_map"),
    **dict.fromkeys(("patience", "early_stopping"), "early_stopping_patience"),
    **dict.fromkeys(("clip", "grad_clip", "clip_grad", "max_grad_norm", "gradient_clip_val"), "clip_grad_norm"),
    **dict.fromkeys(("gradient_accumulation_steps", "accumulate_grad_batches", "accum_steps"), "grad_accum_steps"),
    **dict.fromkeys(("amp", "fp16", "bf16", "mixed_precision"), "precision"), "pretrained": "model_pretrained",
    **dict.fromkeys(("betas", "beta1", "beta2"), "momentum"), **dict.fromkeys(("eps", "epsilon"), "ada_eps"),
    **dict.fromkeys(("ema", "ema_decay"), "averaging"), **dict.fromkeys(("cuda", "use_cuda", "no_cuda"), "device"),
    **dict.fromkeys(("dropout", "num_classes", "hidden_dim"), "model_kwargs, if the model has such an option")}


def _check_value(key: str, value: Any) -> None:
    if key not in FIELDS:
        meaning = _OTHER_NAMES.get(key.casefold())
        raise ConfigError(f"unknown parameter '{key}'", hint=f"here it is {meaning}" if meaning else did_you_mean(
            key, FIELDS, cutoff=0.75) or "see src/config.py for all of them")
    try:
        if not _kind_of(value) & _KINDS[key]:
            kinds = FIELDS[key].split(" | ")
            raise ConfigError(f"{value!r} has the wrong type", allowed=" or ".join(_KIND_NAMES[kind] for kind in kinds),
                              hint=f"in a job spec a list is an axis, and [[{value}]] one list" if isinstance(
                                  value, str) and "list[str]" in kinds else None)
        if isinstance(value, (int, float)):
            _check_size(value, "float" not in _KINDS[key], key in _MAY_BE_INFINITE)
            if key in _FLOAT32_FIELDS and abs(value) > _MAX_FLOAT32:
                raise ConfigError(f"{value!r} is too large for weights of 32 bits", allowed=f"up to {_MAX_FLOAT32}")
        if isinstance(value, dict):
            for item in value.values():
                if isinstance(item, (int, float)):
                    _check_size(item, is_whole=False, may_be_infinite=False)
        if key in _CHECKS:
            _CHECKS[key](value)
    except ConfigError as error:
        raise error.at(key) from None


def _check_size(value: float, is_whole: bool, may_be_infinite: bool) -> None:
    """Raise ConfigError for a number that is too large for its type, infinite or NaN."""
    text = repr(value) if abs(value) < 2**256 or isinstance(value, float) else f"2**{value.bit_length() - 1} or more"
    if is_whole and abs(value) >= 2**63:
        raise ConfigError(f"{text} is too large", allowed="less than 2**63")
    if abs(value) > sys.float_info.max and not (may_be_infinite and value == math.inf) or value != value:
        raise ConfigError(f"{text} is not a finite number", allowed="a finite number" + (
            ", or .inf" if may_be_infinite else ""))


@functools.lru_cache(maxsize=100_000)
def _check_scalar(key: str, value: object, kind: str) -> None:
    """Call `_check_value` once per value. kind: its type, as part of the cache key, since 1 == 1.0 == True."""
    _check_value(key, value)


def check_parameters(spec: Mapping[str, Any], where: str = "spec") -> None:
    """Raise ConfigError, at `where`, unless each parameter exists, has its type and an allowed value, and all agree.

    A value is checked once, so that a hundred thousand specs take little time.
    """
    try:
        for key, value in spec.items():
            if key in NOT_PARAMETERS:
                continue
            kind = type(value)
            if kind is list or kind is dict:
                _check_value(key, value)
            else:
                _check_scalar(key, value, kind.__name__)
        config_rules.check(spec, DEFAULTS)
    except ConfigError as error:
        _add_other_mistakes(error, spec)
        raise error.at(where) from None


def _add_other_mistakes(error: ConfigError, spec: Mapping[str, Any]) -> None:
    """Add further mistakes in single parameters of a spec to the hint of its first error."""
    others = []
    for key, value in spec.items():
        try:
            if key not in NOT_PARAMETERS:
                _check_value(key, value)
        except ConfigError as other:
            if str(other) != str(error):
                hint = f", {other.hint}" if other.hint else ""
                others.append(f"{f'{other.where}: ' if other.where else ''}{other.what}{hint}")
    if others:
        also = f"also wrong: {listed(others, 3, ' and ')}"
        error.hint = f"{error.hint}{' ' if error.hint.endswith('?') else '; '}{also}" if error.hint else also
