"""The interface of a tracker, which shows a run in a tool such as MLflow; and what trackers have in common."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.config import Config

Action = Callable[[], None]


class Tracker:
    """Shows a run. Any method may raise: the run logs a warning, and retries the call once when it ends.

    All methods except `snapshot` are called in a thread of the tracker's own, one after another.

    heartbeat: call it whenever a server has answered. The end of a run then waits only briefly for the next answer.
    """

    heartbeat: Action = staticmethod(lambda: None)

    def start(self, config: Config, facts: Mapping[str, Any], folder: str | None) -> None:
        """Start showing a run. folder: run folder; None if nothing is written."""

    def snapshot(self, view: EpochView, step: int) -> Action | None:
        """Copy what is to be shown of the model, and return an action that shows it, or None.

        The training calls it after each epoch and waits for it, so it has to be quick.
        """

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Show the cells of an epoch, without empty ones, at optimizer step `step`."""

    def log_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Show rows of steps.csv, without empty cells, in the order of their steps."""

    def finish(self, end: str | None) -> None:
        """Finish. end: how the run ended, or "failed"; None if it was interrupted and may be resumed."""


@dataclass(frozen=True)
class EpochView:
    """The objects that a tracker may read after an epoch.

    model: must not be changed.
    arrays: what the evaluations measured besides numbers.
    samples: returns the inputs [n, …] of a few samples, as the model takes them.
    """

    model: Any
    arrays: Mapping[str, Any]
    samples: Callable[[], Any]


def step_metrics(row: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics in a row of steps.csv, by the names that tools show: steps/loss, steps/learning_rate, …"""
    return {f"steps/{name}": value for name, value in row.items() if name not in ("step", "epoch", "timestamp")}


class TrackerUnavailable(Exception):
    """A tracker cannot be used in this run: a retry cannot help."""


def ping(address: str, timeout: float) -> None:
    """OSError unless a server answers at an http address within `timeout` seconds, with any response."""
    import ssl
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(address, timeout=timeout).close()
    except urllib.error.HTTPError:
        pass  # an error response is an answer as well
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # the trackers' libraries have certificate settings of their own
            raise error.reason if isinstance(error.reason, OSError) else error from None
