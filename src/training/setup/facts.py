"""Facts about a run that are known when it starts, besides its config: sizes, device, host, versions, commit."""
from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.code.code_state import commit
from src.config import Config, defaults_version
from src.datasets.data import Data
from src.errors import ConfigError
from src.io import slurm_environment
from src.pretrained.image_models import is_pretrained, pretrained_images
from src.training.setup import summary
from src.training.setup.length import Length


def gather(config: Config, data: Data, model: nn.Module, length: Length, device: torch.device,
           seeds_drawn: list[str]) -> dict[str, Any]:
    """Return the facts of a run, as they are written to config.yaml and to the head of training.log."""
    flops = summary.flops(model, data.input_shape, device)
    return {
        "examples": {name: len(split) for name, split in data.splits.items()},
        "task": data.task,
        "classes": data.n_classes,
        "input_shape": list(data.input_shape),
        "output_dim": output_dim(config, data),
        "parameters": summary.count_parameters(model),
        **({} if flops is None else {"flops": flops}),
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
    """Return the full name of an image model's pretrained weights, since the default of a model may change."""
    image_model = pretrained_images(config.model) if is_pretrained(config) else None
    return {"weights": image_model.weights} if image_model else {}


def container(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the container image of this process; Apptainer and Singularity use the same variable."""
    return {"container": environment["SINGULARITY_CONTAINER"]} if environment.get("SINGULARITY_CONTAINER") else {}


def allotted_threads() -> int | None:
    """Return the number of threads for this run: its share of a worker's CPUs, or the CPUs of the Slurm task.

    None leaves it to torch, which uses OMP_NUM_THREADS, or else every core that it sees, even those of other jobs.
    """
    if threads := os.environ.get("GRIDIRON_THREADS"):
        return int(threads)
    return None if "OMP_NUM_THREADS" in os.environ else slurm_environment.cpus_per_task()


def choose_device(name: str) -> torch.device:
    """Return the device of that name; auto is the first available of cuda, mps, cpu. ConfigError if it is missing."""
    is_available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    if name == "auto":
        name = next(kind for kind, check in is_available.items() if check())
    device = torch.device(name)
    if not is_available[device.type]() or device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"no device '{name}' on {platform.node()}", where="device",
                          hint="set device: auto, or run on a machine with this device")
    return device


def visible_gpus(name: str) -> int:
    """Return the number of GPUs that may each get a process; 0 unless the device is auto or cuda."""
    return torch.cuda.device_count() if name in ("auto", "cuda") else 0


def micro_batch_size(config: Config) -> int:
    """Return the number of samples in each of the grad_accum_steps parts of a batch."""
    return -(-config.batch_size // config.grad_accum_steps)


def evaluation_batch_size(config: Config) -> int:
    """Return the number of samples in an evaluation batch."""
    return config.eval_batch_size or config.batch_size


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which sums over many batches are computed: float64, which mps does not have."""
    return torch.float32 if device.type == "mps" else torch.float64


def output_dim(config: Config, data: Data) -> int:
    """Return the number of model outputs per sample: that of the config, or one per class, or 1 for regression."""
    return config.model_output_dim or data.n_classes or 1
