"""Config: every parameter of a run with its default, checked strictly; an unknown name is answered with the nearest."""
from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from src import choices, combinations
from src.errors import ConfigError, did_you_mean

# Grammar and bookkeeping that spec.yaml keeps beside the parameters; facts are the last key of config.yaml.
NOT_PARAMETERS = frozenset(("SBATCH", "SCRIPT", "TAGS", "SUBTESTS", "WORKERS", "COMMAND", "facts"))
scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Config:
    """All parameters of a run. A default never changes once released: tests/golden/config_defaults.yaml locks them."""

    # what is logged and kept
    log_interval: float = 10  # seconds between progress lines within a training epoch; 0: none
    log_interval_eval: float | None = None  # the same within an evaluation; null: as log_interval
    checkpoint_every: str | None = "10min"  # how often to save what a later start goes on from: 10min, 1epoch, 500steps
    checkpoints_kept: int = 2  # of these
    max_requeues: int = 100  # so often one submission of a run is started again because its time was up
    save_freq: int = 0  # a checkpoint of the model every so many epochs; 0: none
    save_best_checkpoint: bool = False
    best_checkpoint_metric: str = "test/.*/accuracy"  # pattern of stats columns; early stopping uses it too
    output_dir: str | None = None  # the run folder; null writes nothing
    log_to_stdout: bool = False  # training.log on stdout too
    # where it runs
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    multi_gpu: bool = True  # all GPUs that train.py sees, or that srun or torchrun start a process for; false: one
    sync_batch_norm: bool = True  # with several processes: statistics of the whole batch, and not of a process's part
    num_workers: int = 2  # loader processes of data sets that are not in memory
    # when it ends early
    eval_batch_size: int | None = None  # null: batch_size
    max_allowed_loss: float = 1e6  # a larger training loss, or NaN, ends the run as diverged
    early_stopping_patience: int | None = None  # epochs without a better best_checkpoint_metric; null: never
    # randomness; a null seed is drawn and recorded
    seed_model: int | None = None
    seed_training: int | None = None
    seed_split: int = 0  # of the permutation behind splits such as train[:80%]
    # data
    dataset: str = "libsvm/a9a"
    data_dir: str = "data"
    data_download: bool = True
    data_splits_map: dict[str, str] = field(default_factory=lambda: {"train": "train", "test": "test"})
    eval_datasets: dict[str, str] | None = None  # further ones: name -> data set[@split], as libsvm/a9a@test
    eval_class_maps: dict[str, str] | None = None  # of these, name -> '3, 0, 7' or a file: the training class of each
    eval_at_end: list[str] | None = None  # splits that are evaluated once, after training
    eval_models: list[str] | None = None  # of last and av; null: both, where there is an average
    metrics: list[str] | None = None  # of evaluations, as [top5, f1, auroc, my_module:my_metric]
    # images, and what training does to them at random
    data_on_device: bool = False  # they live on the training device, as bytes
    crop_padding: int | None = None  # takes a window of the image's size, of it with so many black pixels around
    scale: list[float] | None = None  # takes a part with a share of the area from this range, as [0.08, 1.0], resized
    ratio: list[float] | None = None  # its width / height comes from this range; null: [0.75, 1.3333]
    hflip: float = 0.0  # the probability that left and right change places
    vflip: float = 0.0  # likewise top and bottom
    interpolation: str | None = None  # of what is resized: bilinear (null), bicubic, or random (in training, either)
    crop_pct: float | None = None  # evaluation resizes images to their size / crop_pct and takes the centre; null: 1
    color_jitter: float | None = None  # brightness, contrast and saturation change by up to this share
    auto_augment: str | None = None  # as timm writes them: rand-m9-mstd0.5 (RandAugment), original, augmix-m3-w3
    random_erasing: float = 0.0  # the probability that a box of noise covers a part
    aug_repeats: int | None = None  # each image comes so many times in a batch, each with noise of its own
    # texts; the model and the data set are named hf/…
    tokenizer: str | None = None  # a name of the hub, or a folder, as ./tokenizer; null: the model's
    max_length: int = 512  # tokens of a text, of which the rest is cut; fewer where the model takes fewer
    text_column: str | None = None  # or two, as 'premise,hypothesis'; null: as such columns are usually called
    label_column: str | None = None  # likewise
    group_by_length: bool = False  # training batches of texts of like lengths, which need less padding
    # mixing of training batches; evaluations see neither
    mixup: float = 0.0  # alpha: samples are blended in pairs, by lam from Beta(alpha, alpha); 0: not
    cutmix: float = 0.0  # alpha: a box of each image comes from its partner; with mixup, each for half of the batches
    label_smoothing: float = 0.0  # the part of a label that goes to all classes alike, in training
    # model
    model: str = "linear/no_bias"
    model_kwargs: dict[str, scalar] | None = None  # further options of the model, as {drop_path_rate: 0.1}
    model_pretrained: bool = False
    model_head_init: str | None = None  # null (as the model has it), zero, rand, or of clip/… zero_shot
    class_names: str | list[str] | None = None  # for zero_shot, or a file of them, one in a line; null: the data set's
    zero_shot_templates: list[str] = field(default_factory=lambda: list(choices.TEMPLATES))  # {} is a class's name
    model_output_dim: int | None = None  # null: the number of classes, or 1
    model_input_shape: list[int] | None = None  # null: that of a sample
    # training
    task: str | None = None  # my_module:MyTask, steps and optimizers of one's own; null: a loss of output and targets
    loss: str = "log"  # log = xentropy; mse = square; torch/L1Loss; my_module:my_loss
    targets: str | None = None  # classes, numbers or next_token; null: what the loss is for (one's own: classes)
    batch_size: int = 100  # samples per optimizer step
    train_length: int = 100  # 0: evaluate only
    train_length_unit: str = "epoch"  # epoch, step or sample (samples round up to steps)
    steps_per_epoch: int | None = None  # null: an epoch is a pass over the data
    samples_per_epoch: int | None = None
    grad_accum_steps: int = 1  # micro-batches per step
    # optimization
    optim_alg: str = "sgd"  # sgd, adam, adamw, amsgrad, amsgradw, or one of timm.optim, as timm/lion
    optim_kwargs: dict[str, scalar] | None = None  # further options of a timm optimizer, as {caution: true}
    lr_schedule: str = "constant"
    base_lr: float = 1.0
    weight_decay: float = 0.0
    weight_decay_biases: float = 0.0
    momentum: float | str = 0.9  # sgd (Nesterov where > 0); 'beta1,beta2' for the Adams
    ada_eps: float = 1e-8
    warmup_steps: int = 0
    cooldown_steps: int = 0  # the last steps, in which the rate goes down a line to zero
    layer_decay: float | None = None  # the rate of each layer is so much that of the next one; null: all alike
    clip_grad_norm: float | None = None  # the most that the norm of all gradients may be; adds train/grad_norm
    clip_grad_value: float | None = None  # the most that a gradient may be
    freeze: str | None = None  # backbone: train the head alone
    unfreeze_epoch: int | None = None  # the epoch from which all is trained; null: never
    unfreeze_lr: float | None = None  # base_lr from then on; null: the same
    averaging: str | None = None
    recompute_batch_norm: bool = False  # of the averaged model, over train, before it is evaluated; else as the model's
    # speed
    precision: str = "float32"  # float32, tf32, bf16, fp16 (with a scaled loss); weights stay float32
    grad_checkpointing: bool = False  # keep less for the backward pass, and compute it again there: memory for time
    channels_last: bool = False  # images in the memory order that tensor cores like
    compile: str | None = None  # by torch.compile: default, reduce-overhead or max-autotune
    # looking inside
    limit_train_batches: int | float | None = None  # of an epoch: 10 are ten batches, 0.1 is a tenth; null: all
    limit_eval_batches: int | float | None = None  # of each evaluation, likewise
    fast_dev_run: bool = False  # one batch of everything, to see that it runs
    overfit_batches: int | None = None  # train on so many batches of train, the same in each pass; null: on all
    profile: bool = False  # profile.txt, where the time goes, and a trace of some steps
    # how busy the machine is
    system_metrics: float | None = None  # seconds between samples, as 5, for system.csv and stats.csv; null: none
    # trackers, beside the files
    tensorboard: bool = False
    mlflow: bool = False
    mlflow_tracking_uri: str | None = None  # of a server; null: $MLFLOW_TRACKING_URI; keys do not belong here
    mlflow_experiment: str | None = None  # null: the job's name
    comet: bool = False  # online with $COMET_API_KEY, else an archive
    comet_project: str | None = None
    comet_workspace: str | None = None
    # Weights & Biases
    wandb: bool = False
    wandb_entity: str | None = None
    wandb_project_name: str | None = None
    wandb_run_name: str | None = None
    wandb_tags: list[str] | None = None

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any], where: str = "spec") -> Config:
        """The config of a spec: defaults filled in, numbers in their declared type. ConfigError names what is wrong.

        Keys in NOT_PARAMETERS are dropped.
        """
        check_parameters(spec, where)
        return cls(**{key: _convert(key, value) for key, value in spec.items() if key not in NOT_PARAMETERS})

    def to_dict(self) -> dict[str, Any]:
        """The parameters by name, in the order in which they are declared."""
        return {name: getattr(self, name) for name in FIELDS}


