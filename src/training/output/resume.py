"""What a training saves at a step boundary, so that another start goes on as if nothing had been."""
from __future__ import annotations

import hashlib
import io
import math
import os
import pickle
import platform
import random
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import torch

from src import run_folder
from src.checks.registered_names import Interval
from src.config import WATCHING, Config
from src.errors import BatchError
from src.io import files
from src.training.parallel.distributed import CONTINUE, EXIT, SAVE, SINGLE_PROCESS, SingleProcess

State = dict[str, Any]  # tensors, numbers, strings, and lists, tuples and mappings of them

_MAGIC = b"gridiron training state 1 "  # then the hash of all that follows the line
# what may change between two starts: it is about where a run is and what it says, not about its numbers
_FREE = frozenset(("log_interval", "log_interval_eval", "save_freq", "output_dir", "log_to_stdout", "num_workers",
                   "data_dir", "data_download", "checkpoint_every", "checkpoints_kept", "max_requeues", "profile",
                   *WATCHING)) - {"system_metrics"}  # which has columns in stats.csv


class SavedAndExit(Exception):
    """The training saved itself, since it was asked to, and stops here."""


@dataclass
class ResumeSaver:
    """Writes the state of a training into its folder, when it is due and when somebody asks for it.

    The loop asks at the boundary of each step whether it is `wanted`, and calls `save` then. state: gives all of it
    after so many steps; check: raises if a later attempt has taken over. folder None: never due. group: the processes
    that train together; all of them call the same methods, the clock of the first counts, and it writes.
    A state is copied at once and written beside the training; an error of the write is raised by the next `save`.
    """

    folder: str | None
    interval: Interval | None
    keep: int
    steps_per_epoch: int
    state: Callable[[int], State]
    check: Callable[[], None]
    group: SingleProcess = SINGLE_PROCESS
    step: int = 0  # the steps taken, wherever the loop is not
    due: float = field(default=math.inf, init=False)  # by perf_counter
    due_step: int = field(default=0, init=False)
    exit_requested: bool = field(default=False, init=False)  # this process was told to leave
    is_exiting: bool = field(default=False, init=False)  # and all leave
    _writer: threading.Thread | None = field(default=None, init=False)
    _error: BaseException | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._plan()

    def request_exit(self) -> None:
        """Be wanted at once, save, and raise SavedAndExit. A signal handler calls it."""
        self.exit_requested = True

    def is_due(self, now: float, step: int) -> bool:
        """Whether the state after `step` steps is to be saved, at a time by perf_counter."""
        asked = self.group.agree_on(EXIT if self.exit_requested else SAVE if now >= self.due else CONTINUE)
        self.is_exiting = asked == EXIT
        return asked > CONTINUE or step >= self.due_step

    def should_exit(self) -> bool:
        """The same where a state is saved only if the training is to stop."""
        self.is_exiting = self.group.agree_on(EXIT if self.exit_requested else CONTINUE) == EXIT
        return self.is_exiting

    def save(self, step: int) -> None:
        """Save the state after `step` steps. SavedAndExit if the training is to stop; OSError if the disk is full."""
        self._wait()
        if self.folder is not None:
            self.check()
            self.step = step
            content = self.state(step)
            self._plan()
        if self.folder is not None and self.group.is_first:
            content = _on_cpu(content)
            self._writer = threading.Thread(target=self._write, args=(self.folder, step, content))
            self._writer.start()
        if self.is_exiting:
            self._wait()
            raise SavedAndExit

    def close(self) -> None:
        """Wait for what is being written."""
        self._wait()

    def _plan(self) -> None:
        """When the next state is due."""
        self.due, self.due_step = math.inf, 1 << 62
        if self.folder is None or self.interval is None:
            return
        if self.interval.unit == "min":
            self.due = perf_counter() + 60 * self.interval.amount if self.group.is_first else math.inf
        else:
            steps = self.interval.amount * (self.steps_per_epoch if self.interval.unit == "epoch" else 1)
            self.due_step = self.step + max(1, round(steps))

    def _write(self, folder: str, step: int, content: State) -> None:
        try:
            write(os.path.join(folder, run_folder.resume_name(step)), content, self.check)
            for name in state_names(folder)[self.keep:]:
                os.unlink(os.path.join(folder, name))
        except BaseException as error:  # for the thread that asked
            self._error = error

    def _wait(self) -> None:
        if self._writer:
            self._writer.join()
            self._writer = None
        if error := self._error:
            self._error = None
            raise error


