"""The list of runs on the live screen: which are shown, in what order, and which one is selected."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from src import metrics
from src.submission.status import retry_policy, states
from src.submission.status.observation import Run
from src.terminal.live.reader import Batch, Details

# groups of states, by the name with which they are chosen
GROUPS: dict[str, frozenset[str]] = {
    "all": frozenset(states.ALL), "failed": retry_policy.UNSUCCESSFUL, "running": frozenset((states.RUNNING,)),
    "waiting": frozenset((states.PENDING, states.SUBMITTED, states.STUCK, states.NEW, states.PAUSED, states.UNKNOWN)),
    "ended": retry_policy.ENDED_WELL - {states.PAUSED}}
URGENCY, INDEX, STATE, EPOCHS, LEFT, BEST = "urgency", "run", "state", "epochs", "left", "best"
NEEDS_DETAILS = (EPOCHS, LEFT, BEST)  # orders for which the results of all runs are read
_STATE_ORDER = {state: position for position, state in enumerate(states.ALL)}
_LAST = (2, 0.0, "")  # the key of a run without a value, in either direction


class RunList:
    """The runs of one batch that match, in order, and the selected one, which stays selected when the order changes."""

    def __init__(self) -> None:
        self.order, self.is_reversed, self.group, self.text = URGENCY, False, "all", ""
        self.runs: list[Run] = []
        self.selected: str | None = None  # the name of a run; None for the first
        self.top = 0
        self._batch: Batch | None = None  # as of the last update
        self._version: tuple[object, ...] = ()

    def orders(self, batch: Batch) -> list[str]:
        """Return what the runs can be sorted by; parameters by their short names."""
        return [URGENCY, INDEX, STATE, *batch.names.varying, EPOCHS, LEFT, BEST]

    def cycle_order(self, batch: Batch, step: int = 1) -> None:
        """Sort by the next column."""
        orders = self.orders(batch)
        position = orders.index(self.order) if self.order in orders else 0
        self.order, self.is_reversed = orders[(position + step) % len(orders)], False

    def cycle_group(self) -> None:
        """Show the next group of states."""
        groups = list(GROUPS)
        self.group = groups[(groups.index(self.group) + 1) % len(groups)]

    def update(self, batch: Batch, details: Mapping[str, Details], changes: int = 0) -> None:
        """Select and sort the runs, if anything has changed. changes: how many times `details` has changed."""
        uses_details = bool(self.text) or self.order in NEEDS_DETAILS
        version = (self.order, self.is_reversed, self.group, self.text, changes if uses_details else 0)
        if batch is self._batch and version == self._version:
            return
        self._batch, self._version = batch, version
        words, shown = self.text.lower().split(), GROUPS[self.group]
        runs = [run for run in batch.observation.runs.values()
                if run.state.name in shown and (not words or _matches(run, words, batch, details))]
        if self.order != INDEX:
            key = self._key(batch, details)
            runs.sort(key=key)
            if self.is_reversed:  # runs without a value stay last
                number = sum(key(run)[0] < _LAST[0] for run in runs)
                runs[:number] = runs[:number][::-1]
        elif self.is_reversed:
            runs.reverse()
        self.runs = runs

    def _key(self, batch: Batch, details: Mapping[str, Details]) -> Callable[[Run], tuple[int, float, str]]:
        order = self.order
        if order == URGENCY:
            return lambda run: (0, urgency(run.state.name), "")
        if order == STATE:
            return lambda run: (0, _STATE_ORDER[run.state.name], "")
        if order in NEEDS_DETAILS:
            sign = -1 if order == BEST and _more_is_better(batch, details) else 1

            def by_result(run: Run) -> tuple[int, float, str]:
                item = details.get(run.path)
                values = {EPOCHS: item.row.epochs_done, LEFT: item.row.left, BEST: item.row.best} if item else {}
                value = values.get(order)
                return _LAST if value is None or value != value else (0, sign * value, "")

            return by_result
        return lambda run: _parameter_key(batch.names.names[run.name].values.get(order))

    def index(self) -> int:
        """Return the position of the selected run; 0 if it is not shown."""
        return next((index for index, run in enumerate(self.runs) if run.name == self.selected), 0)

    def current(self) -> Run | None:
        """Return the selected run; None if none is shown."""
        return self.runs[self.index()] if self.runs else None

    def move(self, step: float) -> None:
        """Select the run `step` rows below; infinity for the last one."""
        if self.runs:
            target = max(0, min(self.index() + step, len(self.runs) - 1))
            self.selected = self.runs[int(target)].name

    def window(self, height: int) -> Sequence[Run]:
        """Return the runs in view, of which the selected one is one, as far down as before if possible."""
        index = self.index()
        self.top = max(min(self.top, index, len(self.runs) - height), index - height + 1, 0)
        return self.runs[self.top:self.top + height]


def urgency(state: str) -> int:
    """Return the place of a state in the order of urgency: failed and running runs first."""
    if state in retry_policy.UNSUCCESSFUL:
        return 0
    if state in retry_policy.CLOSED:
        return 4
    return {states.RUNNING: 1, states.UNKNOWN: 2}.get(state, 3)


def _more_is_better(batch: Batch, details: Mapping[str, Details]) -> bool:
    column = next((item.row.metric for run in batch.observation.runs.values()
                   if (item := details.get(run.path)) and item.row.metric), None)
    return column is not None and metrics.direction(column, batch.metric) == metrics.MAXIMIZE


def _parameter_key(value: str | None) -> tuple[int, float, str]:
    if value is None:
        return _LAST
    try:
        number = float(value)
    except ValueError:
        return 1, 0.0, value
    return (1, 0.0, value) if math.isnan(number) else (0, number, "")


def _matches(run: Run, words: Sequence[str], batch: Batch, details: Mapping[str, Details]) -> bool:
    """Whether all words occur in the run's name, its parameters by their full names, its state, remark or tags."""
    item, names = details.get(run.path), batch.names
    values = names.names[run.name].values
    text = " ".join((run.name, states.shown(run.state.name), run.state.why, *(item.row.tags if item else ()),
                     *(f"{names.varying.get(short, short)}={value}" for short, value in values.items()))).lower()
    return all(word in text for word in words)
