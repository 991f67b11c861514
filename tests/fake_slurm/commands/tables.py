"""Output in rows: lines by a pattern, as squeue and sinfo print them, and tables, as sacct and sacctmgr do."""
from __future__ import annotations

from tests.fake_slurm.errors import unsupported

Columns = dict  # of (header, function from row to text) by letter or field name
_WIDTHS = {"jobid": 12, "exitcode": 8, "state": 10, "nodelist": 15, "start": 19, "end": 19, "submit": 19}


def format_line(command: str, pattern: str, columns: Columns, row: object | None) -> str:
    """Replace %LETTER, %WIDTHLETTER and %.WIDTHLETTER in a --format by the row's values, or by headers for None."""
    line, position = "", 0
    while position < len(pattern):
        if pattern[position] != "%":
            line += pattern[position]
            position += 1
            continue
        end = position + 1
        while pattern[end:end + 1] in tuple(".0123456789"):
            end += 1
        letter = pattern[end:end + 1]
        if letter not in columns:
            raise unsupported(f"{command} --format=%{letter}")
        header, value_of = columns[letter]
        line += _pad(header if row is None else value_of(row), pattern[position + 1:end])
        position = end + 1
    return line


def _pad(text: str, width: str) -> str:
    """Cut and align text to a width: to the right for ".10", to the left for "10", unchanged for ""."""
    if not width:
        return text
    size = int(width.lstrip("."))
    return (text.rjust(size) if width[0] == "." else text.ljust(size))[:size]


def format_table(header: list[str], rows: list[list[str]], fields: list[str], options: dict[str, str]) -> str:
    """Format rows with bars for --parsable and --parsable2, else in columns."""
    lines = rows if "noheader" in options else [header, *rows]
    if "parsable2" in options or "parsable" in options:
        return "".join("|".join(line) + ("|\n" if "parsable" in options else "\n") for line in lines)
    widths = [int(field.partition("%")[2] or _WIDTHS.get(field, 10)) for field in fields]
    if "noheader" not in options:
        lines.insert(1, ["-" * width for width in widths])
    return "".join(" ".join(map(_cell, line, widths, fields)) + " \n" for line in lines)


def _cell(text: str, width: int, field: str) -> str:
    text = text if len(text) <= width else f"{text[:width - 1]}+"
    return text.ljust(width) if field == "jobid" else text.rjust(width)
