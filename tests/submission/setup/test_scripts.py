"""The submit scripts of setup: what they ask Slurm for, read by the parser that submissions use."""
from __future__ import annotations

import subprocess

import pytest

from src.submission.setup import scripts
from src.submission.setup.site import NodeType, Partition
from src.submission.slurm import directives
from tests.conftest import ROOT

CPU, GPU = ((ROOT / name).read_text() for name in ("submit_cpu.sh", "submit_2080.sh"))
SHORT = Partition("short", True, 3600, "")
GUEST = Partition("guest", False, None, "REQUEUE")


def options(text: str) -> dict[str, str]:
    return directives.effective(text)


def test_cpu_script_keeps_within_the_limit_of_the_partition() -> None:
    script = scripts.cpu_script(CPU, SHORT, "ml")
    chosen = options(script.text)
    assert (chosen["partition"], chosen["time"], chosen["account"]) == ("short", "01:00:00", "ml")
    assert chosen["mem"] == options(CPU)["mem"]
    assert "its jobs are not preempted" in script.text
    assert "the limit of the partition" in script.text
    assert "hree hours" not in script.text
    assert options(scripts.cpu_script(CPU, GUEST, None).text)["time"] == "03:00:00"


@pytest.mark.parametrize(("node", "gres", "constraint", "cpus", "mem", "name"), [
    (NodeType("guest", 8, 64, 512_000, 4, "a100", False), "gpu:a100:1", None, "8", "32G", "submit_a100.sh"),
    (NodeType("guest", 8, 8, 16_000, 2, "geforce_rtx_2080", True), "gpu:1", "geforce_rtx_2080", "4", "7G",
     "submit_geforce_rtx_2080.sh"),
    (NodeType("guest", 8, 4, 4_000, 8, "", False), "gpu:1", None, "1", "2G", "submit_gpu.sh")])
def test_gpu_script_asks_for_the_share_of_one_gpu(node: NodeType, gres: str, constraint: str | None, cpus: str,
                                                  mem: str, name: str) -> None:
    script = scripts.gpu_script(GPU, GUEST, node, None)
    chosen = options(script.text)
    assert (script.name, chosen["gres"], chosen.get("constraint"), chosen["cpus-per-task"], chosen["mem"]) == (
        name, gres, constraint, cpus, mem)
    assert "account" not in chosen
    assert "about four CPUs" not in script.text, "it has as many as a node has per GPU"
    assert "the limit of the partition" not in script.text, "it requests twelve hours"
    assert "2080" not in script.text or constraint == "geforce_rtx_2080"
    assert subprocess.run(["bash", "-n"], input=script.text, text=True, check=False).returncode == 0


def test_memory_line_goes_where_slurm_refuses_it() -> None:
    script = scripts.without_memory(scripts.cpu_script(CPU, SHORT, None), "Memory specification can not be satisfied")
    assert "mem" not in options(script.text)
    assert script.reasons[-1] == "no --mem: Memory specification can not be satisfied"
