"""Patterns of other people match as `re` does, or not at all if that could take long."""
from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src import metrics
from src.checks import patterns
from src.config import Config
from src.errors import ConfigError
from src.training.stopping import BestEpoch
from tests.conftest import ROOT

COLUMNS = ["epoch", "train/loss", "val/last/accuracy", "val/av/accuracy", "test/last/loss"]
SLOW = ["(a+)+$", "(a|a)*$", "(a+)+", "a?" * 30 + "a" * 30, ".*.*.*.*.*.*x", r"(a*)*\1", "(?=(a+)+$)",
        "(a|a)" * 30 + "b", "(?x)(a+) +$", "(?P<n>a)+(?P=n)", "(a*)(?(1)a|b)*", "(((a{99}){99}){99}){99}",
        "(?:a+){2,}$"]
INVALID = ["(", "a{2,1}", "[b-a]", "(?P<a", "*", "(" * 500, "a{9999999999999}"]


@pytest.mark.parametrize("pattern", [
    "val/.*/accuracy", "test/.*/(accuracy|r2)", "val/(last|av)/accuracy", ".*/.*/.*acc.*", "(?!train).*/loss",
    "(?i)VAL/.*", r"val/\w+/acc[a-z]*", "(val/)?last/accuracy", "train/loss|val/last/accuracy",
    "(?P<split>val|test)/.*"])
def test_patterns_as_people_write_them_match_as_re_does(pattern: str) -> None:
    patterns.check(pattern)
    for column in COLUMNS:
        assert patterns.fullmatch(pattern, column) == (re.fullmatch(pattern, column) is not None)
        assert patterns.search(pattern, column) == (re.search(pattern, column) is not None)


PIECES = st.lists(st.sampled_from((
    "a", "b", "ab", ".", "[ab]", "[^]a]", r"\(", "*", "+", "?", "{1,2}", "(", ")", "(?:", "|", "(?=", "(?!", "(?<=a)",
    "(?P<n>", "^", "$")), max_size=9).map("".join)


@given(PIECES, st.text("ab()", max_size=12))
def test_a_pattern_never_matches_otherwise_than_re_does(pattern: str, text: str) -> None:
    for quick, slow in ((patterns.search, "search"), (patterns.fullmatch, "fullmatch")):
        if quick(pattern, text):
            assert getattr(re, slow)(pattern, text)
    try:
        patterns.check(pattern)
    except ConfigError:
        return
    assert patterns.fullmatch(pattern, text) == (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize("pattern", [*SLOW, *INVALID])
def test_a_slow_or_invalid_pattern_is_refused_in_a_config_and_matches_nothing(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"could take very long|is not a regular expression"):
        Config.from_dict({"best_checkpoint_metric": pattern})
    code = ("import sys; from src.checks import patterns; pattern, text = sys.argv[1], 'a' * 60 + '!'\n"
            "assert not patterns.search(pattern, text) and not patterns.fullmatch(pattern, text)")
    assert subprocess.run([sys.executable, "-c", code, pattern], cwd=ROOT, timeout=300).returncode == 0


@pytest.mark.parametrize("pattern", SLOW)
def test_nothing_is_chosen_by_a_slow_pattern(pattern: str) -> None:
    """Also where a config is not checked: load_model reads those of other people's checkpoints."""
    columns = [f"{'a' * length}!" for length in range(30, 60)]
    for choose in (metrics.choosing_columns, BestEpoch):
        with pytest.raises(ConfigError, match="matches no metric"):
            choose(pattern, columns, None)
