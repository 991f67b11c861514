"""The policy of `--slots auto`: from a sequence of measurements to the number of runs at a time, with reasons.

The search starts at one run, or at what an earlier batch found, and doubles the number as long as more runs fit and the
rate of the whole rises by GAIN. Where it does not, a number between is tried, and then it is settled. It is opened
again when the rate of the settled number falls, when runs of other settings come, or when memory runs out.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from src.frozen import Frozen
from src.submission.slots.room import Room
from src.submission.slots.speeds import Progress, Rates, Window, relative_speed

GAIN = 0.05  # by which the rate of the whole has to rise for more runs at a time
_LOSS = 0.02  # fall of the rate at which runs yield at once; with less they run to their end
_EQUAL = 0.01  # by which fewer runs may be slower to be preferred
_FREE = 0.93  # speed of a run, relative to that with fewer, from which runs count as not slowing each other down
_FALL = 0.1  # fall of a settled rate, in two windows, at which fewer runs are tried
_PAUSE = 600.0  # seconds between a search and the next one; doubled each time that it finds the same number
_GAP = 5.0  # seconds in which a run that has ended is replaced, so that the window goes on


class Guess(Frozen):
    """The result of an earlier batch: slots, and the smallest number that was not faster, if one was tried."""

    slots: int
    refused: int | None = None
    source: str = ""


class Decision(NamedTuple):
    """A number of runs at a time, the reason, and whether runs beyond it save themselves now or run to their end."""

    slots: int
    reason: str
    yields: bool = False


class Reading(Frozen):
    """The measurements of a worker at one time, for one GPU or without one.

    runs: those that run, with their progress; waiting: the number of runs that could be started
    """

    time: float
    runs: Mapping[str, Progress]
    waiting: int
    room: Room = Room()


class Policy:
    """Decides how many runs run at a time.

    slots: the current number
    best: the number that was the fastest so far; refused: the smallest one above that was not faster
    cap: the largest number, after memory has run out
    is_settled: whether the search is over for now
    """

    def __init__(self, guess: Guess | None = None, most: int = 256) -> None:
        self.slots = min(guess.slots, most) if guess else 1
        self.best, self.refused, self.cap = self.slots, guess.refused if guess else None, most
        self.is_settled = False
        self.rates: dict[int, Rates] = {}  # of the numbers of this search
        self._window = Window()
        self._measured = 0  # the number of runs that the window is of
        self._differs_since: float | None = None  # the number of runs is not that of the window
        self._changed, self._searched = -1e300, -1e300  # when the number last changed, and the last search ended
        self._reference: Rates | None = None  # of the settled number
        self._falls = 0  # windows in which the rate was lower
        self._settings: set[str] = set()  # of which the rates were measured in a search
        self._pause, self._is_reopened, self._settled_best = _PAUSE, False, 0

    def observe(self, reading: Reading) -> Decision | None:
        """Take a reading. Return a decision if the number changes, or is settled."""
        running = len(reading.runs)
        if (full := reading.room.full()) and running > 1 and running <= self.slots:
            return self.reduce(running - 1, full)
        largest, reason = reading.room.largest()
        if largest is not None and largest < self.slots and not self.rates.get(self.slots):
            # an estimate from an earlier batch, or of the first seconds, was too small
            return self._set(largest, f"no more fit ({reason})")
        if not self._is_steady(reading):
            return None
        self._window.add(reading.time, reading.runs)
        rates = self._window.rates(reading.time, reading.runs)
        if rates is None:
            return None
        self._window.restart()
        return self._judge(reading, rates)

    def end(self, setting: str, start: float, time: float) -> None:
        """Take the end of a run."""
        if self._measured and start >= self._changed - _GAP / 2:
            self._window.add_duration(setting, time - start)

    def reduce(self, slots: int, reason: str) -> Decision:
        """Memory has run out: allow at most so many runs from now on."""
        self.cap = max(1, min(self.cap, slots))
        self.best = min(self.best, self.cap)
        return self._set(self.cap, reason, yields=True)

    def limit(self, room: Room) -> int:
        """Return how many runs may run now: fewer than the slots if they would not fit."""
        return min(self.slots, room.largest()[0] or self.slots)

    def _is_steady(self, reading: Reading) -> bool:
        """Return whether as many runs run as are to be measured. The window starts anew if their number changes."""
        running = len(reading.runs)
        if running == self._measured and running:
            self._differs_since = None
            return True
        if self._differs_since is None:
            self._differs_since = reading.time
        is_replaced_soon = self._measured and running == self._measured - 1 and reading.waiting
        if is_replaced_soon and reading.time - self._differs_since < _GAP:
            return False
        self._measured, self._differs_since = running, None
        self._changed = reading.time
        self._window.restart()
        return False

    def _judge(self, reading: Reading, rates: Rates) -> Decision | None:
        """Decide at the end of a window."""
        number = len(reading.runs)
        if number != self.slots:
            return None  # the last runs of the batch, or runs that go on although their number was lowered
        if self.is_settled:
            return self._check(reading, rates)
        self.rates[number] = rates
        if number in (self.best, self.slots) and (number == self.best or self.best not in self.rates):
            self.best = number
            return self._continue(reading, "")
        ratio = self._ratio(number, self.best)
        reason = f"{number} at a time: {_percent(ratio - 1)} than {self.best}"
        if number < self.best:
            if ratio >= 1 - _EQUAL:
                self.best, self.refused = number, self.best
            return self._settle(reading.time, reason)
        if ratio >= 1 + GAIN:
            self.best = number
        else:
            self.refused = number
        return self._continue(reading, reason, ratio < 1 - _LOSS)

    def _continue(self, reading: Reading, reason: str, yields: bool = False) -> Decision | None:
        """Try another number, or settle. yields: as in the decision, if it is settled."""
        available = len(reading.runs) + reading.waiting
        if self.refused is None and available <= self.best:
            return None  # no run is left to try more with
        largest, why = reading.room.largest()
        top = min(self.cap, available, largest or self.cap)
        number = min(self._next_above(), top) if self.refused is None else self._between(top)
        if number > self.best or number < self.best and number not in self.rates:
            return self._set(number, f"{reason or 'more may be faster'}; trying {number}", yields=True)
        if self.refused is None:
            limit = f"no more fit ({why})" if largest is not None and top == largest else "as many as allowed"
            reason = f"{reason}; {limit}" if reason else limit
        return self._settle(reading.time, reason or "as in an earlier batch", yields)

    def _next_above(self) -> int:
        """Return the next larger number: twice the best one as long as each run is as fast as with fewer."""
        if self._is_reopened:
            return self.best + max(1, self.best // 4)
        return 2 * self.best if self._is_free() else self.best + -(-self.best // 2)

    def _is_free(self) -> bool:
        """Return whether runs are not slower with the best number than with the one below it that was tried."""
        below = self._below()
        return below is None or self._ratio(self.best, below) >= _FREE * self.best / below

    def _below(self) -> int | None:
        return max((number for number in self.rates if number < self.best), default=None)

    def _between(self, top: int) -> int:
        """Return a number to try between the best one and its neighbors that were tried; the best one if there is none.

        If runs do not slow each other down with the best number, the maximum lies above it. If they do, it lies where
        the line of the rate of runs that do not meets the line through the best number and the one above.
        """
        best, above, below = self.best, self.refused, self._below()
        if above not in self.rates or above is None:
            return best  # of an earlier batch, which has tried those between
        if self._is_free():
            return min((best + above) // 2, top)
        assert below is not None
        rate, fall = self._ratio(best, below), (self._ratio(above, below) - self._ratio(best, below)) / (above - best)
        meets = (rate - fall * best) / (1 / below - fall)
        return min(max(math.ceil(meets), below + 1), best)

    def _settle(self, time: float, reason: str, yields: bool = False) -> Decision:
        self.is_settled, self._searched, self._falls = True, time, 0
        self._pause = 2 * self._pause if self.best == self._settled_best else _PAUSE
        self._settled_best = self.best
        self._settings.update(*(rates.settings for rates in self.rates.values()))
        self._reference = self.rates.get(self.best)
        return self._set(self.best, f"settled: {reason}", yields)

    def _check(self, reading: Reading, rates: Rates) -> Decision | None:
        """Compare a window of the settled number with the one that it was settled by."""
        reference = self._reference
        if reference is None or reading.time - self._searched < self._pause:
            self._reference = reference or rates
            return None
        has_new_settings = not self._settings & rates.settings.keys()
        ratio = relative_speed(reference, rates, only_alike=True) or 1.0
        self._falls = self._falls + 1 if ratio < 1 - _FALL else 0
        if self._falls >= 2 and self.best > 1:
            self._reopen(rates)
            return self._set(self.best - 1, f"the rate fell: {_percent(ratio - 1)} than before", yields=True)
        most = min(self.cap, len(reading.runs) + reading.waiting, reading.room.largest()[0] or self.cap)
        if most > self.best and (self.refused is None or has_new_settings):
            self._reopen(rates)
            return self._continue(reading, "runs of other settings" if has_new_settings else "more runs fit")
        return None

    def _reopen(self, rates: Rates) -> None:
        """Search again, from the current number and its rates."""
        self.is_settled, self._is_reopened, self.refused = False, True, None
        self.rates = {self.slots: rates}

    def _ratio(self, number: int, base: int) -> float:
        """Return the rate of the whole with `number` runs at a time, relative to `base`."""
        speed = relative_speed(self.rates[base], self.rates[number])
        return number / base * speed if speed is not None else 1.0

    def _set(self, slots: int, reason: str, yields: bool = False) -> Decision:
        self.slots = slots
        return Decision(slots, reason, yields)


def _percent(change: float) -> str:
    return f"{abs(change):.0%} {'faster' if change >= 0 else 'slower'}".replace("%", " %")
