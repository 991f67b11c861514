"""Facts: what a run finds out when it starts, beside its config: sizes, device, host, versions, threads, commit."""
from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src import run_folder
from src.config import Config, defaults_version
from src.datasets.data import Data
from src.errors import ConfigError
from src.image_models import is_pretrained, pretrained_images
from src.io import files, slurm_environment
from src.training.setup import summary
from src.training.setup.length import Length


def gather(config: Config, data: Data, model: nn.Module, length: Length, device: torch.device,
           seeds_drawn: list[str]) -> dict[str, Any]:
    """The facts of a run, as they stand in config.yaml and in the head of training.log."""
    operations = summary.flops(model, data.input_shape, device)
    return {
        "examples": {name: len(split) for name, split in data.splits.items()},
        "task": data.task,
        "classes": data.n_classes,
        "input_shape": list(data.input_shape),
        "output_dim": output_dim(config, data),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **({} if operations is None else {"flops": operations}),
        **pretrained_weights(config),
        "micro_batch_size": micro_batch_size(config),
        "steps_per_epoch": length.steps_per_epoch,
        "steps": length.total_steps,
        "epochs": length.epochs,
        **data.about,
        "seeds_drawn": seeds_drawn,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "slurm_job": slurm_environment.job_id(),
        **container(os.environ),
        "commit": commit(Path(__file__).parents[3]),
        "defaults": defaults_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def pretrained_weights(config: Config) -> dict[str, str]:
    """The pretrained weights of a model of images by their full name: what is meant without one may change."""
    known = pretrained_images(config.model) if is_pretrained(config) else None
    return {"weights": known.weights} if known else {}


def count_trainable(model: nn.Module) -> int:
    """How many numbers of the model are trained at present."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def container(environment: Mapping[str, str]) -> dict[str, str]:
    """The image that this process runs in, as Apptainer and Singularity both say it."""
    return {"container": environment["SINGULARITY_CONTAINER"]} if environment.get("SINGULARITY_CONTAINER") else {}


def allotted_threads() -> int | None:
    """How many threads this run may use: its share of a worker's CPUs, or what Slurm gave the task.

    None leaves it to torch, which obeys OMP_NUM_THREADS and else takes every core that it sees, also those of others.
    """
    if share := os.environ.get("GRIDIRON_THREADS"):
        return int(share)
    return None if "OMP_NUM_THREADS" in os.environ else slurm_environment.cpus_per_task()


def choose_device(name: str) -> torch.device:
    """The device that `name` means; auto is the first of cuda, mps and cpu that there is. ConfigError if it is not."""
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    if name == "auto":
        name = next(kind for kind, is_there in there.items() if is_there())
    device = torch.device(name)
    if not there[device.type]() or device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"there is no device '{name}' on {platform.node()}", where="device",
                          hint="set device: auto, or run where there is one")
    return device


def visible_gpus(name: str) -> int:
    """How many GPUs a run on the device `name` may share among processes; 0 where that is no CUDA, or one of them."""
    return torch.cuda.device_count() if name in ("auto", "cuda") else 0


def micro_batch_size(config: Config) -> int:
    """Samples in each of the grad_accum_steps parts of a step's batch."""
    return -(-config.batch_size // config.grad_accum_steps)


def output_dim(config: Config, data: Data) -> int:
    """How many numbers the model gives for a sample: one per class, or 1 in regression, unless the config says."""
    return config.model_output_dim or data.n_classes or 1


def commit(root: Path) -> str | None:
    """The commit that is checked out at `root`, read from git's own files (a subprocess would cost 5 ms a run); of a
    snapshot, the one that it was taken at."""
    if taken := files.read_text(root / run_folder.COMMIT):
        return taken.strip()
    git = root / ".git"
    if git.is_file():  # a worktree: the file names its folder
        git = root / (files.read_text(git) or "").partition("gitdir:")[2].strip()
    head = (files.read_text(git / "HEAD") or "").strip()
    ref = head.removeprefix("ref: ")
    if ref == head:  # detached: HEAD is the commit
        return head or None
    common = git / (files.read_text(git / "commondir") or "").strip()
    loose = (files.read_text(common / ref) or "").strip()
    packed = (files.read_text(common / "packed-refs") or "").splitlines()
    return loose or next((line.split()[0] for line in packed if line.endswith(f" {ref}")), None)
