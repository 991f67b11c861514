"""`setup` on a real Slurm and without one: questions, files, links, and a run that is waited for."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import experiments
from src.commands import setup as setting_up
from src.submission.setup import storage
from src.submission.setup.site import NodeType, Partition, Site
from src.submission.slurm import client
from tests.conftest import ROOT, Slurm

GPU_SCRIPTS = ["submit_geforce_rtx_2080.sh", "submit_geforce_rtx_3090.sh", "submit_tesla_v100.sh"]


@pytest.fixture
def fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, in which the environment of this Python is used."""
    heavy = shutil.ignore_patterns(".*", "results", "data", "__pycache__", "tests", "docs", "core")
    shutil.copytree(ROOT, tmp_path / "fork", ignore=heavy)
    (tmp_path / "fork" / ".venv").symlink_to(ROOT / ".venv")
    monkeypatch.chdir(tmp_path / "fork")
    monkeypatch.setattr(setting_up, "PROJECT", str(tmp_path / "fork"))
    monkeypatch.setattr("src.submission.setup.storage.places", lambda *_: [])
    return tmp_path / "fork"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Answers to the questions, in order; each must be used."""
    given: list[str] = []
    monkeypatch.setattr(setting_up, "ask", lambda question: given.pop(0))
    yield given
    assert given == []


def test_setup_on_slurm(slurm: Slurm, fork: Path, tmp_path: Path, answers: list[str], monkeypatch: pytest.MonkeyPatch,
                        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(storage, "places", lambda *_: [storage.Place(str(tmp_path / "scratch"), 10**13),
                                                       storage.Place(str(fork), 10**10)])
    answers += ["2", "nowhere", "owner", "", ""]
    assert experiments.main(["setup"]) == 0
    printed = capsys.readouterr().out
    assert "invalid answer 'nowhere'; allowed: 1 to 3, a name, or Enter for cpu-killable" in printed
    assert "new   submit_tesla_v100.sh: partition=owner, cpus-per-task=4, mem=28G, gres=gpu:1, constraint=tesla_v100" \
        in printed
    assert "test  done after" in printed
    assert len(list((tmp_path / "scratch/fork/results/setup").glob("*-setup-test"))) == 1, "written through the link"
    assert "jobs/digits-quickstart.yaml -s submit_cpu.sh  submits a first grid" in printed, "which needs no GPU"
    assert "#SBATCH --partition=killable\n" in (fork / "submit_cpu.sh").read_text()
    assert sorted(path.name for path in fork.glob("submit_[gt]*.sh")) == GPU_SCRIPTS
    for name in ("submit_cpu.sh", *GPU_SCRIPTS):
        client.validate(client.sbatch_command("x", "/dev/null", "", (), str(fork / name), "/dev/null", str(fork)))
    assert subprocess.run([ROOT / ".venv" / "bin" / "shellcheck", "--external-sources", *fork.glob("submit_*.sh")],
                          cwd=fork, check=False).returncode == 0

    (fork / "submit_cpu.sh").write_text((fork / "submit_cpu.sh").read_text().replace("=8G", "=9G"))
    before = {path.name: path.read_text() for path in fork.glob("submit_*.sh")}
    answers += ["owner", "owner"]  # nothing is to be written but the edited script, and both links are made
    assert experiments.main(["setup", "--no-test"]) == 0
    assert "kept  submit_cpu.sh: it was edited; `git checkout submit_cpu.sh` restores" in capsys.readouterr().out
    assert {path.name: path.read_text() for path in fork.glob("submit_*.sh")} == before


def test_activate_script_is_written_for_the_environment_and_left_alone_once_edited(
        fork: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a shell with modules, and without a .venv: the Python that runs setup is the one of jobs."""
    monkeypatch.setattr(client, "query", lambda command: None)
    (fork / ".venv").unlink()
    (tmp_path / "modules" / "init").mkdir(parents=True)
    (tmp_path / "modules" / "init" / "bash").write_text('module() { echo "module $*"; }\n')
    monkeypatch.setenv("MODULESHOME", str(tmp_path / "modules"))
    monkeypatch.setenv("LOADEDMODULES", "gcc/12.2:cuda/12.4")
    monkeypatch.delenv("CONDA_EXE", raising=False)
    assert experiments.main(["setup", "--yes", "--no-test"]) == 0
    printed = capsys.readouterr().out
    assert f"activate.sh  Python of {sys.prefix}; modules gcc/12.2, cuda/12.4\n" in printed
    assert f"+environment_folder={sys.prefix}\n" in printed
    assert "+module load gcc/12.2 cuda/12.4\n" in printed
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", "source ./activate.sh; command -v python"], cwd=fork,
                          check=True, text=True, capture_output=True)
    assert done.stdout.splitlines() == ["module load gcc/12.2 cuda/12.4", f"{sys.prefix}/bin/python"]

    monkeypatch.delenv("LOADEDMODULES")
    written = (fork / "activate.sh").read_text()
    assert experiments.main(["setup", "--yes", "--no-test"]) == 0
    assert (fork / "activate.sh").read_text() == written
    assert "+" not in capsys.readouterr().out, "nothing to write"
    (fork / "activate.sh").write_text(written + "export OMP_NUM_THREADS=1\n")
    monkeypatch.setenv("LOADEDMODULES", "gcc/13")
    assert experiments.main(["setup", "--yes", "--no-test"]) == 0
    assert "kept  activate.sh: it was edited; `git checkout activate.sh` restores" in capsys.readouterr().out
    assert (fork / "activate.sh").read_text() == written + "export OMP_NUM_THREADS=1\n"


