"""Which runs may be trained as one stack (docs/stacking.md): fields that may differ, and configs that run alone."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from src.checks.registered_names import is_user_code, parse_tiny

# fields that enter the arithmetic of a training as numbers; runs of a stack may differ in these alone
STACKABLE_FIELDS = frozenset((
    "base_lr", "momentum", "weight_decay", "weight_decay_biases", "ada_eps", "lr_schedule", "warmup_steps",
    "cooldown_steps", "averaging", "label_smoothing", "clip_grad_norm", "max_allowed_loss", "seed_model",
    "seed_training"))
_PRECISIONS = ("float32", "tf32")
_MODELS = ("linear", "linear/no_bias", "tiny/lenet")
_READ_PER_RUN = ("folder/", "timm/", "hf/")  # data sets whose samples each run reads and transforms by itself


def refusal(spec: Mapping[str, Any], defaults: Mapping[str, Any]) -> str | None:
    """Return the field that keeps a valid config out of stacks, with its value; None if it may be trained in one.

    What depends on the data, on the layers of a user's model or on the machine is checked when the runs start.
    """
    def get(key: str) -> Any:
        return spec.get(key, defaults[key])

    for key, is_refused in _REFUSED.items():
        if (value := get(key)) is not None and is_refused(value):
            return f"{key}: {value}"
    return None


def _may_stack(model: str) -> bool:
    if model in _MODELS or is_user_code(model):
        return True
    tiny = parse_tiny(model)
    return tiny is not None and not (tiny[0] == "wrn" and tiny[1][2] > 0)  # dropout masks differ between members


# field -> function that returns whether a run with this value is not trained in a stack
_REFUSED: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("task", "compile", "freeze", "unfreeze_epoch", "layer_decay", "log_steps"), lambda value: True),
    **dict.fromkeys(("grad_checkpointing", "channels_last", "profile", "data_on_device"), bool),
    "precision": lambda value: value not in _PRECISIONS,
    "optim_alg": lambda value: value.startswith("timm/"),
    "grad_accum_steps": lambda value: value > 1,
    "train_length": lambda value: value == 0,
    "targets": lambda value: value == "next_token",
    "loss": is_user_code,
    "model": lambda value: not _may_stack(value),
    "dataset": lambda value: value.startswith(_READ_PER_RUN),
}