@functools.cache
def defaults_version() -> str:
    """A short name of all defaults together: another one if any default is another."""
    import hashlib  # only runs and their readers ask
    import json

    return hashlib.sha256(json.dumps(_DEFAULTS).encode()).hexdigest()[:12]


FIELDS: dict[str, dataclasses.Field[Any]] = {item.name: item for item in dataclasses.fields(Config)}
# those that only say how runs are watched
WATCHING = tuple(key for key in FIELDS if key.split("_")[0] in ("wandb", "mlflow", "tensorboard", "comet", "system"))
_DEFAULTS = Config().to_dict()
# the declared types of a field, as words: {"int", "None"}
_KINDS = {name: frozenset(str(item.type).split(" | ")) for name, item in FIELDS.items()}
_KIND_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a string",
               "None": "null", "dict[str, str]": "a mapping of strings", "list[str]": "a list of strings",
               "list[int]": "a list of whole numbers", "list[float]": "a list of numbers",
               "dict[str, scalar]": "a mapping of names to numbers, strings, true, false, null, or lists of them"}


def _kind_of(value: object) -> frozenset[str]:
    """The declared types that `value` may stand for."""
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


def _convert(key: str, value: Any) -> Any:
    """A number in the type its field declares: 1e5 -> 100000 for an int, 1 -> 1.0 for a float."""
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


