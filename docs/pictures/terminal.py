"""A recorded terminal session as an animated SVG: a small terminal emulator, and one group of text per frame."""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

_CELL, _LINE, _MARGIN = 8, 18, 16  # pixels: width and height of a character, space around the text
_STYLE = f"""
.frame {{ font: {_CELL / 0.6:.2f}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }}
.window {{ fill: #0d1117; stroke: #6e7681 }}
text {{ fill: #c9d1d9 }}
.command {{ fill: #ffffff; font-weight: bold }}
.prompt {{ fill: #3fb950 }}
"""
_SEQUENCE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")
PROMPT = "$ "

Rows = tuple[str, ...]


class Event(NamedTuple):
    """Output of the session. time: seconds since it began."""

    time: float
    text: str


class Frame(NamedTuple):
    """The content of the screen, and for how many seconds it is shown."""

    seconds: float
    rows: Rows


class Screen:
    """The screen of a terminal, for the control sequences that the project's commands print."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self._rows = [""] * lines
        self._row = self._column = 0
        self._other, self._place = [""] * lines, (0, 0)  # the screen that is not shown, and the cursor in it

    def rows(self) -> Rows:
        """Return the text of each line, without trailing blanks."""
        return tuple(row.rstrip() for row in self._rows)

    def feed(self, text: str) -> None:
        """Show output. Raises ValueError for a control sequence that is not supported."""
        position = 0
        while position < len(text):
            character = text[position]
            if character == "\x1b":
                sequence = _SEQUENCE.match(text, position)
                if not sequence:
                    raise ValueError(f"unsupported control sequence {text[position:position + 8]!r}")
                self._control(*sequence.groups())
                position = sequence.end()
                continue
            if character == "\r":
                self._column = 0
            elif character == "\n":
                self._next_line()
            elif character >= " ":
                self._put(character)
            else:
                raise ValueError(f"unsupported control character {character!r}")
            position += 1

    def _put(self, character: str) -> None:
        if self._column == self.columns:  # the line wraps only when another character comes
            self._column = 0
            self._next_line()
        row = self._rows[self._row].ljust(self._column)
        self._rows[self._row] = row[:self._column] + character + row[self._column + 1:]
        self._column += 1

    def _next_line(self) -> None:
        if self._row + 1 < self.lines:
            self._row += 1
        else:
            self._rows = [*self._rows[1:], ""]

    def _control(self, arguments: str, command: str) -> None:
        if command == "H" and "?" not in arguments:
            row, column = (int(number or 1) for number in (arguments if ";" in arguments else ";").split(";"))
            self._row, self._column = row - 1, column - 1
        elif command == "J" and arguments == "2":
            self._rows = [""] * self.lines
        elif command == "K" and arguments in ("", "2"):
            self._rows[self._row] = "" if arguments else self._rows[self._row][:self._column]
        elif arguments == "?1049" and command in "hl":  # show the other screen, and the first one again
            self._rows, self._other = self._other, self._rows if command == "h" else [""] * self.lines
            self._row, self._column, self._place = *self._place, (self._row, self._column)
        elif command != "m" and not (arguments == "?25" and command in "hl"):  # colors, the cursor
            raise ValueError(f"unsupported control sequence ESC [ {arguments}{command}")


def frames(events: Iterable[Event], screen: Screen, shortest: float, longest: float) -> list[Frame]:
    """Return the frames of a session.

    Output that follows within `shortest` seconds belongs to the same frame. No frame is shown for more than `longest`
    seconds, however long the program took.
    """
    found: list[Frame] = []
    start = None
    for time, text in events:
        if start is not None and time - start >= shortest:
            found.append(Frame(min(time - start, longest), screen.rows()))
            start = None
        screen.feed(text)
        start = time if start is None else start
    return [*found, Frame(longest, screen.rows())]


def sample(session: Sequence[Frame], number: int) -> list[Frame]:
    """Return at most `number` frames, at equal distances."""
    if len(session) <= number:
        return list(session)
    return [session[len(session) * index // number] for index in range(number)]


def svg(session: Sequence[Frame], columns: int, lines: int, still: int, title: str) -> str:
    """Return the session as an SVG that plays in a loop.

    still: index of the frame that is shown where nothing may move: to readers who prefer reduced motion, and by
    programs that do not animate.
    """
    width, height = columns * _CELL + 2 * _MARGIN, lines * _LINE + 2 * _MARGIN
    identifiers: dict[str, str] = {}
    groups = []
    for index, frame in enumerate(session):
        lines_of_frame = [f'<use href="#{identifiers.setdefault(row, f"r{len(identifiers)}")}" y="{line * _LINE}"/>'
                          for line, row in enumerate(frame.rows) if row]
        groups.append(f'<g transform="translate(0 {index * height})">{"".join(lines_of_frame)}</g>')
    texts = "\n".join(_text(identifier, row) for row, identifier in identifiers.items())
    newline = "\n"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">
<title>{escape(title)}</title>
<style>{_STYLE}.frames {{ transform: translateY({-still * height}px) }}
{_keyframes([frame.seconds for frame in session], height)}
@media (prefers-reduced-motion: reduce) {{ .frames {{ animation: none }} }}
</style>
<defs>
{texts}
</defs>
<rect class="window" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>
<svg class="frame" width="{width}" height="{height}">
<g class="frames">
{newline.join(groups)}
</g>
</svg>
</svg>
"""


def _keyframes(seconds: Sequence[float], height: int) -> str:
    total, passed, steps = sum(seconds), 0.0, []
    for index, duration in enumerate(seconds):
        steps.append(f"{100 * passed / total:.3f}% {{ transform: translateY({-index * height}px) }}")
        passed += duration
    return (f".frames {{ animation: session {total:.1f}s step-end infinite }}\n"
            f"@keyframes session {{\n" + "\n".join(steps) + "\n}")


def _text(identifier: str, row: str) -> str:
    """A line of text. Each part between two or more blanks has its own place, whatever font the reader has."""
    parts = []
    if f"{row} ".startswith(PROMPT):
        parts.append(_span(0, PROMPT.rstrip(), "prompt"))
        row = row[len(PROMPT):].rjust(len(row))
    kind = "command" if parts else ""
    for match in re.finditer(r"\S+(?: \S+)*", row):
        parts.append(_span(match.start(), match[0], kind))
    return f'<text id="{identifier}" y="{_MARGIN + 14}">{"".join(parts)}</text>'


def _span(column: int, text: str, kind: str) -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<tspan x="{_MARGIN + column * _CELL}" textLength="{len(text) * _CELL}"{css}>{escape(text)}</tspan>'
