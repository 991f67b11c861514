"""Checkpoints: the model and its average in one file, written atomically and loaded without executing code."""
from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from src.archive import run_files
from src.config import Config
from src.errors import BatchError, summarize
from src.io import files, records


def save(path: str, config: Config, row: dict[str, Any], model: nn.Module, averaged: nn.Module | None,
         judgement: Mapping[str, Any]) -> None:
    """Write {model, averaged, epoch, step, config, judgement}: two state dicts (the second None without averaging), two
    numbers, the parameters of the run, and the fields of a Judgement: which weights are the better ones, and why. A
    crash leaves the old file or the new one.
    """
    content = {"model": _own_tensors(model), "averaged": _own_tensors(averaged) if averaged else None,
               "epoch": row["epoch"], "step": row["step"], "config": config.to_dict(), "judgement": dict(judgement)}
    packed = io.BytesIO()  # torch's own errors hide what is wrong with a file, such as a full disk
    torch.save(content, packed)
    with files.atomic_writer(path) as file:
        file.write(packed.getbuffer())


def _own_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict. Views of larger tensors are copied, since torch.save would write all of these."""
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.untyped_storage().nbytes() > tensor.nbytes:
            state[name] = tensor.clone(memory_format=torch.contiguous_format)
    return state


# what torch raises for damaged files
DAMAGE = (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError)


def load(path: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what `save` wrote, with its tensors on `device`. BatchError if the file is damaged or no checkpoint.

    path: directly in a run folder, or where an archived run had it.
    """
    try:
        with run_files.open_binary(*os.path.split(path)) as file:
            content = torch.load(file, map_location=device, weights_only=True)
    except DAMAGE as error:
        raise BatchError(f"not a checkpoint: {summarize(error)}", where=path) from error
    if not isinstance(content, dict) or not content.keys() >= _FORMS.keys():
        raise BatchError("not a checkpoint: it lacks the model, its average, the epoch or the config", where=path)
    if wrong := [name for name, has_form in _FORMS.items() if not has_form(content[name])]:
        raise BatchError(f"not a checkpoint: its {wrong[0]} has another form", where=path)
    return content


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


_FORMS: records.Forms = {"model": _is_state_dict, "averaged": records.optional(_is_state_dict),
                         "epoch": records.is_count, "config": records.is_mapping}
