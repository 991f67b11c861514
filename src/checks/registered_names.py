"""Names that a config may use: data sets, models, losses, optimizers, schedules, averages; checked without torch."""
from __future__ import annotations

import functools
import math
import re
from typing import NamedTuple

from src.errors import ConfigError, did_you_mean

SKLEARN_DATASETS = ("digits", "breast_cancer", "wine", "iris", "diabetes", "synthetic")
LOSSES = {"log": "log", "xentropy": "log", "mse": "mse", "square": "mse"}  # name -> loss that is computed
# losses of torch.nn, with the kind of their targets
TORCH_LOSSES = {"CrossEntropyLoss": "classes", "NLLLoss": "classes", "MultiMarginLoss": "classes", "L1Loss": "numbers",
                "MSELoss": "numbers", "SmoothL1Loss": "numbers", "HuberLoss": "numbers", "PoissonNLLLoss": "numbers",
                "SoftMarginLoss": "numbers", "BCEWithLogitsLoss": "numbers"}
SOFT_LABEL_LOSSES = ("log", "xentropy", "torch/CrossEntropyLoss")  # losses that accept class probabilities as targets
AUGMENTATIONS = ("crop_padding", "scale", "ratio", "hflip", "vflip", "color_jitter", "auto_augment", "random_erasing",
                 "aug_repeats")
IMAGE_OPTIONS = (*AUGMENTATIONS, "interpolation", "crop_pct")
INTERPOLATIONS = ("bilinear", "bicubic", "random")
GOALS = ("minimize", "maximize")
TARGETS = ("classes", "numbers", "next_token")
PRECISIONS = ("float32", "tf32", "bf16", "fp16")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
# metrics of every epoch, by kind of task
TRAINING_METRICS = {"classification": ("loss", "accuracy"), "regression": ("loss", "mae", "r2"),
                    "next_token": ("loss", "accuracy", "perplexity")}
METRICS = ("top1", "top5", "precision", "recall", "f1", "auroc", "calibration_error", "confusion_matrix", "pr_curve")
OPTIMIZERS = ("sgd", "adam", "adamw", "amsgrad", "amsgradw")
# optimizers of timm.optim; a test checks that the list is complete
TIMM_OPTIMIZERS = frozenset((
    "adabelief adadelta adafactor adafactorbv adafactorbvc adagrad adahessian adam adamax adamc adamp adamuon adamw "
    "adamwlegacy adan adanw adopt adoptc adoptw bnbadam bnbadam8bit bnbadamw bnbadamw8bit bnbademamix "
    "bnbademamix8bit bnblion bnblion8bit bnbsgd bnbsgd8bit cadafactor cadafactorbv cadafactorbvc cadamc cadamp "
    "cadamw cadan cadanw cadopt cadoptc cadoptw clamb clambw claprop clion clionc cmars cnadamc cnadamw crmsproptf "
    "csgdc csgdp csgdw fusedadam fusedadamw fusedlamb fusednovograd fusedsgd kron kronc kronw lamb lambc lambcd "
    "lambcw lambw laprop lapropc larc lars lion lionc madgrad madgradw mars momentum muon nadam nadamc nadamlegacy "
    "nadamuon nadamw nesterov nesterovw nlarc nlars nmuon novograd novogradc novogradw radabelief radam radamlegacy "
    "radamw rmsprop rmsproptf rmsproptfc rmsproptfw sgd sgdc sgdp sgdw"
).split())
TRAIN_LENGTH_UNITS = ("epoch", "step", "sample")
HEAD_INITS = ("zero", "rand", "zero_shot")
# the seven prompts that CLIP's authors selected on ImageNet (github.com/openai/CLIP, notebooks)
TEMPLATES = ("itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.",
             "a {} in a video game.", "art of the {}.", "a photo of the small {}.")
