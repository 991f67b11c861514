"""Seeds: drawn where none is given, kept by a later attempt, and mixed so that every use has a stream of its own."""
from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import secrets
from collections.abc import Iterator
from typing import Any

import torch

from src import run_folder
from src.config import Config
from src.io import files, yaml_io

SEED_FIELDS = ("seed_model", "seed_training")


def fill_seeds(config: Config, folder: str | None) -> tuple[Config, list[str]]:
    """The config with every null seed filled, and the names of those that were filled.

    An earlier attempt of the run left its seeds in the folder's config.yaml: they are used again.
    """
    missing = [name for name in SEED_FIELDS if getattr(config, name) is None]
    path = os.path.join(folder, run_folder.CONFIG) if folder else ""
    earlier = yaml_io.load_flat(files.read_text(path) or "", path) if folder and missing else {}
    seeds: dict[str, Any] = {name: _earlier_or_new(earlier.get(name)) for name in missing}
    return dataclasses.replace(config, **seeds), missing


def _earlier_or_new(seed: object) -> int:
    return seed if isinstance(seed, int) else secrets.randbits(31)


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all parts: the first bits of the BLAKE2b hash of their texts."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@contextlib.contextmanager
def preserve_generators(device: torch.device) -> Iterator[None]:
    """Whatever the body draws or seeds, layers on the CPU or a CUDA device go on to draw as if it had not."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed what layers draw from: PyTorch's global generators of the CPU and of the training device."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed looks for every other kind of device first
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
