"""The state that a training saves after a step, from which another start resumes with identical results."""
from __future__ import annotations

import hashlib
import io
import math
import os
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
from src.config import OUTPUT_FIELDS, Config
from src.errors import BatchError
from src.io import files
from src.training.output.checkpoint import DAMAGE
from src.training.parallel.distributed import CONTINUE, EXIT, SAVE, SINGLE_PROCESS, SingleProcess

TrainingState = dict[str, Any]  # tensors, numbers, strings, and lists, tuples and mappings of them

_MAGIC = b"gridiron training state 1 "  # start of the first line, which ends with the hash of all other lines
_KINDS = {"config": dict, "versions": dict, "step": int, "meters": list, "generators": dict}  # of parts of each state
# Fields that may change between two starts, since they do not affect the results. Not system_metrics, which has columns
# in stats.csv, nor save_best_checkpoint: the best epoch so far may be one whose model was not saved.
_MAY_CHANGE = OUTPUT_FIELDS - {"system_metrics", "save_best_checkpoint"} | {"num_workers", "data_dir", "data_download"}


class SavedAndExit(Exception):
    """The training has saved its state, as requested, and ends here."""


class Paused(SavedAndExit):
    """The training has saved its state between two epochs, as its search requested, and ends here."""


@dataclass
class ResumeSaver:
    """Writes the state of a training to its folder, at intervals and when an exit is requested.

    After each step the loop calls `is_due`, and `save` if it is. `save` copies the state and writes it in a thread; an
    error of the thread is raised by the next `save`. All processes of a group call the same methods. The clock of the
    first process decides, and only that process writes.

    folder: run folder; None disables.
    interval: between two states; None saves only when an exit is requested.
    keep: number of states to keep.
    state: returns the state, given the number of steps taken.
    check: raises if a later attempt has taken over.
    on_saved: called after each save, with the seconds that it took; by another thread.
    step: steps taken, as of the last save or the end of an epoch.
    due, due_step: when the next state is due, by perf_counter or by steps.
    exit_requested: whether an exit of this process was requested.
    is_exiting: whether all processes exit with the next save.
    """

    folder: str | None
    interval: Interval | None
    keep: int
    steps_per_epoch: int
    state: Callable[[int], TrainingState]
    check: Callable[[], None]
    group: SingleProcess = SINGLE_PROCESS
    on_saved: Callable[[float], None] | None = None
    step: int = 0
    due: float = field(default=math.inf, init=False)
    due_step: int = field(default=0, init=False)
    exit_requested: bool = field(default=False, init=False)
    is_exiting: bool = field(default=False, init=False)
    _writer: threading.Thread | None = field(default=None, init=False)
    _error: BaseException | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._schedule_next()

    def request_exit(self) -> None:
        """Make the next step save and raise SavedAndExit. Signal handlers may call it."""
        self.exit_requested = True

    def is_due(self, now: float, step: int) -> bool:
        """Return whether to save the state after `step` steps. now: by perf_counter."""
        request = self.group.agree_on(EXIT if self.exit_requested else SAVE if now >= self.due else CONTINUE)
        self.is_exiting = request == EXIT
        return request > CONTINUE or step >= self.due_step

    def agree_to_exit(self) -> bool:
        """Return whether all processes save and exit, outside of training steps. Sets `is_exiting`."""
        self.is_exiting = self.group.agree_on(EXIT if self.exit_requested else CONTINUE) == EXIT
        return self.is_exiting

    def save(self, step: int) -> None:
        """Save the state after `step` steps. SavedAndExit if an exit was requested; OSError if the disk is full."""
        self._wait()
        if self.folder is not None:
            start = perf_counter()
            self.check()
            self.step = step
            content = self.state(step)
            self._schedule_next()
        if self.folder is not None and self.group.is_first:
            content = _on_cpu(content)
            self._writer = threading.Thread(target=self._write, args=(self.folder, step, content, start))
            self._writer.start()
        if self.is_exiting:
            self._wait()
            raise SavedAndExit

    def close(self) -> None:
        """Wait for a state that is being written."""
        self._wait()

    def _schedule_next(self) -> None:
        """Set when the next state is due."""
        self.due, self.due_step = math.inf, 1 << 62
        if self.folder is None or self.interval is None:
            return
        if self.interval.unit == "min":
            self.due = perf_counter() + 60 * self.interval.amount if self.group.is_first else math.inf
        else:
            steps = self.interval.amount * (self.steps_per_epoch if self.interval.unit == "epoch" else 1)
            self.due_step = self.step + max(1, round(steps))

    def _write(self, folder: str, step: int, content: TrainingState, start: float) -> None:
        try:
            write(os.path.join(folder, run_folder.resume_name(step)), content, self.check)
            if self.on_saved:
                self.on_saved(perf_counter() - start)
            for name in state_names(folder)[self.keep:]:
                os.unlink(os.path.join(folder, name))
        except BaseException as error:  # raised in the training's thread
            self._error = error

    def _wait(self) -> None:
        if self._writer:
            self._writer.join()
            self._writer = None
        if error := self._error:
            self._error = None
            raise error