IMAGENET_DEPTHS = (18, 34, 50, 101, 152)  # of ResNets with four stages
RESNET_DEPTHS = (*IMAGENET_DEPTHS, 20, 32, 44, 56, 110)  # and with three: the CIFAR family, 6n+2
VGG_DEPTHS = (11, 13, 16, 19)
MODEL_OPTIONS = {"resnet": ("width",), "vgg": ("width",)}  # keys of model_kwargs for tiny/ models
SHALLOW_MODELS = ("linear", "linear/no_bias", "tiny/lenet")  # too few layers for gradient checkpointing

IMAGE_FAMILIES = ("timm", "folder")  # data sets of src/datasets/images.py
TIMM_KINDS = ("torch", "tfds", "hfds", "wds")  # timm/KIND/NAME: the library that timm reads it with
STREAMED_KINDS = ("tfds", "wds")  # of these, those whose samples can only be read in their own order
_DATASET_FAMILIES = ("libsvm/NAME", "sklearn/NAME", *(f"timm/{kind}/NAME" for kind in TIMM_KINDS), "folder/PATH",
                     "hf/NAME", "my_module:make_dataset")
_MODEL_FAMILIES = ("linear", "linear/no_bias", "tiny/lenet", "tiny/resnet_D", "tiny/vgg_D", "tiny/wrn_D_W[_drop]",
                   "timm/NAME", "torchvision/NAME", "clip/NAME", "hf/NAME", "my_module:make_model")
PRETRAINED_FAMILIES = ("timm", "torchvision", "clip", "hf")  # families with pretrained weights
_SCHEDULE_FORMS = ("constant", "linear", "poly", "poly_POWER", "step", "step_TIMES_FACTOR", "step_T1,T2,…_FACTOR",
                   "cosine", "cosine_CYCLES", "cosine_CYCLES_STRETCH", "onecycle", "onecycle_SHARE", "wsd", "wsd_SHARE")
_SCHEDULES = ("constant", "linear", "poly", "step", "cosine", "onecycle", "wsd")
_MAX_COUNT = 10_000  # cycles or drops of a schedule
_AVERAGING_FORMS = ("null", "poly", "poly_ETA", "ema", "ema_DECAY")


class Schedule(NamedTuple):
    """A learning-rate schedule.

    kind: constant, linear, poly, step, cosine, onecycle or wsd;
    power: exponent of poly;
    drops: number of evenly spaced drops of step, each of which multiplies the rate by `factor`;
    milestones: instead of drops, their positions in the unit of train_length;
    cycles: number of cycles of cosine, each `stretch` times as long as the previous one;
    share: fraction of the steps in which onecycle rises, or wsd falls.
    """

    kind: str
    power: float = 0.5
    drops: int = 0
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    cycles: int = 1
    stretch: float = 1.0
    share: float = 0.0


class Averaging(NamedTuple):
    """An average of the weights. kind poly: weight (eta+1)/(eta+t) at step t, value = eta; kind ema: value = decay."""

    kind: str
    value: float


def parse_number(text: str) -> float:
    """Return the number in a text. ValueError if it overflows, or is not 0 and would become 0."""
    value = float(text)
    if math.isinf(value) and "inf" not in text.lower() or value == 0 and re.search("[1-9]", text.lower().split("e")[0]):
        raise ValueError(text)
    return value


def parse_schedule(text: str) -> Schedule:
    """Parse lr_schedule. ConfigError if it is invalid."""
    kind, *args = text.split("_")
    try:
        if kind in ("constant", "linear") and not args:
            return Schedule(kind)
        if kind == "cosine" and len(args) <= 2:
            cycles, stretch = _count(args[0]) if args else 1, _positive(args[1]) if len(args) > 1 else 1.0
            _power(stretch, cycles)
            return Schedule(kind, cycles=cycles, stretch=stretch)
        if kind in ("onecycle", "wsd") and len(args) <= 1:
            return Schedule(kind, share=_share(args[0]) if args else 0.3 if kind == "onecycle" else 0.2)
        if kind == "poly" and len(args) <= 1:
            return Schedule(kind, power=_positive(args[0]) if args else 0.5)
        if kind == "step" and not args:
            return Schedule(kind, drops=3)
        if kind == "step" and len(args) == 2:
            return _step(*args)
    except ValueError:
        pass
    raise ConfigError(f"'{text}' is not a learning-rate schedule", allowed=_SCHEDULE_FORMS,
                      hint=did_you_mean(kind, _SCHEDULES, suffix=text[len(kind):]))


