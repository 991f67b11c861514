"""Checkpoints: the model and its average in one file, written atomically and loaded without executing code."""
from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from src.config import Config
from src.io import files


def save(path: str, config: Config, row: dict[str, Any], model: nn.Module, averaged: nn.Module | None,
         judgement: Mapping[str, Any]) -> None:
    """Write {model, averaged, epoch, step, config, judgement}: two state dicts (the second None without averaging), two
    numbers, the parameters of the run, and the fields of a Judgement: which weights are the better ones, and why. A
    crash leaves the old file or the new one.
    """
    content = {"model": model.state_dict(), "averaged": averaged.state_dict() if averaged else None,
               "epoch": row["epoch"], "step": row["step"], "config": config.to_dict(), "judgement": dict(judgement)}
    packed = io.BytesIO()  # torch's own errors hide what is wrong with a file, such as a full disk
    torch.save(content, packed)
    with files.atomic_writer(path) as file:
        file.write(packed.getbuffer())


def load(path: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what `save` wrote, with its tensors on `device`."""
    return torch.load(path, map_location=device, weights_only=True)