def _check_pattern(value: str) -> None:
    try:
        re.compile(value)
    except re.error as error:
        raise ConfigError(f"{value!r} is no regular expression: {error}", hint="try 'val/.*/accuracy'") from None


def _check_device(value: str) -> None:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ConfigError(f"unknown device {value!r}", allowed="auto, cpu, cuda, cuda:1, mps")


def _check_address(value: str | None) -> None:
    if value and re.search(r"://[^/@\s]*@", value):
        raise ConfigError("this address has a name or a password in it, and would be kept with the results", hint=(
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"))


def _check_limit(value: float | None) -> None:
    if value is not None and not (value >= 1 if isinstance(value, int) else 0 < value <= 1):
        raise ConfigError(f"{value!r} is no number of batches", allowed="1, 2, … batches, or a share from 0.001 to 1.0")


def _check_models(value: list[str] | None) -> None:
    if value is not None and (not value or not set(value) <= {"last", "av"}):
        raise ConfigError(f"{value!r} is no choice of models", allowed="[last], [av], [last, av] or null")


def _check_shape(value: list[int] | None) -> None:
    if value is not None and (not value or min(value) < 1):
        raise ConfigError(f"{value!r} is no shape", allowed="a list of positive sizes, as [3, 32, 32]")


_CHECKS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("batch_size", "eval_batch_size", "steps_per_epoch", "samples_per_epoch", "grad_accum_steps",
                     "early_stopping_patience", "checkpoints_kept", "model_output_dim",
                     "overfit_batches", "unfreeze_epoch", "max_length", "aug_repeats"), _at_least(1)),
    **dict.fromkeys(("log_interval", "log_interval_eval", "save_freq", "num_workers", "train_length", "base_lr",
                     "weight_decay", "weight_decay_biases", "ada_eps", "warmup_steps", "cooldown_steps", "seed_model",
                     "seed_training", "seed_split", "max_allowed_loss", "crop_padding", "max_requeues"), _at_least(0)),
    **dict.fromkeys(("scale", "ratio"), choices.check_range),
    "interpolation": _one_of(choices.INTERPOLATIONS),
    "crop_pct": choices.check_crop_pct,
    **dict.fromkeys(("hflip", "vflip", "random_erasing"), choices.check_probability),
    "color_jitter": _above_zero,
    "auto_augment": choices.check_auto_augment,
    **dict.fromkeys(("mixup", "cutmix"), choices.check_alpha),
    "label_smoothing": choices.check_smoothing,
    "best_checkpoint_metric": _check_pattern,
    "checkpoint_every": choices.parse_interval,
    "device": _check_device,
    "mlflow_tracking_uri": _check_address,
    "dataset": choices.check_dataset,
    "model": choices.check_model,
    "model_head_init": _one_of(choices.HEAD_INITS),
    "zero_shot_templates": choices.check_templates,
    "model_input_shape": _check_shape,
    "loss": choices.check_loss,
    "targets": _one_of(choices.TARGETS),
    "task": choices.check_own,
    "precision": _one_of(choices.PRECISIONS),
    "compile": _one_of(choices.COMPILE_MODES),
    "eval_models": _check_models,
    **dict.fromkeys(("limit_train_batches", "limit_eval_batches"), _check_limit),
    "metrics": choices.check_metrics,
    "train_length_unit": _one_of(choices.TRAIN_LENGTH_UNITS),
    "optim_alg": choices.check_optimizer,
    "freeze": _one_of(("backbone",)),
    **dict.fromkeys(("layer_decay", "clip_grad_norm", "clip_grad_value", "unfreeze_lr", "system_metrics"), _above_zero),
    "lr_schedule": choices.parse_schedule,
    "averaging": choices.parse_averaging,
}


