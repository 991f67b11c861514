"""The learning curves of a run on the live screen."""
from __future__ import annotations

from collections.abc import Callable

from rich.text import Text

from src import metrics, stats_csv
from src.metrics import Metric
from src.submission.status import states
from src.submission.status.observation import Run
from src.terminal import cells, chart, colors
from src.terminal.cells import clean
from src.terminal.live import keys
from src.terminal.live.pages import Page, key_line

_MIN_PANEL = 8  # lines of a curve with its title


class CurvePage(Page):
    """One or more curves of a run, as many as fit; the metric that runs are ranked by first."""

    interval = 5.0

    def __init__(self, run: Callable[[], Run | None], metric: Metric | None, move: Callable[[int], None]) -> None:
        """run: returns the selected run; move: selects another one."""
        self._run, self._metric, self._move = run, metric, move
        self._first, self._log = 0, False
        self._shown = 1

    def lines(self, columns: int, height: int) -> list[Text]:
        """Return the curves."""
        run = self._run()
        if run is None:
            return [Text("no run is selected")]
        stats = stats_csv.read(run.path)
        names = _ordered(stats, self._metric)
        state = states.shown(run.state.name)
        title = Text(cells.shorten(clean(run.name), columns - len(state) - 2), colors.BOLD).append(
            f"  {state}", "not bold")
        self._shown = max(1, min((height - 2) // _MIN_PANEL, len(names)))
        self._first %= max(1, len(names))
        shown = [names[(self._first + index) % len(names)] for index in range(self._shown)] if names else []
        body = [] if names else [Text("no values yet")]
        for index, name in enumerate(shown):
            size = (height - 2) * (index + 1) // len(shown) - (height - 2) * index // len(shown)
            body += self._panel(name, stats, columns, size)
        body += [Text()] * (height - 2 - len(body))
        pairs = [("Esc", "back"), ("←→", f"other metrics ({len(names)})"), ("↑↓", "other runs"),
                 ("y", "linear axis" if self._log else "logarithmic axis")]
        return [title, *body, key_line(pairs, columns)]

    def _panel(self, name: str, stats: stats_csv.Stats, columns: int, size: int) -> list[Text]:
        values = stats.numbers(name)
        finite = [value for value in values if value - value == 0]
        goal = metrics.direction(name, self._metric)
        best = f", best {(min if goal == metrics.MINIMIZE else max)(finite):.4g}" if finite and goal else ""
        last = f"last {finite[-1]:.4g}{best}, " if finite else ""
        title = f"{clean(name)}: {last}{len(values)} epochs{', logarithmic' if self._log else ''}"
        drawn = chart.draw(list(map(float, stats.epochs)), values, columns, size - 1, self._log)
        lines = [Text(cells.truncate(title, columns)), *(Text(line, colors.CYAN) for line in drawn)]
        return lines + [Text()] * (size - len(lines))

    def press(self, key: str) -> Page | None:
        """Show other metrics or runs, or close."""
        if key in (keys.ESCAPE, "q", "c", keys.BACKSPACE):
            return None
        if key in (keys.LEFT, keys.RIGHT):
            self._first += self._shown if key == keys.RIGHT else -self._shown
        elif key in (keys.UP, "k", keys.DOWN, "j"):
            self._move(-1 if key in (keys.UP, "k") else 1)
        elif key == "y":
            self._log = not self._log
        return self


def _ordered(stats: stats_csv.Stats, metric: Metric | None) -> list[str]:
    """The columns with numbers: those that runs are ranked by, the training loss, then the others."""
    names = [name for name in stats.names if name not in stats.words and name not in ("epoch", "step", "timestamp")]
    first = [*metrics.ranking_columns(names, metric), "train/loss"]
    return list(dict.fromkeys(name for name in (*first, *names) if name in names))
