"""Which runs may be trained as one stack (docs/stacking.md): fields that may differ, and configs that run alone."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from src.checks.registered_names import parse_tiny

# fields that enter the arithmetic of a training as numbers; runs of a stack may differ in these alone
STACKABLE_FIELDS = frozenset((
    "base_lr", "momentum", "weight_decay", "weight_decay_biases", "ada_eps", "lr_schedule", "warmup_steps",
    "cooldown_steps", "averaging", "label_smoothing", "clip_grad_norm", "max_allowed_loss", "seed_model",
    "seed_training"))
_PRECISIONS = ("float32", "tf32")
_MODELS = ("linear", "linear/no_bias", "tiny/lenet")
_READ_PER_RUN = ("folder/", "timm/", "hf/")  # data sets whose samples each run reads and transforms by itself


def refusal(spec: Mapping[str, Any], defaults: Mapping[str, Any]) -> str | None:
    """Return why a valid config is not trained in a stack, in a few words; None if it may be.

    What depends on the data, the layers of a user's model or the machine is not seen here.
    """
    def get(key: str) -> Any:
        return spec.get(key, defaults[key])

    for key, reason in _REASONS.items():
        if (value := get(key)) is not None and reason(value):
            return f"{key}: {value}"
    return None


def _is_user_code(name: str) -> bool:
    return ":" in name.partition("/")[0]


def _may_stack(model: str) -> bool:
    if model in _MODELS or _is_user_code(model):
        return True
    tiny = parse_tiny(model)
    return tiny is not None and not (tiny[0] == "wrn" and tiny[1][2] > 0)  # dropout masks differ between members


# fields with values that are not trained in a stack: a function that returns whether a value is one of them
_REASONS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("task", "compile", "freeze", "unfreeze_epoch", "layer_decay", "log_steps"), lambda value: True),
    **dict.fromkeys(("grad_checkpointing", "channels_last", "profile", "data_on_device"), bool),
    "precision": lambda value: value not in _PRECISIONS,
    "optim_alg": lambda value: value.startswith("timm/"),
    "grad_accum_steps": lambda value: value > 1,
    "train_length": lambda value: value == 0,
    "targets": lambda value: value == "next_token",
    "loss": _is_user_code,
    "model": lambda value: not _may_stack(value),
    "dataset": lambda value: value.startswith(_READ_PER_RUN),
}
