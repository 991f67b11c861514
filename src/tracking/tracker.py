"""What a tracker is, and the ones that a run has: if one fails it is dropped with a warning, and the run goes on."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from src.config import Config

if TYPE_CHECKING:
    from loguru import Logger


class Tracker(Protocol):
    """Somewhere to show a run. Any method may raise: the tracker is then dropped."""

    def start(self, config: Config, facts: Mapping[str, Any], folder: str | None) -> None:
        """Begin; folder: the run folder, None if nothing is written."""

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Show the cells of an epoch, without the empty ones, after optimizer step `step`."""

    def finish(self, end: str | None) -> None:
        """The run ended so; None if it was broken off."""


class Trackers:
    """All trackers of a run, to be used in a `with`. Set `end` before it is left, unless the run is broken off."""

    def __init__(self, config: Config, facts: Mapping[str, Any], folder: str | None, log: Logger) -> None:
        self._log = log
        self.end: str | None = None
        self._trackers = _wanted(config)
        self._start = lambda tracker: tracker.start(config, facts, folder)

    def __enter__(self) -> Trackers:
        self._each(self._start)
        return self

    def __exit__(self, *_: object) -> None:
        self._each(lambda tracker: tracker.finish(self.end))

    def log(self, row: Mapping[str, float | None]) -> None:
        """Show a row of stats.csv."""
        if self._trackers:
            cells = {name: value for name, value in row.items() if value is not None}
            self._each(lambda tracker: tracker.log(cells, int(cells["step"])))

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                action(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                reason = (str(error).splitlines() or [""])[0]
                self._log.warning("{} is left out from here on: {}: {}", type(tracker).__name__,
                                  type(error).__name__, reason)


def _wanted(config: Config) -> list[Tracker]:
    trackers: list[Tracker] = []
    if config.wandb:
        from src.tracking.wandb_tracker import WandbTracker

        trackers.append(WandbTracker())
    return trackers