def disabled_saver() -> ResumeSaver:
    """Return a saver that is never due."""
    return ResumeSaver(None, None, 1, 1, lambda step: {}, lambda: None)


def state_names(folder: str) -> list[str]:
    """Return the names of the states in a run folder, newest first."""
    return sorted(filter(run_folder.is_resume_checkpoint, os.listdir(folder)), reverse=True)


def write(path: str, content: TrainingState, check: Callable[[], None] = lambda: None) -> None:
    """Write a state atomically, with its hash. check: raises if it must not be written any more."""
    packed = io.BytesIO()
    torch.save(content, packed)
    data = packed.getbuffer()
    with files.atomic_writer(path) as file:
        file.write(_MAGIC + hashlib.blake2b(data).hexdigest().encode() + b"\n")
        file.write(data)
        check()


def read(path: str) -> TrainingState:
    """Return what `write` wrote, on the CPU. ValueError if the file is incomplete or holds something else."""
    with open(files.open_regular(path), "rb") as file:
        head = file.readline(200)
        if not head.startswith(_MAGIC):
            raise ValueError("the file is incomplete")
        data = file.read()
    if head[len(_MAGIC):].strip().decode() != hashlib.blake2b(data).hexdigest():
        raise ValueError("the file is incomplete")
    try:
        content: TrainingState = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except DAMAGE as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        details = f": {name[1]}" if name else ""
        raise ValueError(f"the file contains objects that a state never contains{details}") from None
    return content


def load_newest(folder: str | None, config: Config,
                group: SingleProcess = SINGLE_PROCESS) -> tuple[TrainingState | None, list[str]]:
    """Return the newest readable state in a run folder, and warnings about unreadable ones and about other versions.

    BatchError if the config has changed since, if there are states but none is readable, or if another number of
    processes saved it. In a group the first process chooses the state, and all read it.
    """
    if folder is None:
        return None, []
    content: TrainingState | None = None

    def choose() -> list[Any]:
        nonlocal content
        content, warnings = _load_newest(folder, config)
        return [content and content["step"], warnings]
    step, warnings = group.broadcast(choose)
    if step is None:
        return None, warnings
    state = content or read(os.path.join(folder, run_folder.resume_name(step)))
    if len(state["meters"]) != group.size:
        raise BatchError(f"this run was interrupted with {len(state['meters'])} processes and cannot be resumed with "
                         f"{group.size}", where=folder, hint=f"start that many, or start over: `python train.py "
                         f"--fresh {folder}/{run_folder.SPEC}`")
    return state, warnings


def _load_newest(folder: str, config: Config) -> tuple[TrainingState | None, list[str]]:
    run_folder.remove_partial_files(folder)
    warnings = []
    for name in state_names(folder):
        path = os.path.join(folder, name)
        try:
            content = read(path)
            if not isinstance(content, dict) or not all(
                    isinstance(content.get(name), kind) for name, kind in _KINDS.items()):
                raise ValueError("the file holds no state of a training")
        except (ValueError, OSError) as error:
            warnings.append(f"{name} cannot be used: {error}")
            continue
        if changes := config_differences(content["config"], config.to_dict()):
            raise BatchError(f"the parameters have changed since this run was interrupted: {'; '.join(changes)}",
                             where=folder, hint=f"restore them, or start over: `python train.py --fresh {folder}/"
                             f"{run_folder.SPEC}`")
        then = content["versions"]
        warnings += [f"{program} was {then[program]}, now {version}: results may differ from here on"
                     for program, version in versions().items() if then.get(program, version) != version]
        return content, warnings
    if warnings:
        raise BatchError(f"this run was interrupted, and none of its saved states can be used ({'; '.join(warnings)})",
                         where=folder, hint=f"start over: `python train.py --fresh {folder}/{run_folder.SPEC}`")
    return None, warnings


def config_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the changes of parameters that affect the results. A field that the saved config lacks has its default."""
    then = {**Config().to_dict(), **then}
    return [f"{key} was {then.get(key)!r}, now {now.get(key)!r}" for key in {**then, **now}
            if key not in _MAY_CHANGE and then.get(key) != now.get(key)]


def versions() -> dict[str, str]:
    """Return the versions of software that affects the results."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}


def generator_states(device: torch.device) -> TrainingState:
    """Return the states of all random generators that a training may draw from."""
    # NumPy's global generator, from which some libraries draw
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    state: TrainingState = {"cpu": torch.get_rng_state(), "python": random.getstate(),
                            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss]}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_generators(state: TrainingState, device: torch.device) -> None:
    """Restore the generators to the states that `generator_states` returned. BatchError for anything else."""
    try:
        _restore_generators(state, device)
    except (*DAMAGE, OverflowError) as error:
        raise BatchError("the saved state of this run has random generators of another form", where="resume",
                         hint="start over: `python train.py --fresh` with its spec.yaml") from error


def _restore_generators(state: TrainingState, device: torch.device) -> None:
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    elif "mps" in state and device.type == "mps":
        torch.mps.set_rng_state(state["mps"])


def _on_cpu(value: Any) -> Any:
    """Return a copy of a state with all tensors on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(item) for item in value)
    return value