def disabled_saver() -> ResumeSaver:
    """A saver of a training that is neither saved nor asked to stop."""
    return ResumeSaver(None, None, 1, 1, lambda step: {}, lambda: None)


def state_names(folder: str) -> list[str]:
    """The names of the states in a run folder, the newest first."""
    return sorted(filter(run_folder.is_resume_checkpoint, os.listdir(folder)), reverse=True)


def write(path: str, content: State, check: Callable[[], None] = lambda: None) -> None:
    """Write a state, whole or not at all, under its hash. check: raises if it must not appear any more."""
    packed = io.BytesIO()
    torch.save(content, packed)
    data = packed.getbuffer()
    with files.atomic_writer(path) as file:
        file.write(_MAGIC + hashlib.blake2b(data).hexdigest().encode() + b"\n")
        file.write(data)
        check()


def read(path: str) -> State:
    """What `write` wrote, on the CPU. ValueError, in words, if it is not whole or not what it should be."""
    with open(path, "rb") as file:
        head, data = file.readline(200), file.read()
    if not head.startswith(_MAGIC) or head[len(_MAGIC):].strip().decode() != hashlib.blake2b(data).hexdigest():
        raise ValueError("it is not whole")
    try:
        content: State = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(f"it holds what a state never holds{f': {found[1]}' if found else ''}") from None
    return content


def load_newest(folder: str | None, config: Config, group: SingleProcess = SINGLE_PROCESS) -> tuple[State | None,
                                                                                                    list[str]]:
    """The newest state in a run folder that can be read, and words about those that cannot and about other versions.
    In a group the first process finds it, and all read it.

    BatchError if the config has changed since, if there are states and none can be read, or if another number of
    processes saved it.
    """
    if folder is None:
        return None, []
    content: State | None = None

    def find() -> list[Any]:
        nonlocal content
        content, words = _newest(folder, config)
        return [content and content["step"], words]
    step, words = group.broadcast(find)
    if step is None:
        return None, words
    state = content or read(os.path.join(folder, run_folder.resume_name(step)))
    if len(state["meters"]) != group.size:
        raise BatchError(f"this run was interrupted with {len(state['meters'])} processes, and goes on with as many, "
                         f"not {group.size}", where=folder, hint=f"start as many, or begin anew: `python train.py "
                         f"--fresh {folder}/{run_folder.SPEC}`")
    return state, words


def _newest(folder: str, config: Config) -> tuple[State | None, list[str]]:
    run_folder.remove_partial_files(folder)
    words = []
    for name in state_names(folder):
        path = os.path.join(folder, name)
        try:
            content = read(path)
        except (ValueError, OSError) as error:
            words.append(f"{name} cannot be used: {error}")
            continue
        if changes := config_differences(content["config"], config.to_dict()):
            raise BatchError(f"the parameters have changed since this run was interrupted: {'; '.join(changes)}",
                             where=folder, hint=f"set them back, or begin anew: `python train.py --fresh {folder}/"
                             f"{run_folder.SPEC}`")
        words += [f"{name} was {then}, now {versions()[name]}: the numbers may differ from here on"
                  for name, then in content["versions"].items() if then != versions().get(name, then)]
        return content, words
    if words:
        raise BatchError(f"this run was interrupted, and nothing that it saved can be used ({'; '.join(words)})",
                         where=folder, hint=f"begin anew: `python train.py --fresh {folder}/{run_folder.SPEC}`")
    return None, words


def config_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of the parameters that decide the numbers is another than it was. Options that came since had no effect."""
    then = {**Config().to_dict(), **then}
    return [f"{key} was {then.get(key)!r}, now {now.get(key)!r}" for key in {**then, **now}
            if key not in _FREE and then.get(key) != now.get(key)]


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}


def generator_states(device: torch.device) -> State:
    """The states of all generators that a training may draw from."""
    # of those who draw from the generator that libraries share
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    state: State = {"cpu": torch.get_rng_state(), "python": random.getstate(),
                    "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss]}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_generators(state: State, device: torch.device) -> None:
    """Draw from now on as after `generators` was called."""
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    elif "mps" in state and device.type == "mps":
        torch.mps.set_rng_state(state["mps"])


def _on_cpu(value: Any) -> Any:
    """A copy on the CPU of all tensors in a state."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(item) for item in value)
    return value
