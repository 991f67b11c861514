"""#SBATCH lines are parsed as sbatch parses them."""
from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.submission.slurm import directives
from src.submission.slurm.directives import Option


@pytest.mark.parametrize(("line", "options"), [
    ("--mem=8G", {"mem": "8G"}), ("--mem 8G", {"mem": "8G"}), ("-p x", {"partition": "x"}), ("-px", {"partition": "x"}),
    ("--nodes=1 --exclude=node1", {"nodes": "1", "exclude": "node1"}),
    ("-N1 -x node1,node2 --requeue -c 4", {
        "nodes": "1", "exclude": "node1,node2", "requeue": "", "cpus-per-task": "4"}),
    ("-Hn4", {"hold": "", "ntasks": "4"}), ("--exclusive -t 5", {"exclusive": "", "time": "5"}),
    ("--exclusive=user", {"exclusive": "user"}), ("--nice --hold", {"nice": "", "hold": ""}),
    ("--tasks=3", {"ntasks": "3"}), ("--a-plugins-option value", {"a-plugins-option": "value"}),
    ("--mem=8G  # memory", {"mem": "8G"}), ("--mem=8G#memory", {"mem": "8G"}), ("# --mem=8G", {}), ("", {}),
    ("--job-name='two words' -t1", {"job-name": "two words", "time": "1"}),
    ('--constraint="a|b" --comment "#1"', {"constraint": "a|b", "comment": "#1"}),
    (r"--comment=a\ b\#c", {"comment": "a b#c"}), (r"--comment='it\'s'", {"comment": "it's"}), ("--qos=", {"qos": ""}),
    ("--mem=8G stray --time=5", {"mem": "8G"}), ("--requeue stray --time=5", {"requeue": ""}),
    ("--mem --time=5", {"mem": "", "time": "5"}), ("--comment='unmatched -t 5", {"comment": "unmatched -t 5"})])
def test_line_is_read_as_sbatch_reads_it(line: str, options: dict[str, str]) -> None:
    assert directives.effective(f"#!/bin/bash\n#SBATCH {line}\n") == options


def test_options_know_their_line_and_end_at_the_first_command() -> None:
    script = ("#!/bin/bash\n# note\n#SBATCH --mem=8G -H # memory\n\n  # note\n #SBATCH -n9\n#SBATCH\t-p x\n"
              "echo\n#SBATCH -t 1\n")
    assert directives.parse_script(script) == [Option("mem", "8G", 3), Option("hold", None, 3),
                                               Option("partition", "x", 7)]


def test_later_options_and_the_command_line_override() -> None:
    script = "#!/bin/bash\n#SBATCH -t 1 --mem=1G\n#SBATCH --time=2\n"
    assert directives.effective(script, ["--mem=2G", "--qos", "low", "--requeue"]) == {
        "time": "2", "mem": "2G", "qos": "low", "requeue": ""}


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Z"]), min_size=1), max_size=4))
def test_any_quoted_value_is_one_value(values: list[str]) -> None:
    escaped = [value.replace("\\", "\\\\") for value in values]  # a backslash escapes within single quotes too
    line = " ".join(f"--comment={shlex.quote(value)}" for value in escaped if "'" not in value)
    assert [option.value for option in directives.parse_script(f"#SBATCH {line}\n")] == [
        value for value in values if "'" not in value]


@pytest.mark.parametrize(("limit", "hours"), [
    ("90", 1.5), ("30:36", 0.51), ("12:00:00", 12), ("2-0", 48), ("1-12:30", 36.5), ("1-00:00:36", 24.01), ("0", 0),
    ("UNLIMITED", None), ("", None), ("1:2:3:4", None), ("1:", None), ("-3", None), ("2-1:2:3:4", None)])
def test_time_limits_are_parsed_as_slurm_does(limit: str, hours: float | None) -> None:
    assert directives.parse_time(limit) == (None if hours is None else pytest.approx(3600 * hours))
