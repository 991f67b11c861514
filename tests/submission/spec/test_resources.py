"""Resources of a job spec: strict keys and values, and a script of the form that the project's own have."""
from __future__ import annotations

import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import JobSpecError
from src.submission.slurm.directives import effective
from src.submission.spec import resources
from tests.conftest import ROOT


def made(value: Any) -> str:
    return resources.submit_script(resources.parse_resources(value, "x.yaml"), "tiny")


def directives(value: Any) -> dict[str, str]:
    return effective(made(value))


def test_the_script_is_the_projects_own_but_for_what_differs() -> None:
    own = [line for line in (ROOT / "submit_2080.sh").read_text().splitlines() if line and line[:2] != "# "]
    text = made({"gpus": 1, "cpus_per_gpu": 4, "partition": "killable", "constraint": "geforce_rtx_2080",
                 "time": "2-00:00:00"}).splitlines()
    assert sorted(line for line in text if line and line[:2] != "# ") == sorted(own)


def test_cpus_follow_from_gpus_and_null_leaves_mem_out() -> None:
    assert directives({"gpus": "a100:2", "cpus_per_gpu": 3, "mem": None, "qos": "low", "account": "a"}) | {} == {
        "nodes": "1", "ntasks-per-node": "2", "cpus-per-task": "3", "gres": "gpu:a100:2", "qos": "low", "account": "a",
        "requeue": "", "open-mode": "append", "signal": "B:USR1@180"}
    assert directives({})["cpus-per-task"] == "2"
    assert directives({})["mem"] == "8G"
    assert "gres" not in directives({"gpus": 0})


@pytest.mark.parametrize(("value", "tasks", "cpus", "srun"), [
    ({"nodes": 2}, 1, 3, True), ({"nodes": 2, "gpus": 4}, 4, 3, True), ({"gpus": "a100:2"}, 2, 3, True),
    ({"gpus": 1}, 1, 3, False)])
def test_a_process_for_each_gpu_and_one_for_what_divides_them_itself(value: Any, tasks: int, cpus: int,
                                                                     srun: bool) -> None:
    value = {**value, "cpus_per_gpu": 3}
    found = directives(value)
    assert (found["nodes"], found.get("ntasks-per-node") or found["ntasks"], found["cpus-per-task"]) == (
        str(value.get("nodes", 1)), str(tasks), str(cpus))
    start = f"exec srun --kill-on-bad-exit=1 --cpus-per-task={cpus} python" if srun else "exec python"
    assert made(value).endswith(f'\n{start} train.py "$@"\n')
    text = resources.submit_script(resources.parse_resources(value, "x.yaml"), "tiny", one_process=True)
    assert f"#SBATCH --cpus-per-task={tasks * cpus}\n" in text
    assert f"#SBATCH --ntasks{'-per-node' if value.get('nodes') else ''}=1\n" in text
    assert text.endswith('\nexec python train.py "$@"\n')


def test_setup_stands_instead_of_activate() -> None:
    text = made({"setup": ["module load cuda", "export A='b c'"]})
    assert "\nset -euo pipefail\nmodule load cuda\nexport A='b c'\n" in text
    assert "activate" not in text
    assert text.endswith('\nexec python train.py "$@"\n')


@pytest.mark.parametrize(("value", "words"), [
    ({"gpu": 1}, "did you mean 'gpus'?"),
    ({"licenses": 1}, "job_details.sbatch takes any option"),
    ([], "a mapping"),
    ({"nodes": 0}, "nodes is 0"),
    ({"nodes": None}, "nodes is None"),
    ({"gpus": -1}, "gpus is -1"),
    ({"gpus": True}, "gpus is True"),
    ({"gpus": "two"}, "as a100:2"),
    ({"cpus_per_gpu": 1.5}, "a number from 1 on"),
    ({"mem": "16 GB"}, "as 16G"),
    ({"time": "tomorrow"}, "1-12:00:00"),
    ({"partition": 3}, "partition is 3"),
    ({"partition": "a b"}, "without blanks"),
    ({"partition": ""}, "without blanks"),
    ({"qos": "x\n#SBATCH --wrap=y"}, "without blanks"),
    ({"setup": "module load cuda"}, "a list of shell lines"),
    ({"setup": ["a\nb"]}, "a list of shell lines"),
    ({"setup": ["a\x1b"]}, "a list of shell lines"),
])
def test_what_is_wrong_is_told(value: Any, words: str) -> None:
    with pytest.raises(JobSpecError) as error:
        resources.parse_resources(value, "x.yaml, job_details, resources")
    assert words in str(error.value)
    assert str(error.value).startswith("x.yaml, job_details, resources: ")


@given(value=st.dictionaries(st.sampled_from(("mem", "time", "partition", "constraint", "account", "qos", "gpus")),
                             st.text(), min_size=1))
def test_no_value_becomes_more_than_the_value_of_a_directive(value: dict[str, str]) -> None:
    try:
        text = made(value)
    except JobSpecError:
        return
    usual = made({"gpus": 1, **dict.fromkeys(("time", "partition", "constraint", "account", "qos"), "1")})
    before, after = (text.partition("set -euo") for text in (text, usual))
    assert before[2] == after[2]
    assert all(line.startswith("#") for line in before[0].splitlines() if line)


def test_any_constraint_that_slurm_knows_and_a_shell_would_not() -> None:
    text = made({"constraint": "[rack1*2&rack2*4]|(a100&ib)"})
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
