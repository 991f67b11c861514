"""The trackers of a run, each in a thread of its own: a failing tracker causes a warning and nothing else."""
from __future__ import annotations

from typing import TYPE_CHECKING

from src.tracking.tracker import Action, EpochView, Tracker, TrackerUnavailable

if TYPE_CHECKING:
    from loguru import Logger

import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

from src.config import Config

_PATIENCE = 1.5  # seconds that the end of a run waits for a tracker that shows no sign of life

_AT_WORK = 60.0  # and for one that is starting, whose library may take long to load, or sending a model at the end

# what leaves a training that goes on elsewhere; of src.training.output.resume and src.submission.batch.claims
_NO_FAILURES = ("SavedAndExit", "Superseded", "RunDeleted")


class Trackers:
    """All trackers of a run, to be used in a `with`. Set `end` before it is left, unless the run is broken off. silent:
    there are none."""

    def __init__(self, config: Config, facts: Mapping[str, Any], folder: str | None, log: Logger,
                 silent: bool = False) -> None:
        self.end: str | None = None
        self._trackers = [_Beside(tracker, log) for tracker in ([] if silent else _wanted(config, log))]
        self._start = lambda tracker: lambda: tracker.start(config, facts, folder)

    def __enter__(self) -> Trackers:
        for each in self._trackers:
            each.give(self._start(each.tracker))
            each.give(each.started)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind and issubclass(kind, Exception) and kind.__name__ not in _NO_FAILURES:
            self.end = "failed"
        for each in self._trackers:
            each.end(self.end)

    def log(self, row: Mapping[str, float | None], view: EpochView) -> None:
        """Show a row of stats.csv, and what it is a row of."""
        if self._trackers:
            cells = {name: value for name, value in row.items() if value is not None}
            step = int(cells["step"])
            for each in self._trackers:
                each.snapshot(view, step)
                each.give(lambda tracker=each.tracker: tracker.log(cells, step))


class _Beside:
    """A tracker in a thread, which takes its actions from a queue, so that nobody waits for it.

    What follows a failure is kept, and tried again at the end: a server may have come back by then.
    """

    def __init__(self, tracker: Tracker, log: Logger) -> None:
        self.tracker, self._log = tracker, log
        self._queue: queue.SimpleQueue[Action | None] = queue.SimpleQueue()
        self._missed: list[Action] = []
        self._told = self._refused = False
        self._alive = time.monotonic()  # when it last showed a sign of life
        self._limit = _AT_WORK
        self._finishing = self._answered = False
        tracker.heartbeat = self._heartbeat
        self._thread = threading.Thread(target=self._run, name=type(tracker).__name__, daemon=True)
        self._thread.start()

    def give(self, action: Action) -> None:
        self._queue.put(action)

    def snapshot(self, view: EpochView, step: int) -> None:
        if self._refused:
            return
        try:
            action = getattr(self.tracker, "snapshot", lambda *_: None)(view, step)
        except Exception as error:
            self._warn(error)
        else:
            if action:
                self.give(action)

    def started(self) -> None:
        self._limit = _PATIENCE

    def _heartbeat(self) -> None:
        self._alive, self._answered = time.monotonic(), True
        self._limit = _AT_WORK if self._finishing else _PATIENCE  # a model may be sent

    def end(self, how: str | None) -> None:
        """Have it finish, and wait as long as it is at work."""
        self._alive = time.monotonic()

        def finish() -> None:
            self._finishing, self._limit = True, _PATIENCE if self._answered else _AT_WORK
            self.tracker.finish(how)

        self.give(finish)
        self._queue.put(None)
        while self._thread.is_alive() and time.monotonic() < self._alive + self._limit:
            self._thread.join(0.02)
        if self._thread.is_alive():
            self._warn(TimeoutError("it is too slow, and the run does not wait for it"))

    def _run(self) -> None:
        while (action := self._queue.get()) is not None:
            if self._missed or not self._refused and not self._try(action):
                self._missed.append(action)
        for action in self._missed:
            if self._refused or not self._try(action):
                return

    def _try(self, action: Action) -> bool:
        try:
            action()
            return True
        except Exception as error:
            self._refused = isinstance(error, (ImportError, TrackerUnavailable))
            self._limit = _PATIENCE
            self._warn(error)
            return False
        finally:
            self._alive = time.monotonic()

    def _warn(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            reason = (str(error).splitlines() or [""])[0]
            self._log.warning("{} does not show this run from here on; its files have it all: {}: {}",
                              type(self.tracker).__name__, type(error).__name__, reason)


def _wanted(config: Config, log: Logger) -> list[Tracker]:
    trackers: list[Tracker] = []
    if config.mlflow:
        from src.tracking.mlflow_tracker import NOT_LIVE, MlflowTracker

        if MlflowTracker.uri(config):
            trackers.append(MlflowTracker(config.save_best_checkpoint))
        else:
            log.info(NOT_LIVE)
    if config.tensorboard:
        from src.tracking.tensorboard_tracker import TensorBoardTracker

        trackers.append(TensorBoardTracker())
    if config.comet:
        from src.tracking.comet_tracker import CometTracker

        trackers.append(CometTracker())
    if config.wandb:
        from src.tracking.wandb_tracker import WandbTracker

        trackers.append(WandbTracker())
    return trackers
