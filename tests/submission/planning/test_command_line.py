"""The command line of submit_multiple.py."""
from __future__ import annotations

import pytest

from src.submission.planning import command_line


@pytest.mark.parametrize(("text", "value"), [
    ("2024_01", "2024_01"), ("1e3", "1e3"), ("8", "8"), ("a=b,c", "a=b,c"), ('"a b"', '"a b"'), ("[x]", "[x]"),
    ("true", True), ("False", False), ("null", None), ("", None)])
def test_value_of_sbatch_is_text(text: str, value: str | bool | None) -> None:
    assert command_line.parse(["x.yaml", "--sbatch", f"account={text}"]).sbatch == {"account": value}
