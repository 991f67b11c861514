"""The story of a training: each epoch is trained, evaluated, judged, recorded, and handed to whoever looks on."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from src import run_folder
from src.choices import parse_schedule
from src.config import Config
from src.datasets.data import Data
from src.optimizers.averaging import AveragedModel
from src.optimizers.schedules import make_schedule
from src.tracking.tracker import Trackers
from src.training import facts
from src.training.batches import shuffled
from src.training.epoch import Trainer, evaluate
from src.training.length import Length
from src.training.log import Progress, epoch_line, header, open_log
from src.training.losses import make_loss
from src.training.meters import Meter
from src.training.recorder import Recorder, Row, stats_columns
from src.training.stopping import Best

if TYPE_CHECKING:
    from loguru import Logger


@dataclass(frozen=True)
class Parts:
    """What a training is made of: built by train.py, and placed on one device."""

    config: Config  # with all its seeds
    data: Data
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    device: torch.device
    seeds_drawn: list[str]


def epochs(parts: Parts, folder: str | None, check: Callable[[], None]
           ) -> Iterator[tuple[Row, nn.Module, str | None]]:
    """Train. After each epoch: its row of stats, the model, and how the training ended, or None while it goes on.

    folder: where the artefacts go; None: nowhere. check: raises once a later attempt has taken over.
    """
    config, data = parts.config, parts.data
    at_end = config.eval_at_end or []
    evaluated = [name for name in data.splits if name != "train" or name in at_end]
    each_epoch = [name for name in evaluated if name not in at_end]
    columns = stats_columns(data.task, evaluated, parts.average is not None)
    best = _best(config, stats_columns(data.task, each_epoch, parts.average is not None))
    length = Length.of(config, len(data.splits.get("train", ())))
    trainer = _trainer(parts, length)
    found = facts.gather(config, data, parts.model, length, parts.device, parts.seeds_drawn)

    with (open_log(folder, config.log_to_stdout) as log, Recorder(folder, columns, check) as recorder,
          Trackers(config, found, folder, log) as trackers):
        recorder.config(config, found)
        for line in header(config.to_dict(), found):
            log.info(line)
        if best and best.chooses_by_test:
            log.warning("{} chooses by a test split: its best value is no estimate of what to expect",
                        config.best_checkpoint_metric)
        if length.epochs:
            batches = shuffled(data.splits["train"], config.batch_size, config.seed_training)
        seen = 0

        for epoch in range(min(1, length.epochs), length.epochs + 1):  # epoch 0 is there only to evaluate
            row: Row = {**dict.fromkeys(columns), "epoch": epoch, "step": 0}
            diverged = False
            if epoch:
                meter = Meter(data.task, parts.device)
                progress = Progress(log, f"epoch {epoch}", config.log_interval)
                timing = trainer.train(batches, length.steps_of(epoch), meter, progress)
                seen += meter.samples
                diverged = trainer.diverged(meter)
                row["step"] = timing.pop("step")
                row |= _under("train", {**meter.means(), **timing, "seen_examples": seen})
            row |= _evaluations(parts, trainer, each_epoch, log)
            better = best.update(row) if best else False

            end = _end(config, epoch == length.epochs, diverged, best)
            if end:
                row |= _evaluations(parts, trainer, at_end, log)
            row["timestamp"] = time.time()

            recorder.row(row)
            log.info(epoch_line(row, length.epochs))
            trackers.log(row)
            averaged = parts.average.module() if parts.average else None
            if config.save_freq and epoch % config.save_freq == 0:
                recorder.checkpoint(run_folder.checkpoint_name(epoch), config, row, parts.model, averaged)
            if better and config.save_best_checkpoint:
                recorder.checkpoint(run_folder.BEST_CHECKPOINT, config, row, parts.model, averaged)
            if end:
                log.info(end)
                trackers.end = end
            yield row, parts.model, end
            if end:
                return


def _trainer(parts: Parts, length: Length) -> Trainer:
    config = parts.config
    schedule = parse_schedule(config.lr_schedule)
    factor = make_schedule(schedule, length.total_steps, warmup_steps=config.warmup_steps, milestones=[
        length.steps_in(milestone, config.train_length_unit) for milestone in schedule.milestones])
    return Trainer(parts.model, make_loss(config.loss), parts.optimizer,
                   lambda step: config.base_lr * factor(step), parts.average, facts.micro_batch_size(config),
                   config.max_allowed_loss)


def _best(config: Config, columns: list[str]) -> Best | None:
    """Keeps the best epoch, if anything depends on it."""
    if config.early_stopping_patience is None and not config.save_best_checkpoint:
        return None
    return Best(config.best_checkpoint_metric, columns)


def _evaluations(parts: Parts, trainer: Trainer, names: Iterable[str], log: Logger) -> Row:
    """The cells of the splits `names`, for the model and for its average."""
    config, row = parts.config, Row()
    models = {"last": parts.model, **({"av": parts.average.module()} if parts.average else {})}
    interval = config.log_interval if config.log_interval_eval is None else config.log_interval_eval
    for name in names:
        for which, model in models.items():
            progress = Progress(log, f"evaluating {name}/{which}", interval)
            row |= _under(f"{name}/{which}", evaluate(
                model, parts.data.splits[name], config.eval_batch_size or config.batch_size, trainer.loss,
                Meter(parts.data.task, parts.device), progress))
    return row


def _under(group: str, cells: Row) -> Row:
    return {f"{group}/{name}": value for name, value in cells.items()}


def _end(config: Config, last: bool, diverged: bool, best: Best | None) -> str | None:
    """How the training ended with this epoch; None if it goes on."""
    if diverged:
        return run_folder.DIVERGED
    if last:
        return run_folder.COMPLETED
    if best and config.early_stopping_patience is not None and best.epochs_since >= config.early_stopping_patience:
        return run_folder.EARLY_STOPPED
    return None
