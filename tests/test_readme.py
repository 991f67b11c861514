"""The README keeps to its length, its numbers are those of the benchmarks, and its picture shows its commands."""
from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from docs.pictures import session, terminal
from docs.pictures.terminal import Event, Frame, Screen
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text("utf-8")
COMPARISON = (ROOT / "docs" / "comparison.md").read_text("utf-8")
SVG = ROOT / "docs" / "pictures" / "session.svg"


def section(page: str, heading: str) -> str:
    return page.split(f"## {heading}\n")[1].split("\n## ", 1)[0]


def test_readme_is_short() -> None:
    assert README.count("\n") <= 140


def test_setup_takes_two_commands() -> None:
    assert "```bash\nmake demo\nmake test\n```" in section(README, "Set up")


def test_highlights_are_figures_of_the_benchmarks() -> None:
    benchmarks = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    figures = re.findall(r"^\| .* \| ([\d.]+) \| [\d.]* ?\|$", benchmarks, re.M)
    highlights = section(README, "Highlights")
    factors = re.findall(r"([\d.]+) ×", highlights)
    assert len(re.findall(r"^- ", highlights, re.M)) == 5
    seconds = re.findall(r"([\d.]+) seconds", highlights)
    assert len(factors) >= 5 and seconds
    changed = "figures of docs/benchmarks.md have changed: update the highlights"
    assert {*factors, *seconds} <= set(figures), changed
    assert {int(divisor) for divisor in re.findall(r"1/(\d+)", highlights)} <= {
        round(1 / float(factor)) for factor in factors}, changed


def test_comparison_explains_each_row_and_version() -> None:
    table = section(README, "Compared with other tools")
    rows = re.findall(r"^\| ([a-z][^|]*) \|", table, re.M)
    headings = [heading.lower() for heading in re.findall(r"^## (.*)", COMPARISON, re.M)]
    assert rows
    for row in rows:
        assert any(heading in row or row in heading for heading in headings), row
    versions = re.findall(r"\d+\.\d+\.\d+", table)
    assert versions
    assert all(version in COMPARISON for version in versions)


def shown_lines() -> set[str]:
    """All lines of text in the picture, without their indentation."""
    root = ElementTree.fromstring(SVG.read_text("utf-8"))
    space = {"svg": "http://www.w3.org/2000/svg"}
    return {" ".join(span.text or "" for span in line.iterfind("svg:tspan", space))
            for line in root.iterfind(".//svg:text", space)}


def test_picture_shows_the_job_spec_and_the_commands_of_the_readme() -> None:
    lines = shown_lines()
    for line in session.job_spec().splitlines():
        assert re.sub(r"  +", " ", line.strip()) in lines, "make session"
    for command in session.COMMANDS:
        assert f"$ {command}" in lines, "make session"
    commands = [command.split(" --every")[0] for command in session.COMMANDS if command.startswith("python ")]
    assert [command for command in commands if command not in README] == ["python experiments.py report results/*"]


def test_picture_is_small_and_names_no_home() -> None:
    text = SVG.read_text("utf-8")
    assert len(text) < 200_000
    assert not re.search(r"/(home|root|Users)/", text)
    assert "running" in text and "report.html" in text


def screen_after(text: str, columns: int = 10, lines: int = 3) -> tuple[str, ...]:
    screen = Screen(columns, lines)
    screen.feed(text)
    return screen.rows()


def test_screen_wraps_scrolls_and_overwrites() -> None:
    assert screen_after("0123456789ab") == ("0123456789", "ab", "")
    assert screen_after("0123456789\r\nab") == ("0123456789", "ab", "")
    assert screen_after("a\r\nb\r\nc\r\nd") == ("b", "c", "d")
    assert screen_after("12/24\r\x1b[2K3") == ("3", "", "")
    assert screen_after("abc\rX") == ("Xbc", "", "")
    assert screen_after("a\r\nb\x1b[H\x1b[2Jc") == ("c", "", "")
    assert screen_after("abc\x1b[3;2Hx\x1b[1;2H\x1b[31mB\x1b[0m\x1b[K") == ("aB", "", " x")
    assert screen_after("mine\x1b[?1049h\x1b[?25l\x1b[2Jother") == ("other", "", "")
    assert screen_after("mine\x1b[?1049h\x1b[2Jother\x1b[?25h\x1b[?1049ls") == ("mines", "", "")


@pytest.mark.parametrize("sequence", ["\x1b[3A", "\x1b]0;title\x07", "\x07"])
def test_screen_refuses_sequences_that_it_does_not_support(sequence: str) -> None:
    with pytest.raises(ValueError, match="unsupported"):
        screen_after(sequence)


def test_frames_join_quick_output_and_shorten_long_waits() -> None:
    events = [Event(0.0, "a"), Event(0.05, "b"), Event(9.0, "c")]
    assert terminal.frames(events, Screen(4, 1), shortest=0.1, longest=2.0) == [
        Frame(2.0, ("ab",)), Frame(2.0, ("abc",))]


def test_sample_keeps_the_first_frame_and_the_number() -> None:
    frames = [Frame(1.0, (str(number),)) for number in range(10)]
    assert [frame.rows[0] for frame in terminal.sample(frames, 4)] == ["0", "2", "5", "7"]
    assert terminal.sample(frames, 20) == frames


def test_svg_places_each_part_of_a_line_and_escapes_it() -> None:
    text = terminal.svg([Frame(1.0, ("$ a <b", "x   y & z"))], columns=20, lines=2, still=0, title="<title>")
    root = ElementTree.fromstring(text)
    spans = [(span.get("x"), span.text) for span in root.iter("{http://www.w3.org/2000/svg}tspan")]
    assert spans == [("16", "$"), ("32", "a <b"), ("16", "x"), ("48", "y & z")]
