"""Tables that fit the width of a terminal: optional columns are left out, then long cells shortened in the middle."""
from __future__ import annotations

from collections.abc import Sequence

from src.frozen import Frozen
from src.terminal import cells
from src.terminal.cells import width

_GAP = 2  # cells between columns


class Column(Frozen):
    """A column.

    title, short_title: of which the second is used where the cells are narrower than the first;
    cells: cleaned texts;
    wish: width above which it is shortened before an optional column is left out;
    floor: width below which it is not shortened;
    optional: columns with a higher number are left out first; 0: never, but the last ones if nothing else helps;
    is_prose: shortened at its end instead of in its middle.
    """

    title: str
    cells: list[str]
    short_title: str = ""
    wish: int = 1000
    floor: int = 1000
    optional: int = 0
    is_prose: bool = False

    def natural_width(self, short: bool) -> int:
        """Return the width that it needs. short: with its short title."""
        title = self.short_title if short and self.short_title else self.title
        return max([width(title), *map(width, self.cells)])


class Fitted(Frozen):
    """Columns with their widths, and the titles of those left out although they are not optional."""

    columns: list[Column]
    widths: list[int]
    titles: list[str]
    left_out: list[str]

    def line(self, texts: Sequence[str]) -> list[str]:
        """Return the cells of one row, each as wide as its column, but the last one without trailing blanks."""
        padded = [cells.pad((cells.truncate if column.is_prose else cells.shorten)(text, size), size + _GAP)
                  for text, size, column in zip(texts, self.widths, self.columns, strict=True)]
        return [*padded[:-1], padded[-1].rstrip()]

    def header(self) -> list[str]:
        """Return the titles as a row."""
        return self.line(self.titles)

    def row(self, index: int) -> list[str]:
        """Return the cells of a row of the columns."""
        return self.line([column.cells[index] for column in self.columns])


def fit(columns: Sequence[Column], limit: int) -> Fitted:
    """Choose the widths of columns so that a row takes at most `limit` cells. Columns without any text are left out."""
    kept = [column for column in columns if any(column.cells)] or list(columns[:1])
    left_out: list[str] = []
    while not (widths := _shrink(kept, limit, False) or _shrink(kept, limit, True)):
        optional = max(kept, key=lambda column: column.optional)
        if not optional.optional or len(kept) == 1:
            break
        kept.remove(optional)
    while not widths and not (widths := _shrink(kept, limit, True, to_floor=True)):
        if len(kept) == 1:
            widths = [max(limit, 1)]
            break
        left_out.insert(0, kept.pop().title)
    return _fitted(kept, widths, left_out)


def _fitted(kept: list[Column], widths: list[int], left_out: list[str]) -> Fitted:
    titles = [column.title if width(column.title) <= size else cells.truncate(column.short_title or column.title, size)
              for column, size in zip(kept, widths, strict=True)]
    return Fitted(kept, widths, titles, list(filter(None, left_out)))


def _shrink(columns: Sequence[Column], limit: int, short: bool, to_floor: bool = False) -> list[int]:
    """Return widths that fit, of which none is below the wish of its column, or its floor; the widest are reduced
    first. Empty if none do. short: with short titles.
    """
    widths = [column.natural_width(short) for column in columns]
    floors = [min(size, column.floor if to_floor else column.wish)
              for size, column in zip(widths, columns, strict=True)]
    excess = sum(widths) + _GAP * (len(widths) - 1) - limit
    if excess > sum(widths) - sum(floors):
        return []
    while excess > 0:
        index = max(range(len(widths)), key=lambda index: (widths[index] > floors[index], widths[index]))
        widths[index] -= 1
        excess -= 1
    return widths
