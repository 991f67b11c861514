"""The command line of submit_multiple.py."""
from __future__ import annotations

import re
import shlex

import pytest

from src.submission.planning import command_line


@pytest.mark.parametrize(("text", "value"), [
    ("2024_01", "2024_01"), ("1e3", "1e3"), ("8", "8"), ("a=b,c", "a=b,c"), ('"a b"', '"a b"'), ("[x]", "[x]"),
    ("true", True), ("False", False), ("null", None), ("", None)])
def test_value_of_sbatch_is_text(text: str, value: str | bool | None) -> None:
    assert command_line.parse(["x.yaml", "--sbatch", f"account={text}"]).sbatch == {"account": value}


def test_help_begins_with_command_lines_that_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.parse(["--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: submit_multiple.py [options] path\n\n{command_line.EXAMPLES}\n\n")
    for line in command_line.EXAMPLES.splitlines():
        python, script, *arguments = shlex.split(re.split(r"(?<=\S)  ", line)[0])
        assert (python, script) == ("python", "submit_multiple.py")
        assert command_line.parse(arguments).path == "jobs/digits-quickstart.yaml"
