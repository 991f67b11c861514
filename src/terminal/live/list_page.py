"""The first page of the live screen: a header, the runs of one batch, and the keys."""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from rich.text import Text

from src.submission.status import retry_policy, states
from src.submission.status.observation import Run
from src.submission.status.status import StatusRow
from src.submission.system.terminal import count, format_duration
from src.terminal import cells, colors, run_columns
from src.terminal.cells import clean
from src.terminal.live import header, keys
from src.terminal.live.curve_page import CurvePage
from src.terminal.live.log_page import LogPage
from src.terminal.live.pages import HelpPage, Page, key_line
from src.terminal.live.reader import Batch, Reader, Snapshot
from src.terminal.live.run_list import GROUPS, NEEDS_DETAILS, RunList
from src.terminal.table import Fitted, fit

_KEYS = (("q", "quit"), ("?", "help"), ("↑↓", "move"), ("l", "log"), ("c", "curves"), ("s", "sort"), ("f", "states"),
         ("/", "find"), ("x", "cancel"), ("Tab", "batch"))
_MAX_MESSAGE = 5  # lines
_MESSAGE_SECONDS = 20.0  # for which a message is shown, unless a key is pressed before
HELP = (
    ("↑ ↓, j k", "select a run; Page Up, Page Down, Home, End, Space, g and G move further"),
    ("Enter, l", "the log of the selected run; it follows the end"),
    ("c", "its learning curves; ← → other metrics, y a logarithmic axis"),
    ("x, X", "cancel the run, or the batch, after a question"),
    ("s, S", "sort by the next column, or the previous one; R reverses the order"),
    ("f", f"show the next group of states: {', '.join(GROUPS)}"),
    ("/", "find: only runs with these words in their name, parameters, state, error or tags; Esc shows all again"),
    ("Tab, n, p", "the next batch, or the previous one (p)"),
    ("r", "read the files and query Slurm now"),
    ("q, Ctrl-C", "quit; runs go on. Ctrl-Z suspends"),
    ("bar", "█ ended well   x failed   ▒ running   ░ not yet"),
    ("run", "its index in the batch: `experiments.py logs BATCH:12` and `cancel BATCH:12` accept it"))


