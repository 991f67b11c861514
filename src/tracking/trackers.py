"""The trackers of a run, each in a thread of its own: a tracker that fails causes a warning and nothing else."""
from __future__ import annotations

import enum
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from src.config import Config
from src.tracking.tracker import Action, EpochView, Tracker, TrackerUnavailable

if TYPE_CHECKING:
    from loguru import Logger

_SHORT_TIMEOUT = 1.5  # seconds that the end of a run waits for a tracker that gives no sign of life
_LONG_TIMEOUT = 60.0  # while its library is being imported, and while a model may be uploaded

# exceptions that end this process, not the run: of src/training/output/resume.py and src/submission/batch/claims.py
_NOT_FAILURES = ("SavedAndExit", "Superseded", "RunDeleted")


class Trackers:
    """All trackers of a run, as a context manager. Set `end` before it exits, unless the run is interrupted.

    silent: there are none.
    """

    def __init__(self, config: Config, facts: Mapping[str, Any], folder: str | None, log: Logger,
                 silent: bool = False) -> None:
        self.end: str | None = None
        self._start_arguments = config, facts, folder
        self._threads = [_TrackerThread(tracker, log) for tracker in ([] if silent else _make_trackers(config, log))]

    def __enter__(self) -> Trackers:
        for thread in self._threads:
            thread.start(*self._start_arguments)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind and issubclass(kind, Exception) and kind.__name__ not in _NOT_FAILURES:
            self.end = "failed"
        for thread in self._threads:
            thread.finish(self.end)

    def log(self, row: Mapping[str, float | None], view: EpochView) -> None:
        """Show a row of stats.csv, and the model after that epoch."""
        if self._threads:
            cells = {name: value for name, value in row.items() if value is not None}
            for thread in self._threads:
                thread.log(cells, view)

    def log_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Show rows of steps.csv."""
        for thread in self._threads:
            thread.log_steps(rows)


class _State(enum.Enum):
    """The state of a tracker's thread."""

    STARTING = enum.auto()  # start() has not returned yet: it may import a large library
    LIVE = enum.auto()  # every call so far succeeded
    BEHIND = enum.auto()  # a call failed: it and all later ones are retried once, when the run ends
    FINISHING = enum.auto()  # finish() is under way: it may upload a model
    RECONNECTING = enum.auto()  # finish() is under way; the server, which answered before, has not answered since
    DISABLED = enum.auto()  # the tracker cannot be used in this run: calls are dropped


class _Event(enum.Enum):
    """An event that changes the state."""

    STARTED = enum.auto()  # start() returned
    ANSWERED = enum.auto()  # heartbeat() was called
    FAILED = enum.auto()  # a call raised an error that may pass
    UNAVAILABLE = enum.auto()  # a call raised one that will not: a missing library, or TrackerUnavailable
    FINISH = enum.auto()  # finish() is about to be called, and no server ever answered
    FINISH_ONLINE = enum.auto()  # finish() is about to be called, and a server has answered during the run


# other pairs leave the state as it is
_TRANSITIONS = {
    (_State.STARTING, _Event.STARTED): _State.LIVE,
    (_State.STARTING, _Event.ANSWERED): _State.LIVE,
    (_State.RECONNECTING, _Event.ANSWERED): _State.FINISHING,
    **{(state, _Event.FINISH): _State.FINISHING for state in (_State.LIVE, _State.BEHIND)},
    **{(state, _Event.FINISH_ONLINE): _State.RECONNECTING for state in (_State.LIVE, _State.BEHIND)},
    **{(state, _Event.FAILED): _State.BEHIND for state in _State},
    **{(state, _Event.UNAVAILABLE): _State.DISABLED for state in _State},
}


class _TrackerThread:
    """Calls a tracker in a thread, which takes the calls from a queue, so that the training does not wait for it."""

    def __init__(self, tracker: Tracker, log: Logger) -> None:
        self._tracker, self._log = tracker, log
        self._state, self._has_answered, self._has_warned = _State.STARTING, False, False
        self._last_sign_of_life = time.monotonic()
        self._queue: queue.SimpleQueue[Action | None] = queue.SimpleQueue()
        tracker.heartbeat = self._heartbeat
        self._thread = threading.Thread(target=self._run, name=type(tracker).__name__, daemon=True)
        self._thread.start()

    def start(self, config: Config, facts: Mapping[str, Any], folder: str | None) -> None:
        """Have the tracker start."""
        def start() -> None:
            self._tracker.start(config, facts, folder)
            self._change_state(_Event.STARTED)

        self._queue.put(start)

    def log(self, cells: Mapping[str, float], view: EpochView) -> None:
        """Have the tracker show an epoch."""
        step = int(cells["step"])
        if self._state is not _State.DISABLED:
            try:
                if action := self._tracker.snapshot(view, step):
                    self._queue.put(action)
            except Exception as error:
                self._warn(error)
        self._queue.put(lambda: self._tracker.log(cells, step))

    def log_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Have the tracker show rows of steps.csv."""
        self._queue.put(lambda: self._tracker.log_steps(rows))

    def finish(self, end: str | None) -> None:
        """Have the tracker finish, and wait as long as it gives signs of life."""
        def finish() -> None:
            self._change_state(_Event.FINISH_ONLINE if self._has_answered else _Event.FINISH)
            self._tracker.finish(end)

        self._last_sign_of_life = time.monotonic()
        self._queue.put(finish)
        self._queue.put(None)
        while self._thread.is_alive() and time.monotonic() < self._last_sign_of_life + self._timeout():
            self._thread.join(0.02)
        if self._thread.is_alive():
            self._warn(TimeoutError("it does not respond, and the run does not wait for it"))

    def _run(self) -> None:
        missed: list[Action] = []
        while (action := self._queue.get()) is not None:
            if self._state is _State.DISABLED:
                continue
            if self._state is _State.BEHIND or not self._call(action):
                missed.append(action)
        for action in missed:  # a server may have come back
            if self._state is _State.DISABLED or not self._call(action):
                return

    def _call(self, action: Action) -> bool:
        """Return whether an action succeeded."""
        try:
            action()
            return True
        except Exception as error:
            is_permanent = isinstance(error, (ImportError, TrackerUnavailable))
            self._change_state(_Event.UNAVAILABLE if is_permanent else _Event.FAILED)
            self._warn(error)
            return False
        finally:
            self._last_sign_of_life = time.monotonic()

    def _heartbeat(self) -> None:
        self._last_sign_of_life, self._has_answered = time.monotonic(), True
        self._change_state(_Event.ANSWERED)

    def _change_state(self, event: _Event) -> None:
        self._state = _TRANSITIONS.get((self._state, event), self._state)

    def _timeout(self) -> float:
        """Return how many seconds the end of the run waits for the next sign of life."""
        return _LONG_TIMEOUT if self._state in (_State.STARTING, _State.FINISHING) else _SHORT_TIMEOUT

    def _warn(self, error: Exception) -> None:
        """Log the first error of the tracker."""
        if not self._has_warned:
            self._has_warned = True
            first_line = (str(error).splitlines() or [""])[0]
            self._log.warning("{} failed and may miss data; the local files are complete: {}: {}",
                              type(self._tracker).__name__, type(error).__name__, first_line)


def _make_trackers(config: Config, log: Logger) -> list[Tracker]:
    """Return a tracker for each one that the config enables. Their modules are imported only then."""
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
