"""Text in cells: cleaned, measured, shortened and folded."""
from __future__ import annotations

import pytest

from src.terminal import cells


@pytest.mark.parametrize(("text", "columns", "short"), [
    ("abcdefghij", 10, "abcdefghij"), ("abcdefghij", 7, "abc…hij"), ("abcdefghij", 6, "abc…ij"), ("abc", 2, "a…"),
    ("abc", 1, "…"), ("abc", 0, ""), ("日本語日本語", 7, "日本…語"), ("", 5, "")])
def test_shorten_keeps_both_ends(text: str, columns: int, short: str) -> None:
    assert cells.shorten(text, columns) == short
    assert cells.width(short) <= columns or cells.width(text) <= columns


@pytest.mark.parametrize(("text", "lines"), [
    ("short", ["short"]), ("", [""]), ("one two three four", ["one two", "    three", "    four"]),
    ("   python x.py y", ["   python", "       x.py", "       y"]),
    ("a 0123456789abc", ["a", "    012345", "    6789ab", "    c"]),
    ("0123456789abc", ["0123456789", "    abc"])])
def test_fold_breaks_at_blanks_and_keeps_all_text(text: str, lines: list[str]) -> None:
    assert cells.fold(text, 10) == lines
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_wrap_takes_the_width_of_characters_into_account() -> None:
    assert cells.wrap("abcdefg", 3) == ["abc", "def", "g"]
    assert cells.wrap("日本語", 3) == ["日", "本", "語"]
    assert cells.wrap("", 3) == [""]


@pytest.mark.parametrize(("text", "cleaned"), [
    ("plain ä", "plain ä"), ("\x1b[31mred\x1b[0m", "red"), ("a\nb\tc", "a\\nb\\tc"),
    ("\x1b]52;c;x\x07y\x9b2J", "y\\x9b2J"), ("\u202eleft\u200d\ud800", "\\u202eleft\\u200d\\ud800")])
def test_clean_text_is_printable_and_on_one_line(text: str, cleaned: str) -> None:
    assert cells.clean(text) == cleaned
    assert cleaned.isprintable()
