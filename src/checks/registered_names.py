"""What a config may name: data sets, models, losses, optimizers, schedules, averagings, read without torch."""
from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from src.errors import ConfigError, did_you_mean

SKLEARN_DATASETS = ("digits", "breast_cancer", "wine", "iris", "diabetes", "synthetic")
LOSSES = {"log": "log", "xentropy": "log", "mse": "mse", "square": "mse"}  # name -> what is computed
# losses of torch.nn by what their targets are
TORCH_LOSSES = {"CrossEntropyLoss": "classes", "NLLLoss": "classes", "MultiMarginLoss": "classes", "L1Loss": "numbers",
                "MSELoss": "numbers", "SmoothL1Loss": "numbers", "HuberLoss": "numbers", "PoissonNLLLoss": "numbers",
                "SoftMarginLoss": "numbers", "BCEWithLogitsLoss": "numbers"}
SHARES = ("log", "xentropy", "torch/CrossEntropyLoss")  # losses that take shares of classes
AUGMENTATIONS = ("crop_padding", "scale", "ratio", "hflip", "vflip", "color_jitter", "auto_augment", "random_erasing",
                 "aug_repeats")
OF_IMAGES = (*AUGMENTATIONS, "interpolation", "crop_pct")
INTERPOLATIONS = ("bilinear", "bicubic", "random")
TARGETS = ("classes", "numbers", "next_token")
PRECISIONS = ("float32", "tf32", "bf16", "fp16")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
METRICS = ("top1", "top5", "precision", "recall", "f1", "auroc", "calibration_error", "confusion_matrix", "pr_curve")
OPTIMIZERS = ("sgd", "adam", "adamw", "amsgrad", "amsgradw")
# of timm.optim, by its own names; a test sees that these are all
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
# the seven that CLIP's authors found to do best together on ImageNet (github.com/openai/CLIP, notebooks)
TEMPLATES = ("itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.",
             "a {} in a video game.", "art of the {}.", "a photo of the small {}.")
RESNET_DEPTHS = (18, 34, 50, 101, 152, 20, 32, 44, 56, 110)  # the ImageNet family, then the 6n+2 CIFAR family
VGG_DEPTHS = (11, 13, 16, 19)
OPTIONS_OF_OURS = {"resnet": ("width",), "vgg": ("width",)}  # what model_kwargs may name; nothing of the others
SHALLOW = ("linear", "linear/no_bias", "tiny/lenet")  # too few layers to compute some of them again

_DATASET_FAMILIES = ("libsvm/NAME", "sklearn/NAME", "timm/torch/NAME", "timm/tfds/NAME", "timm/hfds/NAME",
                     "timm/wds/NAME", "folder/PATH", "hf/NAME", "my_module:make_dataset")
_MODEL_FAMILIES = ("linear", "linear/no_bias", "tiny/lenet", "tiny/resnet_D", "tiny/vgg_D", "tiny/wrn_D_W[_drop]",
                   "timm/NAME", "torchvision/NAME", "clip/NAME", "hf/NAME", "my_module:make_model")
PUBLISHED = ("timm", "torchvision", "clip", "hf")  # families of models that have pretrained weights
_SCHEDULE_FORMS = ("constant", "linear", "poly", "poly_POWER", "step", "step_TIMES_FACTOR", "step_T1,T2,…_FACTOR",
                   "cosine", "cosine_CYCLES", "cosine_CYCLES_STRETCH", "onecycle", "onecycle_SHARE", "wsd", "wsd_SHARE")