def test_answer_no_writes_nothing(fork: Path, answers: list[str], monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    outputs = {"scontrol": "PartitionName=main Default=YES MaxTime=1-00:00:00 State=UP PreemptMode=OFF\n",
               "sinfo": "main|4|16|64000|(null)|\n", "sacctmgr": ""}
    monkeypatch.setattr(client, "query", lambda command: outputs[command[0]])
    monkeypatch.setattr(client, "validate", lambda *_: client.Validation())
    before = {path.name: path.read_text() for path in fork.glob("*.sh")}
    answers += ["no"]
    assert experiments.main(["setup"]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in fork.glob("*.sh")} == before


@pytest.mark.parametrize(("name", "text"), [("submit_cpu.sh", None), ("submit_2080.sh", "#!/bin/bash\nexec true\n")])
def test_shipped_script_that_is_missing_or_of_another_kind(name: str, text: str | None, fork: Path,
                                                           monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    outputs = {"scontrol": "PartitionName=main Default=YES State=UP\n", "sinfo": "main|4|16|64000|gpu:a100:4|\n",
               "sacctmgr": ""}
    monkeypatch.setattr(client, "query", lambda command: outputs[command[0]])
    (fork / name).unlink() if text is None else (fork / name).write_text(text)
    assert experiments.main(["setup", "--yes", "--no-test"]) == 2
    assert f"`git checkout {name}` restores" in capsys.readouterr().err


def test_setup_without_slurm(fork: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(client, "query", lambda command: None)
    before = {path.name: path.read_text() for path in fork.glob("submit_*.sh")}
    assert experiments.main(["setup", "--yes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (document["slurm"], document["written"], document["test"]["problem"]) == (False, [], None)
    assert {path.name: path.read_text() for path in fork.glob("submit_*.sh")} == before


def test_memory_that_slurm_refuses_is_left_out(fork: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    """Some clusters give memory by the number of CPUs, and refuse --mem."""
    outputs = {"scontrol": "PartitionName=main Default=YES MaxTime=1-00:00:00 State=UP PreemptMode=OFF\n",
               "sinfo": "main|4|16|64000|(null)|\n", "sacctmgr": "ml||normal|\nteaching||normal|\n"}
    monkeypatch.setattr(client, "query", lambda command: outputs[command[0]])

    def validate(command: list[str], script: str) -> client.Validation:
        if "--mem=" in script:
            raise client.SbatchError("permanent", "sbatch: error: Memory specification can not be satisfied "
                                     "allocation failure: Unspecified error")
        return client.Validation()
    monkeypatch.setattr(client, "validate", validate)
    assert experiments.main(["setup", "--yes", "--no-test"]) == 0
    assert "no --mem: Memory specification can not be satisfied\n" in capsys.readouterr().out
    text = (fork / "submit_cpu.sh").read_text()
    assert "#SBATCH --mem" not in text
    assert "#SBATCH --account=ml\n" in text


def test_scripts_are_checked_on_the_cluster_whose_partitions_were_read(fork: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """Other options of the shell do not count: another shell may not have them."""
    monkeypatch.setenv("SLURM_CLUSTERS", "c2")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    outputs = {"scontrol": "PartitionName=main Default=YES MaxTime=1-00:00:00 State=UP PreemptMode=OFF\n",
               "sinfo": "CLUSTER: c2\nmain|4|16|64000|(null)|\n", "sacctmgr": "ml||normal|\n"}
    monkeypatch.setattr(client, "query", lambda command: outputs[command[0]])
    commands: list[list[str]] = []
    monkeypatch.setattr(client, "validate", lambda command, script: (commands.append(command), client.Validation())[1])
    assert experiments.main(["setup", "--yes", "--no-test"]) == 0
    assert commands and all("--clusters=c2" in command and "--account=mine" not in command for command in commands)


SITES = {
    "typed_gpus": {"submit_cpu.sh": ["partition=short", "account=ml", "time=02:00:00", "mem=8G"],
                   "submit_a100.sh": ["partition=gpu", "account=ml", "qos=gpu", "gres=gpu:a100:1", "mem=32G"],
                   "submit_h100.sh": ["partition=gpu", "account=ml", "qos=gpu", "gres=gpu:h100:1", "mem=32G"]},
    "no_memory": {"submit_cpu.sh": ["partition=batch", "account=root", "time=01:00:00"]},
    "plain": {"submit_cpu.sh": ["partition=debug", "time=03:00:00", "mem=8G"]}}


@pytest.mark.parametrize("site", SITES)
def test_setup_on_another_site(site: str, slurm: Slurm, fork: Path) -> None:
    """A cluster of another kind: accounts, QOS and GPU types; a plugin that refuses --mem; no accounting."""
    folder = Path(tempfile.mkdtemp(prefix="gridiron-site-"))
    environment = {**os.environ, "SITE": site, "LAG": "", "SLURM_CONF": str(folder / "slurm.conf")}
    try:
        subprocess.run([ROOT / "tests/cluster/up.sh", folder], check=True, stdout=subprocess.DEVNULL, env=environment)
        answer = subprocess.run([sys.executable, "experiments.py", "setup", "--yes", "--json"], cwd=fork, check=False,
                                env=environment, text=True, capture_output=True)
        assert answer.returncode == 0, answer.stderr
        document = json.loads(answer.stdout)
        assert (sorted(document["written"]), document["test"]["problem"]) == (sorted(SITES[site]), None)
        for name, options in SITES[site].items():
            lines = (fork / name).read_text().splitlines()
            assert [option for option in options if f"#SBATCH --{option}" not in lines] == []
            assert any(line.startswith("#SBATCH --mem") for line in lines) == (site != "no_memory")
            assert any(line.startswith("#SBATCH --account") for line in lines) == (site != "plain")
            subprocess.run(["sbatch", "--hold", name, os.devnull], cwd=fork, check=True, env=environment)
    finally:
        subprocess.run([ROOT / "tests/cluster/down.sh", folder], check=True)


def test_results_and_data_are_linked_to_the_chosen_folder(fork: Path, tmp_path: Path, answers: list[str],
                                                          monkeypatch: pytest.MonkeyPatch,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(client, "query", lambda command: None)
    scratch = tmp_path / "scratch"
    (scratch / "fork" / "data").mkdir(parents=True)
    (scratch / "fork" / "data" / "a9a").touch()
    places = [storage.Place(str(scratch), 2 * 10**13), storage.Place(str(fork), 10**10)]
    monkeypatch.setattr(storage, "places", lambda *_: places)
    answers += ["2"]
    assert experiments.main(["setup", "--no-test"]) == 0
    assert not (fork / "results").exists(), "they stay in the project"
    answers += [""]
    assert experiments.main(["setup"]) == 0  # the test run goes through the links
    printed = capsys.readouterr().out
    assert f"1  {scratch}  20,000 GB free\n" in printed
    assert f"link  data -> {scratch}/fork/data (has files already)\n" in printed
    batch, = (scratch / "fork" / "results" / "setup").glob("*-setup-test")
    assert f"python experiments.py delete results/setup/{batch.name}  deletes the test run\n" in printed
    assert experiments.main(["setup", "--no-test"]) == 0, "both are links now, so it does not ask"
    assert experiments.main(["delete", f"results/setup/{batch.name}", "--yes"]) == 0
    assert not batch.exists()


def test_results_go_to_another_file_system(fork: Path, tmp_path: Path) -> None:
    """With --yes, and a file system that is mounted for this command only."""
    for name in ("lower", "upper", "work", "scratch"):
        (tmp_path / name).mkdir()
    mount = (f"mount -t overlay overlay -o lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work "
             f"{tmp_path}/scratch")
    if subprocess.run(["unshare", "--mount", "sh", "-c", mount], check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    environment = {**os.environ, "HOME": str(tmp_path), "SCRATCH": str(tmp_path / "scratch"),
                   "SLURM_CONF": str(tmp_path / "missing")}
    answer = subprocess.run(["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable,
                             "experiments.py", "setup", "--yes", "--json"], cwd=fork, env=environment, text=True,
                            capture_output=True, check=True)
    document = json.loads(answer.stdout)
    scratch = tmp_path / "scratch" / "fork"
    assert document["links"] == {str(fork / name): str(scratch / name) for name in ("results", "data")}
    assert document["test"]["problem"] is None
    assert len(list((tmp_path / "upper/fork/results/setup").glob("*-setup-test"))) == 1


@pytest.mark.parametrize(("line", "limit"), [
    ("#SBATCH --time=03:00:00\n", "00:15:00"), ("#SBATCH --time=10\n", "00:10:00"), ("", "00:15:00")])
def test_limit_of_the_test_run_is_not_above_that_of_the_script(line: str, limit: str, fork: Path) -> None:
    (fork / "submit_cpu.sh").write_text(f"#!/bin/bash\n{line}exec true\n")
    assert setting_up._test_limit() == limit


def test_json_needs_yes(capsys: pytest.CaptureFixture[str]) -> None:
    assert experiments.main(["setup", "--json"]) == 2
    assert "--yes" in json.loads(capsys.readouterr().out)["hint"]


def test_at_most_five_questions(fork: Path, tmp_path: Path, answers: list[str],
                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everything is to be chosen: accounts, partitions, GPU types and file systems."""
    outputs = {"scontrol": "".join(f"PartitionName={name} State=UP\n" for name in ("a", "b", "c", "d")),
               "sinfo": "".join(f"{name}|1|8|64000|gpu:{gpu}:2|\n" for name, gpu in zip(
                   "abcd", ("t4", "t4", "h100", "h100"), strict=True)),
               "sacctmgr": "ml||normal|\nteaching||normal|\n"}
    monkeypatch.setattr(client, "query", lambda command: outputs[command[0]])
    monkeypatch.setattr(client, "validate", lambda *_: client.Validation())
    monkeypatch.setattr(storage, "places", lambda *_: [storage.Place(str(tmp_path / "big"), 2 * 10**13),
                                                       storage.Place(str(fork), 10**10)])
    answers += [""] * 5  # each of them is used
    assert experiments.main(["setup", "--no-test"]) == 0
    assert (fork / "submit_h100.sh").exists()
    assert (fork / "results").is_symlink()


def test_partition_of_gpu_jobs_is_asked_for_once() -> None:
    """Also if no partition has all types of GPUs."""
    partitions = tuple(Partition(name, False, None, "") for name in ("a1", "a2", "b1", "b2"))
    nodes = tuple(NodeType(partition.name, 1, 8, 64_000, 2, f"gpu_{partition.name[0]}", False)
                  for partition in partitions)
    questions: list[str] = []

    def choose(question: str, choices: Sequence[tuple[str, str]]) -> str:
        questions.append(question)
        return choices[-1][0]
    decisions = setting_up._decide(Site(partitions, nodes, ("x", "y")), choose)
    assert len(questions) == 3  # account, CPU partition, GPU partition
    assert {gpu: partition.name for gpu, partition in decisions.gpu_partitions.items()} == {
        "gpu_a": "a2", "gpu_b": "b1"}