def _check_value(key: str, value: Any) -> None:
    if key not in FIELDS:
        raise ConfigError(f"unknown parameter '{key}'", hint=did_you_mean(key, FIELDS)
                          or "see src/config.py for all of them")
    try:
        if not _kind_of(value) & _KINDS[key]:
            kinds = str(FIELDS[key].type).split(" | ")
            raise ConfigError(f"{value!r} has the wrong type", allowed=" or ".join(_KIND_NAMES[kind] for kind in kinds),
                              hint=f"in a job spec a list is an axis, and [[{value}]] one list" if isinstance(
                                  value, str) and "list[str]" in kinds else None)
        if isinstance(value, (int, float)) and "float" not in _KINDS[key] and abs(value) >= 2**63:
            raise ConfigError(f"{value!r} is too large", allowed="less than 2**63")
        if key in _CHECKS:
            _CHECKS[key](value)
    except ConfigError as error:
        raise error.at(key) from None


@functools.lru_cache(maxsize=100_000)
def _check_scalar(key: str, value: object, kind: str) -> None:
    """`_check_value`, once for each value. kind, its type, tells 1 from 1.0 and true, which are equal."""
    _check_value(key, value)


def check_parameters(spec: Mapping[str, Any], where: str = "spec") -> None:
    """ConfigError, led by `where`, unless every parameter is known, of its type and allowed, alone and together.

    Cheap enough for a hundred thousand specs: a value that was checked once is not checked again.
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
        combinations.check(spec, _DEFAULTS)
    except ConfigError as error:
        raise error.at(where) from None