_SCHEDULES = ("constant", "linear", "poly", "step", "cosine", "onecycle", "wsd")
_AVERAGING_FORMS = ("null", "poly", "poly_ETA", "ema", "ema_DECAY")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves. kind: constant, linear, poly, step, cosine, onecycle or wsd.

    power: exponent of poly; drops: number of evenly spaced drops, or milestones in the unit of train_length, each of
    which multiplies the rate by `factor`; cycles: of cosine, each `stretch` times as long as the one before; share: of
    the steps, those in which onecycle rises, or wsd falls.
    """

    kind: str
    power: float = 0.5
    drops: int = 0
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    cycles: int = 1
    stretch: float = 1.0
    share: float = 0.0


@dataclass(frozen=True)
class Averaging:
    """kind poly: weight (eta+1)/(eta+t) at step t, value = eta. kind ema: value = what is kept of the average."""

    kind: str
    value: float


def parse_schedule(text: str) -> Schedule:
    """The learning-rate schedule that `text` names. ConfigError if there is none."""
    kind, *args = text.split("_")
    try:
        if kind in ("constant", "linear") and not args:
            return Schedule(kind)
        if kind == "cosine" and len(args) <= 2:
            return Schedule(kind, cycles=_count(args[0]) if args else 1,
                            stretch=_positive(args[1]) if len(args) > 1 else 1.0)
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
    raise ConfigError(f"'{text}' is no learning-rate schedule", allowed=_SCHEDULE_FORMS,
                      hint=did_you_mean(kind, _SCHEDULES, suffix=text[len(kind):]))


def _step(where: str, factor: str) -> Schedule:
    if "," not in where:
        return Schedule("step", drops=_count(where), factor=_positive(factor))
    milestones = tuple(float(milestone) for milestone in where.split(",") if milestone)
    if not milestones or list(milestones) != sorted(set(milestones)) or milestones[0] <= 0:
        raise ValueError(where)
    return Schedule("step", milestones=milestones, factor=_positive(factor))


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


@dataclass(frozen=True)
class Interval:
    """So often: every `amount` of the unit min, epoch or step."""

    amount: float
    unit: str


def parse_interval(text: str | None) -> Interval | None:
    """How often `checkpoint_every` says. ConfigError if it says nothing of the kind."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(min|epoch|step)s?", text)
    if not match or not float(match[1]) or match[2] == "step" and not float(match[1]).is_integer():
        raise ConfigError(f"'{text}' is no interval", allowed="as 10min, 1epoch, 0.5epochs, 500steps, or null")
    return Interval(float(match[1]), match[2])


def parse_averaging(text: str | None) -> Averaging | None:
    """The averaging that `text` names: poly is poly_8, ema is ema_0.999. ConfigError if there is none."""
    if text is None:
        return None
    kind, *args = text.split("_")
    try:
        if kind == "poly" and len(args) <= 1:
            eta = float(args[0]) if args else 8.0
            if 0 <= eta < float("inf"):
                return Averaging("poly", eta)
        if kind == "ema" and len(args) <= 1:
            decay = float(args[0]) if args else 0.999
            if 0 <= decay < 1:
                return Averaging("ema", decay)
    except ValueError:
        pass
    raise ConfigError(f"'{text}' is no averaging", allowed=_AVERAGING_FORMS,
                      hint=did_you_mean(kind, ("poly", "ema"), suffix=text[len(kind):]))


def parse_momentum(value: float | str, optim_alg: str) -> tuple[float, ...]:
    """(momentum,) for sgd; (beta1, beta2) for the Adams, where a single number is beta1 and beta2 is 0.999; for timm's
    as many as are given, one to three."""
    parts = str(value).split(",")
    try:
        numbers = tuple(float(part) for part in parts)
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
    """ConfigError unless `name` is one of our optimizers, or timm/NAME, or timm/lookahead_NAME."""
    if name in OPTIMIZERS or name.startswith("timm/") and name[5:].removeprefix("lookahead_") in TIMM_OPTIMIZERS:
        return
    known = (*OPTIMIZERS, *(f"timm/{timms}" for timms in sorted(TIMM_OPTIMIZERS)))
    raise ConfigError(f"unknown optimizer '{name}'", allowed=(*OPTIMIZERS, "timm/NAME, as timm/lion"),
                      hint=did_you_mean(name, known))


def check_own(name: str | None) -> None:
    """ConfigError unless `name` is null or names something of one's own, as my_module:MyTask."""
    if name is not None:
        from src.checks import user_code  # looks for modules, which few specs need

        user_code.check(name)


