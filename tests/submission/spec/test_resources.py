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


def test_script_has_the_form_of_submit_2080() -> None:
    own = [line for line in (ROOT / "submit_2080.sh").read_text().splitlines() if line and line[:2] != "# "]
    text = made({"gpus": 1, "cpus_per_gpu": 4, "partition": "killable", "constraint": "geforce_rtx_2080",
                 "time": "12:00:00"}).splitlines()
    assert sorted(line for line in text if line and line[:2] != "# ") == sorted(own)


def test_cpus_follow_from_gpus_and_null_omits_mem() -> None:
    assert directives({"gpus": "a100:2", "cpus_per_gpu": 3, "mem": None, "qos": "low", "account": "a"}) | {} == {
        "nodes": "1", "ntasks-per-node": "2", "cpus-per-task": "3", "gres": "gpu:a100:2", "qos": "low", "account": "a",
        "requeue": "", "open-mode": "append", "signal": "B:USR1@180"}
    assert directives({})["cpus-per-task"] == "2"
    assert directives({"account": 2024})["account"] == "2024"
    assert directives({})["mem"] == "8G"
    assert "gres" not in directives({"gpus": 0})


@pytest.mark.parametrize(("value", "tasks", "cpus", "srun"), [
    ({"nodes": 2}, 1, 3, True), ({"nodes": 2, "gpus": 4}, 4, 3, True), ({"gpus": "a100:2"}, 2, 3, True),
    ({"gpus": 1}, 1, 3, False)])
def test_one_process_per_gpu_or_one_that_divides_them(value: Any, tasks: int, cpus: int,
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


def test_setup_replaces_activate() -> None:
    text = made({"setup": ["module load cuda", "export A='b c'"]})
    assert "\nset -euo pipefail\nmodule load cuda\nexport A='b c'\n" in text
    assert "activate" not in text
    assert text.endswith('\nexec python train.py "$@"\n')


@pytest.mark.parametrize(("value", "words"), [
    ({"gpu": 1}, "did you mean 'gpus'?"),
    ({"licenses": 1}, "job_details.sbatch accepts any option"),
    ([], "must be a mapping"),
    ({"nodes": 0}, "invalid nodes 0"),
    ({"nodes": None}, "invalid nodes None"),
    ({"gpus": -1}, "invalid gpus -1"),
    ({"gpus": True}, "invalid gpus True"),
    ({"gpus": "two"}, "as a100:2"),
    ({"cpus_per_gpu": 1.5}, "a number from 1"),
    ({"mem": "16 GB"}, "as 16G"),
    ({"time": "tomorrow"}, "1-12:00:00"),
    ({"partition": True}, "invalid partition True"),
    ({"partition": "a b"}, "without blanks"),
    ({"partition": ""}, "without blanks"),
    ({"qos": "x\n#SBATCH --wrap=y"}, "without blanks"),
    ({"setup": "module load cuda"}, "a list of shell lines"),
    ({"setup": ["a\nb"]}, "a list of shell lines"),
    ({"setup": ["a\x1b"]}, "a list of shell lines"),
    ({"cpus": 0}, "invalid cpus 0; allowed: a number from 1"),
    ({"cpus": None}, "invalid cpus None"),
    ({"cpus": 6, "gpus": 4}, "6 CPUs cannot be divided evenly among 4 GPUs"),
    ({"cpus": 4, "cpus_per_gpu": 2}, "exclude each other"),
])
def test_invalid_resources_are_refused(value: Any, words: str) -> None:
    with pytest.raises(JobSpecError) as error:
        resources.parse_resources(value, "x.yaml, job_details, resources")
    assert words in str(error.value)
    assert str(error.value).startswith("x.yaml, job_details, resources: ")


@given(value=st.dictionaries(st.sampled_from(("mem", "time", "partition", "constraint", "account", "qos", "gpus")),
                             st.text(), min_size=1))
def test_values_cannot_add_lines_to_the_script(value: dict[str, str]) -> None:
    try:
        text = made(value)
    except JobSpecError:
        return
    usual = made({"gpus": 1, **dict.fromkeys(("time", "partition", "constraint", "account", "qos"), "1")})
    before, after = (text.partition("set -euo") for text in (text, usual))
    assert before[2] == after[2]
    assert all(line.startswith("#") for line in before[0].splitlines() if line)


def test_constraints_of_slurm_are_valid_in_bash() -> None:
    text = made({"constraint": "[rack1*2&rack2*4]|(a100&ib)"})
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize(("value", "cpus_per_gpu"), [
    ({"cpus": 2}, 2), ({"cpus": 8, "gpus": 4}, 2), ({"cpus": 8, "gpus": "a100:2"}, 4), ({"cpus": 3, "nodes": 2}, 3)])
def test_cpus_are_those_of_each_node(value: Any, cpus_per_gpu: int) -> None:
    parsed = resources.parse_resources(value, "x.yaml")
    assert parsed.cpus_per_gpu == cpus_per_gpu
    script = resources.submit_script(parsed, "tiny", one_process=True)
    assert f"#SBATCH --cpus-per-task={value['cpus']}\n" in script


@pytest.mark.parametrize(("key", "similar"), [
    ("cpu", "cpus"), ("cores", "cpus"), ("cpus_per_task", "cpus"), ("memory", "mem"), ("gpus_per_node", "gpus"),
    ("gpu", "gpus"), ("partitions", "partition"), ("cpus_per_gpus", "cpus_per_gpu"), ("walltime", "time")])
def test_an_unknown_key_lists_all_keys_and_suggests_the_one_with_its_meaning(key: str, similar: str) -> None:
    with pytest.raises(JobSpecError) as error:
        resources.parse_resources({key: 1}, "x.yaml")
    assert str(error.value) == (f"x.yaml: unknown key '{key}'; allowed: cpus, nodes, gpus, cpus_per_gpu, mem, time, "
                                f"partition, constraint, account, qos, setup; did you mean '{similar}'?")


@pytest.mark.parametrize("key", ["nodelist", "exclude", "mem_per_cpu", "comment", "exclusive", "signal"])
def test_an_option_of_sbatch_is_not_taken_for_a_misspelling(key: str) -> None:
    with pytest.raises(JobSpecError, match=r"setup; job_details\.sbatch accepts any option of sbatch$"):
        resources.parse_resources({key: 1}, "x.yaml")
