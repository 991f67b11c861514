"""Train one run, or the runs of a task file: `python train.py spec.yaml`. Other programs call experiment_generator.

A run is claimed before PyTorch is imported, so this module imports heavy modules inside functions.
"""
from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from src import python_check, run_folder  # noqa: F401  ends here in an unsuitable Python
from src.config import Config
from src.errors import ConfigError
from src.io import files
from src.submission.job import attempt, multi_gpu, ranks
from src.submission.slurm.time_limit import SaveTimer
from src.submission.system import process
from src.submission.system.signals import Stopped, signals

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from src.submission.batch.task_files import Tasks
    from src.submission.job.worker_child import Report
    from src.training.parallel.rendezvous import ProcessInfo
    from src.training.saved_model import SavedModel
    from src.training.stacked.launch import Run


def train(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
    """Train a spec to its end, resuming from the state that an earlier attempt saved.

    Return how the run ended: completed, early_stopped or diverged; requeued if it saved its state because the time
    limit is near; or paused after the epoch that the attempt names. Stopped if a signal requested a stop.

    folder: run folder; None writes nothing. check: raises if a later attempt has taken over the run. With several GPUs
    this starts a process for each, unless srun or torchrun have done so.
    """
    config = Config.from_dict(spec)
    count = count_processes(config)
    if count > 1:
        return multi_gpu.run(count, train_in_process, (config, folder, check))
    return train_in_process(config, folder, check)


def train_in_process(config: Config, folder: str | None, check: Callable[[], None]) -> str:
    """Train in this process, together with the other processes of the same start. Return as `train`."""
    from src.training.components import build
    from src.training.experiment import run_epochs
    from src.training.output.resume import Paused, SavedAndExit
    from src.training.parallel.distributed import is_peer_loss, join_processes

    timer = SaveTimer(lambda: os.kill(os.getpid(), signal.SIGUSR1))
    pause_after = run_folder.RunFolder.read(folder).pause_epoch() if folder else None
    try:
        with join_processes(config, _process_info(folder)) as group:
            try:
                components = build(config, folder, group)
                outcomes = [outcome for _row, _model, outcome in run_epochs(
                    components, folder, check, signals.on_stop, sys.stdout.isatty(), timer.set, pause_after)]
            except Paused:
                return run_folder.PAUSED
            except SavedAndExit:
                if stop_signal := group.max(signals.stop_signal or 0):  # perhaps only one process received it
                    raise Stopped(stop_signal) from None
                return run_folder.REQUEUED
    except RuntimeError as error:
        if process.world_size() == 1 or not is_peer_loss(error):
            raise
        raise multi_gpu.PeerLost("another process of this run died; see its output for the reason") from None
    finally:
        timer.cancel()
    return outcomes[-1] or ""


def choose_stack(specs: Sequence[dict[str, Any]], requested: int | None) -> tuple[int, str]:
    """Return how many of some runs, whose specs may be stacked, to train at once, and why.

    requested: the number that the user wants; None takes the fastest, by a measurement. 1 means that they run singly.
    """
    from src.training.stacked.sizing import choose_size

    configs = [Config.from_dict(spec) for spec in specs]
    if count_processes(configs[0]) > 1:
        return 1, "several processes train each run"
    return choose_size(configs, requested)


def train_stack(runs: Sequence[Run]) -> Iterator[tuple[int, str | BaseException]]:
    """Train runs together, resuming each from the state that an earlier attempt saved. Yield the index of each run as
    soon as it has ended, and how: as `train` returns it, or the error that ended this run alone.

    Runs that are not yielded are to be trained singly, or together once more. Stopped if a signal requested a stop;
    then all runs have saved their state.
    """
    from src.training.stacked.launch import train_runs

    timer = SaveTimer(lambda: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        for index, outcome in train_runs(runs, signals.on_stop, timer.set):
            if outcome == run_folder.REQUEUED:
                signals.raise_if_stopped()
            yield index, outcome
    finally:
        timer.cancel()


def run_stack(tasks: Tasks, names: Sequence[str], size: int | None, report: Report) -> None:
    """Claim free runs of a task file, and train them together. Arguments as for `stack.run_stack`."""
    from src.submission.job import stack  # few batches have stacks

    stack.run_stack(stack.Stacker(choose_stack, train_stack), train, tasks, names, size, report)


def count_processes(config: Config) -> int:
    """Return how many processes to start for a run: $GRIDIRON_PROCESSES, or one per GPU that this process sees.

    1 if srun or torchrun have started them already, or if the config or its task allow only one.
    """
    from src.training.parallel.distributed import max_processes
    from src.training.setup.facts import visible_gpus

    if process.world_size() > 1:
        return 1
    requested = os.environ.get("GRIDIRON_PROCESSES")
    if requested and not requested.isdecimal():
        raise ConfigError(f"{requested!r} is not a number of processes", where="$GRIDIRON_PROCESSES",
                          allowed="a whole number", hint="unset it to start one process per GPU")
    count = int(requested) if requested else visible_gpus(config.device)
    return max(1, min(count, max_processes(config)))


def _process_info(folder: str | None) -> ProcessInfo:
    """Return the rank of this process, and where the processes of its start meet."""
    from src.training.parallel.rendezvous import ProcessInfo

    numbers = process.rank(), process.world_size(), process.local_rank()
    if local_folder := os.environ.get(multi_gpu.RENDEZVOUS):
        return ProcessInfo(*numbers, local_folder, is_single_node=True)
    return ProcessInfo(*numbers, folder, run_folder.rendezvous_name(ranks.start_id()))


def experiment_generator(config: Config) -> Iterator[tuple[pd.DataFrame, nn.Module]]:
    """Train, and yield (stats_df, model) after each epoch. The caller may inspect both, or stop iterating.

    stats_df: a row per epoch so far, with the columns of stats.csv; read-only, so copy it to change it. model: the
    current model on its device, in eval mode; the caller's gradients and random draws do not change the training.
    The files of a run are written to config.output_dir; if that is null, nothing is written and the log goes to stdout.
    BatchError if that folder holds a run already.
    """
    from src.training.components import build
    from src.training.experiment import run_epochs
    from src.training.output.recorder import create_run_folder
    from src.training.output.table import StatsTable
    from src.training.setup.seeds import preserve_generators

    components = build(config, None)
    folder = create_run_folder(config)
    table: StatsTable | None = None
    for row, model, outcome in run_epochs(components, folder, lambda: None):
        table = table or StatsTable(list(row))
        if folder and outcome:
            files.write_atomic(os.path.join(folder, run_folder.DONE), outcome + "\n")
        with preserve_generators(components.device):
            yield table.add(row), model


def load_model(run: str, uri: str | None = None, trust: bool = False) -> SavedModel:
    """Return the best model of a run, in eval mode on the CPU, and its data: `model, data = load_model(run)`.

    run: a run folder, or a registered model such as models:/food11@production in the MLflow registry at `uri`. The
    result's `judgement` says which weights these are, and by which metric, value and epoch they were judged best.
    trust: execute user code that a config of another user names.
    """
    from src.training import saved_model

    return saved_model.load_model(run, uri, trust)


def _load_pyfunc(path: str) -> Any:
    """Return the predictor of a model that was logged to MLflow. MLflow stores the name of this module.

    User code is executed if the variable GRIDIRON_TRUST is 1: MLflow takes arguments from files of the model as well.
    """
    from src.training import saved_model

    return saved_model.Predictor(path, os.environ.get("GRIDIRON_TRUST") == "1")


def warm_up(specs: list[dict[str, Any]]) -> None:
    """Prepare a worker before it forks its runs: import heavy modules, and parse data into the cache.

    It uses one thread and no CUDA, since a parallel operation or a CUDA context in the parent would hang the children.
    """
    import torch

    import src.training.components
    import src.training.experiment  # noqa: F401
    from src.datasets import factory
    from src.training.steps import torchmetrics_adapter

    torch.set_num_threads(1)
    configs = [Config.from_dict(spec) for spec in specs]
    factory.warm_up(configs)
    torchmetrics_adapter.warm_up(name for config in configs for name in config.metrics or ())


if __name__ == "__main__":
    files.limit_umask()
    process.exit_process(attempt.main(sys.argv[1:], train=train, warm_up=warm_up, run_stack=run_stack))
