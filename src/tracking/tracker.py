"""What a tracker is, and those that a run has: each in a thread beside it; if one fails there is a warning, no more"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.config import Config

if TYPE_CHECKING:
    pass


Action = Callable[[], None]


class Tracker:
    """Somewhere to show a run. Any method may raise: there is a warning, and it is tried once more at the end.

    All but `snapshot` are called in a thread of the tracker's own, one after another.

    heartbeat: call it when a server has answered. The end of a run then waits only briefly for the next answer.
    """

    heartbeat: Action = staticmethod(lambda: None)

    def start(self, config: Config, facts: Mapping[str, Any], folder: str | None) -> None:
        """Begin; folder: the run folder, None if nothing is written."""

    def snapshot(self, view: EpochView, step: int) -> Action | None:
        """Called in the training, after each epoch: copy what is to be shown of the model, quickly, and give what shows
        it, or None."""

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Show the cells of an epoch, without the empty ones, after optimizer step `step`."""

    def finish(self, end: str | None) -> None:
        """The run ended so, or "failed"; None if it was broken off, and may go on later."""


@dataclass(frozen=True)
class EpochView:
    """What a tracker may look at after an epoch: the model, which it must not change; arrays, what the evaluations
    measured beside numbers; samples: gives the inputs [n, …] of a few samples, as the model takes them."""

    model: Any
    arrays: Mapping[str, Any]
    samples: Callable[[], Any]


class TrackerUnavailable(Exception):
    """A tracker cannot be used, as things are: trying again would not help."""


def ping(address: str, seconds: float) -> None:
    """OSError unless somebody answers at an http address, whatever it is, in so many seconds."""
    import ssl
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(address, timeout=seconds).close()
    except urllib.error.HTTPError:
        pass  # somebody is there
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # for which libraries have settings of their own
            raise error.reason if isinstance(error.reason, OSError) else error from None