def check_loss(name: str) -> None:
    """ConfigError unless `name` is a loss of ours or of torch, or may be one of one's own."""
    known = [*LOSSES, *(f"torch/{loss}" for loss in TORCH_LOSSES)]
    if ":" in name:
        check_own(name)
    elif name not in known:
        raise ConfigError(f"unknown loss '{name}'", allowed=(*known, "my_module:my_loss"),
                          hint=did_you_mean(name, known))


def check_metrics(names: list[str] | None) -> None:
    """ConfigError unless each is a metric of ours, topK, or may be one of one's own, and no two have one name."""
    for name in names or ():
        if ":" in name:
            check_own(name)
        elif name not in METRICS and not re.fullmatch(r"top[1-9]\d*", name):
            raise ConfigError(f"unknown metric '{name}'", allowed=(*METRICS, "topK", "my_module:my_metric"),
                              hint=did_you_mean(name, METRICS))
    called = [name.rpartition(":")[2] for name in names or ()]
    for name in called:
        if called.count(name) > 1 or name in ("loss", "accuracy", "mae", "r2", "time", "data_time"):
            raise ConfigError(f"two metrics would be called {name}", hint="name each once; accuracy, mae and r2 are "
                              "measured anyway")


def task_of(loss: str, targets: str | None = None) -> str:
    """classification, regression or next_token, by what the loss is for unless `targets` says it."""
    if targets == "next_token":
        return targets
    of_loss = TORCH_LOSSES.get(loss.removeprefix("torch/"), "numbers" if LOSSES.get(loss) == "mse" else "classes")
    return "regression" if (targets or of_loss) == "numbers" else "classification"


def check_range(value: list[float] | None) -> None:
    """ConfigError unless `value` is null or a range of positive numbers."""
    if value is not None and not (len(value) == 2 and 0 < value[0] <= value[1] < float("inf")):
        raise ConfigError(f"{value!r} is no range", allowed="two positive numbers, the smaller first, as [0.08, 1.0]")


def check_probability(value: float) -> None:
    """ConfigError unless `value` is from 0 to 1."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{value!r} is no probability", allowed="0 to 1, as 0.5")


def check_crop_pct(value: float | None) -> None:
    """ConfigError unless `value` is null or a share of a side."""
    if value is not None and not 0 < value <= 1:
        raise ConfigError(f"{value!r} is no share of an image's side", allowed="more than 0, up to 1, as 0.875")


def check_auto_augment(text: str | None) -> None:
    """ConfigError unless `text` begins as timm's policies do; timm reads the rest."""
    if text is not None and not re.match(r"(rand|augmix|original|originalr|v0|v0r|3a)(-|$)", text):
        raise ConfigError(f"unknown policy '{text}'",
                          allowed="rand-m9-mstd0.5, original, v0, augmix-m3-w3 and the like")


def check_templates(templates: list[str]) -> None:
    """ConfigError unless there are some, and each has {} in one place and no other braces."""
    wrong = [text for text in templates if text.count("{}") != 1 or set("{}") & set(text.replace("{}", ""))]
    if wrong or not templates:
        raise ConfigError(f"{wrong[0]!r} has no place for a name" if wrong else "there are none",
                          allowed="[[a photo of a {}.]] and the like: {} once in each")


def check_alpha(value: float) -> None:
    """ConfigError unless Beta(value, value) is a distribution, or `value` is 0."""
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{value!r} is no alpha of a Beta distribution", allowed="0 (off) or more, as 0.2")


def check_smoothing(value: float) -> None:
    """ConfigError unless `value` is a part of a label that leaves something of it."""
    if not 0 <= value < 1:
        raise ConfigError(f"{value!r} is no part of a label", allowed="0 to less than 1, as 0.1")


