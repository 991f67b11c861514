"""Seeds: drawn if the config has none, kept by later attempts, and derived for each use of random numbers."""
from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from typing import Any

import torch

from src import run_folder
from src.config import Config
from src.io import files, records, yaml_io

SEED_FIELDS = ("seed_model", "seed_training")


def fill_seeds(config: Config, folder: str | None) -> tuple[Config, list[str]]:
    """Return the config with each null seed filled, and the names of the seeds that were null.

    The seeds of an earlier attempt are read from config.yaml in the run folder.
    """
    missing = [name for name in SEED_FIELDS if getattr(config, name) is None]
    path = os.path.join(folder, run_folder.CONFIG) if folder else ""
    earlier = yaml_io.load_flat(files.read_text(path) or "", path) if folder and missing else {}
    seeds: dict[str, Any] = {name: _earlier_or_new(earlier.get(name)) for name in missing}
    return config._replace(**seeds), missing


def _earlier_or_new(seed: object) -> int:
    return seed if isinstance(seed, int) and records.is_count(seed) else secrets.randbits(31)


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on all parts: the first bits of the BLAKE2b hash of their texts."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@contextlib.contextmanager
def preserve_generators(device: torch.device) -> Iterator[None]:
    """Restore the random generators of the CPU and of a CUDA device afterwards, whatever the body draws or seeds."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed PyTorch's global generators of the CPU and of the training device, from which layers draw."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would initialize other kinds of devices first
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