def _step(positions: str, factor: str) -> Schedule:
    if "," not in positions:
        _power(_positive(factor), _count(positions))
        return Schedule("step", drops=_count(positions), factor=_positive(factor))
    milestones = tuple(parse_number(milestone) for milestone in positions.split(",") if milestone)
    if not milestones or list(milestones) != sorted(set(milestones)) or not 0 < milestones[0] <= milestones[-1] < 1e18:
        raise ValueError(positions)
    _power(_positive(factor), len(milestones))
    return Schedule("step", milestones=milestones, factor=_positive(factor))


def _positive(text: str) -> float:
    value = parse_number(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _power(base: float, exponent: int) -> None:
    """ValueError if a power is too large for a number."""
    if exponent * math.log10(base) > 300:
        raise ValueError(base)


def _share(text: str) -> float:
    value = parse_number(text)
    if not 0 < value < 1:
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= _MAX_COUNT:
        raise ValueError(text)
    return value


class Interval(NamedTuple):
    """An interval: `amount` minutes, epochs or steps; unit: min, epoch or step."""

    amount: float
    unit: str


def parse_interval(text: str | None) -> Interval | None:
    """Parse checkpoint_every. ConfigError if it is not an interval."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(min|epoch|step)s?", text)
    if not match or not float(match[1]) or match[2] == "step" and not float(match[1]).is_integer():
        raise ConfigError(f"'{text}' is not an interval", allowed="e.g. 10min, 1epoch, 0.5epochs, 500steps, or null")
    return Interval(float(match[1]), match[2])


def parse_averaging(text: str | None) -> Averaging | None:
    """Parse averaging: poly means poly_8, ema means ema_0.999. ConfigError if it is invalid."""
    if text is None:
        return None
    kind, *args = text.split("_")
    try:
        if kind == "poly" and len(args) <= 1:
            eta = parse_number(args[0]) if args else 8.0
            if 0 <= eta < float("inf"):
                return Averaging("poly", eta)
        if kind == "ema" and len(args) <= 1:
            decay = parse_number(args[0]) if args else 0.999
            if 0 <= decay < 1:
                return Averaging("ema", decay)
    except ValueError:
        pass
    raise ConfigError(f"'{text}' is not an average", allowed=_AVERAGING_FORMS,
                      hint=did_you_mean(kind, ("poly", "ema"), suffix=text[len(kind):]))


def parse_momentum(value: float | str, optim_alg: str) -> tuple[float, ...]:
    """Parse momentum: (momentum,) for sgd; (beta1, beta2) for the Adams, beta2 0.999 unless given; one to three numbers
    for optimizers of timm. ConfigError if it does not fit the optimizer."""
    parts = str(value).split(",")
    try:
        numbers = tuple(parse_number(part) for part in parts)
    except ValueError:
        numbers = ()
    if optim_alg.startswith("timm/") and 1 <= len(numbers) <= 3 and all(0 <= number < 1 for number in numbers):
        return numbers
    wanted = 1 if optim_alg == "sgd" else 2
    if len(numbers) == 1 and wanted == 2:
        numbers += (0.999,)
    if len(numbers) != wanted or not all(0 <= number < 1 for number in numbers):
        form = "one number in [0, 1)" if wanted == 1 else "'beta1,beta2', each in [0, 1), or beta1 alone"
        raise ConfigError(f"momentum {value!r} does not fit optim_alg {optim_alg}", allowed=form)
    return numbers


def check_optimizer(name: str) -> None:
    """Raise ConfigError unless `name` is an optimizer: a built-in one, timm/NAME or timm/lookahead_NAME."""
    if name in OPTIMIZERS or name.startswith("timm/") and name[5:].removeprefix("lookahead_") in TIMM_OPTIMIZERS:
        return
    known = (*OPTIMIZERS, *(f"timm/{timm_name}" for timm_name in sorted(TIMM_OPTIMIZERS)))
    raise ConfigError(f"unknown optimizer '{name}'", allowed=(*OPTIMIZERS, "timm/NAME, e.g. timm/lion"),
                      hint=did_you_mean(name, known))


def is_user_code(name: str) -> bool:
    """Return whether `name` has the form module:name; in other names with a colon a slash is first: timm/hf-hub:…"""
    return ":" in name.partition("/")[0]


def check_user_code(name: str | None) -> None:
    """Raise ConfigError unless `name` is null or names user code, such as my_module:MyTask."""
    if name is not None:
        from src.checks import user_code  # searches for modules; few specs need it

        user_code.check(name)


def check_loss(name: str) -> None:
    """Raise ConfigError unless `name` is a loss: a built-in one, torch/NAME or user code."""
    known = [*LOSSES, *(f"torch/{loss}" for loss in TORCH_LOSSES)]
    if ":" in name:
        check_user_code(name)
    elif name not in known:
        raise ConfigError(f"unknown loss '{name}'", allowed=(*known, "my_module:my_loss"),
                          hint=did_you_mean(name, known))


def check_metrics(names: list[str] | None) -> None:
    """Raise ConfigError unless each name is a metric, topK or user code, and no two metrics have the same name."""
    for name in names or ():
        if ":" in name:
            check_user_code(name)
        elif name not in METRICS and not re.fullmatch(r"top[1-9]\d*", name):
            raise ConfigError(f"unknown metric '{name}'", allowed=(*METRICS, "topK", "my_module:my_metric"),
                              hint=did_you_mean(name, METRICS))
    columns = [name.rpartition(":")[2] for name in names or ()]
    for name in columns:
        if columns.count(name) > 1 or name in ("loss", "accuracy", "mae", "r2", "time", "data_time"):
            raise ConfigError(f"two metrics would have the name {name}",
                              hint="list each once; accuracy, mae and r2 are always measured")


def task_of(loss: str, targets: str | None = None) -> str:
    """Return classification, regression or next_token: as `targets` says, else as the loss implies."""
    if targets == "next_token":
        return targets
    return "regression" if (targets or implied_targets(loss)) == "numbers" else "classification"


def implied_targets(loss: str) -> str | None:
    """Return the targets that a loss takes, classes or numbers; None for user code."""
    if loss in LOSSES:
        return "numbers" if LOSSES[loss] == "mse" else "classes"
    return TORCH_LOSSES.get(loss.removeprefix("torch/"))


def check_auto_augment(text: str | None) -> None:
    """Raise ConfigError unless `text` starts like a policy of timm, which parses the rest."""
    if text is not None and not re.match(r"(rand|augmix|original|originalr|v0|v0r|3a)(-|$)", text):
        raise ConfigError(f"unknown policy '{text}'",
                          allowed="rand-m9-mstd0.5, original, v0, augmix-m3-w3 and the like")


def check_templates(templates: list[str]) -> None:
    """Raise ConfigError unless there is a template, and each has {} exactly once and no other braces."""
    wrong = [text for text in templates if text.count("{}") != 1 or set("{}") & set(text.replace("{}", ""))]
    if wrong or not templates:
        raise ConfigError(f"{wrong[0]!r} has no placeholder for the class name" if wrong else "the list is empty",
                          allowed="[[a photo of a {}.]] and the like: {} once in each")


def check_dataset(name: str) -> None:
    """Raise ConfigError unless `name` is a data set of a known family, or user code."""
    if is_user_code(name):
        check_user_code(name)
        return
    family, _, rest = name.partition("/")
    if family == "hf" and (is_path(rest) or HUB_DATASET.fullmatch(rest)):
        return
    if family == "sklearn" and rest not in SKLEARN_DATASETS:
        raise ConfigError(f"unknown data set '{name}'", allowed=[f"sklearn/{known}" for known in SKLEARN_DATASETS],
                          hint=did_you_mean(rest, SKLEARN_DATASETS, prefix="sklearn/"))
    if family == "timm" and not re.match(rf"({'|'.join(TIMM_KINDS)})/.", rest) or family not in (
            "libsvm", "sklearn", *IMAGE_FAMILIES) or not rest:
        raise ConfigError(f"unknown family of data set in '{name}'", allowed=_DATASET_FAMILIES,
                          hint=did_you_mean(family, ("libsvm", "sklearn", *IMAGE_FAMILIES, "hf"), suffix=f"/{rest}")
                          if rest else None)


def check_model(name: str) -> None:
    """Raise ConfigError unless `name` is a built-in model, a model of another family, or user code.

    Names inside a family such as timm are known only to its library and are not checked here.
    """
    if name in ("linear", "linear/no_bias", "tiny/lenet") or re.match(r"(timm|torchvision|clip)/.", name):
        return
    if is_user_code(name):
        check_user_code(name)
        return
    if name.startswith("hf/") and (is_path(name[3:]) or HUB_MODEL.fullmatch(name[3:])):
        return
    if parse_tiny(name) is None:
        family = name.partition("/")[0]
        raise ConfigError(f"unknown model '{name}'", allowed=_MODEL_FAMILIES, hint=(
            None if family in ("linear", "tiny") or family == name else did_you_mean(
                family, PRETRAINED_FAMILIES, suffix=name[len(family):])) or did_you_mean(name, (
                "linear", "linear/no_bias", "tiny/lenet", "tiny/resnet_18", "tiny/vgg_16", "tiny/wrn_28_10")))


HUB_MODEL = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")
HUB_DATASET = re.compile(HUB_MODEL.pattern + r"(?::[\w.-]+)?")
TEXT_FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".txt")


def is_path(name: str) -> bool:
    """Return whether the name after hf/ is a local path: it starts with ./, ../, /, ~ or $, or has the extension of a
    text file. Any other name is one of the Hugging Face hub."""
    return name.startswith(("./", "../", "/", "~", "$")) or name.endswith(TEXT_FILES)


def parse_tiny(name: str) -> tuple[str, tuple[float, ...]] | None:
    """Parse tiny/resnet_18 and so on: ('resnet', (18,)), ('vgg', (16,)) or ('wrn', (depth, width, drop)).

    None if there is no such model. wrn depths are 6n+4 (Zagoruyko and Komodakis, 2016).
    """
    if match := re.fullmatch(r"tiny/(resnet|vgg)_(\d+)", name):
        kind, depth = match[1], int(match[2])
        return (kind, (depth,)) if depth in (RESNET_DEPTHS if kind == "resnet" else VGG_DEPTHS) else None
    if match := re.fullmatch(r"tiny/wrn_(\d+)_(\d+)(?:_(0?\.\d+|0))?", name):
        depth, width = int(match[1]), int(match[2])
        return ("wrn", (depth, width, float(match[3] or 0))) if depth >= 10 and depth % 6 == 4 and width else None
    return None


CLASS_LIST = re.compile(r"[\d\s,]+")


def parse_eval_dataset(text: str) -> tuple[str, str]:
    """Split an entry of eval_datasets, such as libsvm/a9a@test, into data set and split; the default split is test."""
    dataset, _, part = text.partition("@")
    return dataset, part or "test"


SPLIT_FORMS = ("a split of the source, or slices of it, as train, train[:80%], train[80%:], train[:1000], "
               "train[:10%]+test")
_BOUND = r"-?\d+(?:\.\d+)?%|-?\d+"
SLICE = re.compile(rf"\s*([A-Za-z0-9_.-]+)\s*(\[\s*({_BOUND})?\s*:\s*({_BOUND})?\s*\])?\s*")


@functools.lru_cache(maxsize=1000)
def check_split(text: str) -> None:
    """Raise ConfigError unless `text` is a split expression: slices joined by +. The run checks that they exist."""
    if not all(map(SLICE.fullmatch, text.split("+"))):
        raise ConfigError(f"{text!r} is not a split", allowed=SPLIT_FORMS)