def check_dataset(name: str) -> None:
    """ConfigError unless `name` is of a known family (and, for sklearn, a known set), or may be one's own."""
    if ":" in name.partition("/")[0]:
        check_own(name)
        return
    family, _, rest = name.partition("/")
    if family == "hf" and (is_path(rest) or HUB_DATASET.fullmatch(rest)):
        return
    if family == "sklearn" and rest not in SKLEARN_DATASETS:
        raise ConfigError(f"unknown data set '{name}'", allowed=[f"sklearn/{known}" for known in SKLEARN_DATASETS],
                          hint=did_you_mean(rest, SKLEARN_DATASETS, prefix="sklearn/"))
    if family == "timm" and not re.match(r"(torch|tfds|hfds|wds)/.", rest) or family not in (
            "libsvm", "sklearn", "timm", "folder") or not rest:
        raise ConfigError(f"unknown family of data set in '{name}'", allowed=_DATASET_FAMILIES,
                          hint=did_you_mean(family, ("libsvm", "sklearn", "timm", "folder", "hf"), suffix=f"/{rest}")
                          if rest else None)


def check_model(name: str) -> None:
    """ConfigError unless `name` is a model of ours or of another family (whose own names only its library knows), or
    may be one's own."""
    if name in ("linear", "linear/no_bias", "tiny/lenet") or re.match(r"(timm|torchvision|clip)/.", name):
        return
    if ":" in name.partition("/")[0]:
        check_own(name)
        return
    if name.startswith("hf/") and (is_path(name[3:]) or HUB_MODEL.fullmatch(name[3:])):
        return
    if parse_tiny(name) is None:
        family = name.partition("/")[0]
        raise ConfigError(f"unknown model '{name}'", allowed=_MODEL_FAMILIES, hint=(
            None if family in ("linear", "tiny") or family == name else did_you_mean(
                family, PUBLISHED, suffix=name[len(family):])) or did_you_mean(name, (
                "linear", "linear/no_bias", "tiny/lenet", "tiny/resnet_18", "tiny/vgg_16", "tiny/wrn_28_10")))


HUB_MODEL = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")
HUB_DATASET = re.compile(HUB_MODEL.pattern + r"(?::[\w.-]+)?")
TEXT_FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".txt")


def is_path(name: str) -> bool:
    """Whether what stands behind hf/ is a file or folder here: it begins with ./, ../, /, ~ or $, or ends as a file
    of texts does. Everything else is a name of the hub."""
    return name.startswith(("./", "../", "/", "~", "$")) or name.endswith(TEXT_FILES)


def parse_tiny(name: str) -> tuple[str, tuple[float, ...]] | None:
    """('resnet', (18,)), ('vgg', (16,)) or ('wrn', (depth, width, drop)) for tiny/resnet_18 …; None for no such model.

    wrn depths are 6n+4 (Zagoruyko and Komodakis, 2016).
    """
    if match := re.fullmatch(r"tiny/(resnet|vgg)_(\d+)", name):
        kind, depth = match[1], int(match[2])
        return (kind, (depth,)) if depth in (RESNET_DEPTHS if kind == "resnet" else VGG_DEPTHS) else None
    if match := re.fullmatch(r"tiny/wrn_(\d+)_(\d+)(?:_(0?\.\d+|0))?", name):
        depth, width = int(match[1]), int(match[2])
        return ("wrn", (depth, width, float(match[3] or 0))) if depth >= 10 and depth % 6 == 4 and width else None
    return None


CLASS_LIST = re.compile(r"[\d\s,]+")


def split_of(text: str) -> tuple[str, str]:
    """The data set and the split of an entry of eval_datasets: libsvm/a9a@test, where test is what is meant without."""
    dataset, _, part = text.partition("@")
    return dataset, part or "test"


SPLITS = "a split of the source, or slices of one, as train, train[:80%], train[80%:], train[:1000], train[:10%]+test"
_BOUND = r"-?\d+(?:\.\d+)?%|-?\d+"
SLICE = re.compile(rf"\s*([A-Za-z0-9_.-]+)\s*(\[\s*({_BOUND})?\s*:\s*({_BOUND})?\s*\])?\s*")


@functools.lru_cache(maxsize=1000)
def check_split(text: str) -> None:
    """ConfigError unless `text` is a split expression: slices joined by +. The run sees whether they exist."""
    if not all(map(SLICE.fullmatch, text.split("+"))):
        raise ConfigError(f"{text!r} is no split", allowed=SPLITS)