class ListPage(Page):
    """The runs of one batch. It opens the other pages."""

    def __init__(self, reader: Reader, cancel: Callable[[Batch, Run | None], None]) -> None:
        """cancel: starts to cancel a run, or with None the whole batch."""
        self._reader, self._cancel, self._opened = reader, cancel, time.monotonic()
        self._path: str | None = None  # of the batch that is shown
        self._lists: dict[str, RunList] = {}
        self._height = 1  # of the rows
        self._finding: str | None = None  # what was typed so far, while words to find are typed
        self._question: tuple[str, Run | None] | None = None  # what is cancelled if the answer is yes
        self._message = ("", 0.0)  # with the time.monotonic() at which it goes away

    def show_message(self, message: str, seconds: float = _MESSAGE_SECONDS) -> None:
        """Show a message above the keys until a key is pressed, or for some seconds. From any thread."""
        self._message = message, time.monotonic() + seconds

    def _number(self, snapshot: Snapshot) -> int:
        paths = [batch.observation.path for batch in snapshot.batches]
        return paths.index(self._path) if self._path in paths else 0

    def _batch(self) -> Batch | None:
        snapshot = self._reader.snapshot
        return snapshot.batches[self._number(snapshot)] if snapshot and snapshot.batches else None

    def _list(self, batch: Batch) -> RunList:
        return self._lists.setdefault(batch.observation.path, RunList())

    def selected(self) -> Run | None:
        """Return the selected run, as it was observed last."""
        batch = self._batch()
        run = self._list(batch).current() if batch else None
        return batch.observation.runs.get(run.name, run) if batch and run else None

    def lines(self, columns: int, height: int) -> list[Text]:
        """Return the page."""
        snapshot, batch = self._reader.snapshot, self._batch()
        if snapshot is None or batch is None:
            return [Text(f"reading the batches … {format_duration(time.monotonic() - self._opened)}  (q quits)")]
        runs = self._list(batch)
        runs.update(batch, self._reader.details, self._reader.changes)
        top = header.lines(snapshot, self._number(snapshot), time.time(), columns)
        bottom = self._bottom(snapshot, columns)
        self._height = max(1, height - len(top) - len(bottom) - 3)
        shown = runs.window(self._height)
        self._request(batch, runs, shown)
        current = runs.current()
        fitted = self._fitted(batch, shown, columns)
        sorting = self._sorting(batch, runs, fitted, columns)
        body = [Text(f"  {''.join(fitted.header())}".ljust(columns), colors.DIM)] if shown else [
            Text("  no run matches", colors.DIM)]
        for index, run in enumerate(shown):
            body.append(self._row(fitted, index, run, is_selected=current is not None and run.name == current.name,
                                  columns=columns))
        body += [Text()] * (self._height + 1 - len(body))
        return [*top, *body, sorting, self._detail(current, columns), *bottom]

    def _request(self, batch: Batch, runs: RunList, shown: Sequence[Run]) -> None:
        """Request the results that are missing: of all runs if these are sorted by them, those in view first."""
        names = {run.name for run in shown}
        rest = [run for run in batch.observation.runs.values() if run.name not in names]
        self._reader.want(batch, [*shown, *(rest if runs.order in NEEDS_DETAILS else [])])

    def _fitted(self, batch: Batch, shown: Sequence[Run], columns: int) -> Fitted:
        """The columns of the rows in view. A run whose results are not read yet has a row without them."""
        items = [self._reader.details.get(run.path) for run in shown]
        rows = [item.row._replace(state=run.state.name) if item else StatusRow(
            run.name, run.state.name, 0, None, None, None, None, run.state.why, run.state.slurm_job)
            for run, item in zip(shown, items, strict=True)]
        titles = list(dict.fromkeys(title for item in items if item for title in item.curves))[:2]
        curves = [(title, [item.curves.get(title, "") if item else "" for item in items]) for title in titles]
        remarks = [item.remark if item else clean(run.state.why) for run, item in zip(shown, items, strict=True)]
        metrics = run_columns.best_metrics(rows)
        return fit(run_columns.columns(rows, remarks, batch.names, metrics, curves), columns - 2)

    def _row(self, fitted: Fitted, index: int, run: Run, is_selected: bool, columns: int) -> Text:
        text = Text("> " if is_selected else "  ", "reverse" if is_selected else "")
        for column, cell in zip(fitted.columns, fitted.row(index), strict=True):
            has_color = column.title == run_columns.STATE and not is_selected
            text.append(cell, colors.of_state(run.state.name) if has_color else "")
        if is_selected:
            text.append(" " * (columns - text.cell_len))
        return text

    def _sorting(self, batch: Batch, runs: RunList, fitted: Fitted, columns: int) -> Text:
        """Return a line about the order of the runs, and which are shown."""
        order = batch.names.varying.get(runs.order, runs.order)
        parts = [f"{len(runs.runs):,} of {count(len(batch.observation.runs), 'run')}",
                 f"sorted by {order}{', reversed' if runs.is_reversed else ''}"]
        if runs.order in NEEDS_DETAILS:
            missing = sum(run.path not in self._reader.details for run in batch.observation.runs.values())
            parts += [f"{missing:,} still to read"] if missing else []
        parts += [f"only {runs.group}"] if runs.group != "all" else []
        parts += [f"with '{clean(runs.text)}' (Esc: all)"] if runs.text else []
        metric = run_columns.best_metrics(item.row for run in runs.window(self._height)
                                          if (item := self._reader.details.get(run.path))).title
        parts += [f"best: {metric}"] if metric else []
        parts += [f"too narrow for {', '.join(fitted.left_out)}"] if fitted.left_out else []
        return Text(cells.truncate("  " + "  ·  ".join(parts), columns), colors.DIM)

    def _detail(self, run: Run | None, columns: int) -> Text:
        """The name of the selected run, and why it is in its state."""
        if run is None:
            return Text()
        item = self._reader.details.get(run.path)
        remark = item.remark if item else clean(run.state.why)
        space = columns - 2 - (min(len(remark) + 2, columns // 2) if remark else 0)
        name = cells.shorten(clean(run.name), space)
        return Text(f"  {name}", colors.BOLD).append(
            cells.truncate(f"  {remark}" if remark else "", columns - 2 - cells.width(name)),
            f"not bold {colors.of_state(run.state.name)}")

    def _bottom(self, snapshot: Snapshot, columns: int) -> list[Text]:
        """Return the last lines: the typed words, a question, or the keys, below a message if there is one."""
        if self._finding is not None:
            typed = f"find: {clean(self._finding)}▏ Enter keeps it, Esc shows all"
            return [Text(cells.truncate(typed, columns), "bold")]
        if self._question:
            return _folded(f"{self._question[0]} y: yes, any other key: no", columns)
        pairs = _KEYS if len(snapshot.batches) > 1 else _KEYS[:-1]
        over = (("", "every run has ended or is stuck"),) if snapshot.is_over else ()
        message, end = self._message
        shown = _folded(message, columns) if time.monotonic() < end else []
        return [*shown, key_line((*pairs[:1], *over, *pairs[1:]), columns)]

    def press(self, key: str) -> Page | None:
        """React to a key."""
        self._message = ("", 0.0)
        batch = self._batch()
        if batch is None:
            return None if key == "q" else self
        runs = self._list(batch)
        if self._finding is not None:
            self._type(key, runs)
        elif self._question:
            self._answer(key, batch)
        elif key == "q":
            return None
        else:
            return self._command(key, batch, runs)
        return self

    def _type(self, key: str, runs: RunList) -> None:
        """Edit the words to find; the list follows at once."""
        assert self._finding is not None
        if key == keys.BACKSPACE:
            self._finding = self._finding[:-1]
        elif len(key) == 1:
            self._finding += key
        runs.text = "" if key == keys.ESCAPE else self._finding
        if key in (keys.ENTER, keys.ESCAPE):
            self._finding = None

    def _answer(self, key: str, batch: Batch) -> None:
        assert self._question is not None
        _, run = self._question
        self._question = None
        if key in ("y", "Y"):
            self.show_message("cancelling …", math.inf)  # until its result
            self._cancel(batch, run)
        else:
            self.show_message("nothing was cancelled")

    def _command(self, key: str, batch: Batch, runs: RunList) -> Page | None:
        run = self.selected()
        steps = {keys.UP: -1, "k": -1, keys.DOWN: 1, "j": 1, keys.PAGE_UP: -self._height, keys.PAGE_DOWN: self._height,
                 " ": self._height, keys.HOME: -1e9, "g": -1e9, keys.END: 1e9, "G": 1e9}
        if key in steps:
            runs.move(steps[key])
        elif key in ("l", keys.ENTER) and run:
            return LogPage(run)
        elif key == "c" and run:
            return CurvePage(self.selected, batch.metric, runs.move)
        elif key in ("?", "h"):
            return HelpPage(HELP)
        elif key == "X" or key == "x" and run:
            self._ask(batch, run if key == "x" else None)
        elif key in (keys.TAB, keys.BACKTAB, "n", "p"):
            self._change_batch(1 if key in (keys.TAB, "n") else -1)
        else:
            self._arrange(key, batch, runs)
        return self

    def _arrange(self, key: str, batch: Batch, runs: RunList) -> None:
        """Sort, filter, or read anew."""
        if key in ("s", "S"):
            runs.cycle_order(batch, 1 if key == "s" else -1)
        elif key == "R":
            runs.is_reversed = not runs.is_reversed
        elif key == "f":
            runs.cycle_group()
        elif key == "/":
            self._finding = runs.text
        elif key == keys.ESCAPE:
            runs.text, runs.group = "", "all"
        elif key == "r":
            self._reader.refresh()

    def _change_batch(self, step: int) -> None:
        snapshot = self._reader.snapshot
        if snapshot:
            number = (self._number(snapshot) + step) % len(snapshot.batches)
            self._path = snapshot.batches[number].observation.path

    def _ask(self, batch: Batch, run: Run | None) -> None:
        """Ask whether to cancel a run, or the batch."""
        runs = [run] if run else list(batch.observation.runs.values())
        alive = [item for item in runs if item.state.name in retry_policy.MAYBE_ALIVE]
        if not alive:
            self.show_message("nothing is pending or running" if run is None else
                              f"this run is {states.shown(run.state.name)}: there is nothing to cancel")
            return
        target = f"{clean(run.name)} ({states.shown(run.state.name)})" if run else (
            f"all of {clean(batch.observation.path)} ({count(len(alive), 'run')} pending or running)")
        self._question = f"Cancel {target}?", run


def _folded(text: str, columns: int) -> list[Text]:
    return [Text(line, colors.BOLD) for line in cells.fold(clean(text), columns)[:_MAX_MESSAGE]]
