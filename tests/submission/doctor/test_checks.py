"""Checks of doctor, and its probes, which must not hang."""
from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

import experiments
from src.submission.doctor import checks, probes
from src.submission.doctor.checks import ERROR, OK, WARNING, CommandResult, Finding, FolderFacts
from src.submission.slurm import client
from tests.conftest import ROOT

LATE, MISSING = CommandResult(None, timed_out=True), CommandResult(None)
SCRIPT = '#!/bin/bash\n#SBATCH --time=1\nset -e\n# why\nexec python train.py "$@"\n'


def test_report_has_a_line_for_each_check() -> None:
    assert checks.report_lines([Finding("python", OK, "3.11.2"), Finding("gpu", ERROR, "broken", "ask"),
                         Finding("clock", WARNING, "late", "ask")]) == [
        "ok       python  3.11.2", "error    gpu     broken; ask", "warning  clock   late; ask",
        "1 error, 1 warning, 1 ok"]


@pytest.mark.parametrize(("version", "jobs", "same", "verdicts"), [
    ((3, 11, 2), {"version": "3.11.2", "executable": "/e/python"}, True, [OK, OK]),
    ((3, 10, 1), {"version": "3.9.0", "executable": "/f/python"}, False, [ERROR, ERROR]),
    ((3, 12, 0), {"version": "3.12.0", "executable": "/f/python"}, False, [OK, WARNING]),
    ((3, 12, 0), None, False, [OK, ERROR])])
def test_python(version: tuple[int, ...], jobs: dict[str, str] | None, same: bool, verdicts: list[str]) -> None:
    findings = checks.check_python(version, "/e/python", jobs, CommandResult(2, error="error: no .venv here"), same)
    assert [finding.verdict for finding in findings] == verdicts
    assert jobs is not None or "no .venv here" in findings[1].result


def test_packages() -> None:
    wanted = checks.pinned_versions("# by hand\nscikit_learn==1.9\n"
                                     "torch==2.14.1\nappnope==1.0 ; sys_platform == 'darwin'\nx==1")
    assert wanted == {"scikit-learn": "1.9", "torch": "2.14.1", "x": "1"}
    needed = checks.package_names(["torch~=2.14.1", "scikit-learn"])
    installed = {"Scikit.Learn": "1.9", "torch": "2.14.1+cu128", "x": "1"}
    assert checks.check_packages(wanted, needed, installed, "p").verdict == OK
    assert checks.check_packages(wanted, needed, {**installed, "x": "2"}, "p") == Finding(
        "packages", WARNING, "1 of another version than pinned: x 2 (1)", "`p -m pip install -r requirements.lock`")
    assert checks.check_packages(wanted, needed, {"torch": "2.14.1", "scikit-learn": "1.9"}, "p").verdict == WARNING
    finding = checks.check_packages(wanted, needed, {}, "p")
    assert finding.verdict == ERROR and finding.result == "3 missing: scikit-learn, torch, x"
    assert checks.check_packages({}, needed, {}, "p").verdict == WARNING


def test_slurm() -> None:
    def verdicts(*facts: object) -> list[tuple[str, str]]:
        return [(finding.check, finding.verdict) for finding in checks.check_slurm(*facts)]  # type: ignore[arg-type]

    assert checks.missing_commands(["sbatch", "squeue", "scontrol", "sinfo"]) == ["scancel", "sacct"]
    assert verdicts(["sbatch"], MISSING, MISSING) == [("slurm", WARNING)]
    assert verdicts([], CommandResult(0), CommandResult(0)) == [("slurm", OK), ("accounting", OK)]
    assert verdicts(["sinfo"], CommandResult(0), CommandResult(1)) == [("slurm", WARNING), ("accounting", WARNING)]
    hanging, = checks.check_slurm([], LATE, CommandResult(0))
    assert hanging.verdict == ERROR and hanging.result == "squeue does not answer"


@pytest.mark.parametrize(("text", "refusal", "verdict", "words"), [
    (SCRIPT, "", OK, "Slurm would accept it"), (SCRIPT, None, OK, "no problem found"),
    (SCRIPT, "invalid partition; allowed: cpu", WARNING, "allowed: cpu"),
    (SCRIPT.replace("#!/bin/bash\n", ""), "", ERROR, "interpreter"),
    (SCRIPT.replace("\n", "\r\n"), "", ERROR, "DOS"),
    (SCRIPT.replace(' "$@"', ""), "", ERROR, "passes no arguments"),
    (SCRIPT.replace("exec ", ""), "", WARNING, "no exec"), ("#!/bin/bash\n", "", WARNING, "no exec")])
def test_submit_scripts(text: str, refusal: str | None, verdict: str, words: str) -> None:
    finding = checks.check_script("submit_x.sh", text, refusal)
    assert finding.verdict == verdict and words in finding.result


def test_one_usable_script_is_enough() -> None:
    bad, good = Finding("a", WARNING, "no such partition"), Finding("b", OK, "")
    assert checks.require_usable_script([bad, good]) == [bad, good]
    assert [finding.verdict for finding in checks.require_usable_script([bad, bad])] == [ERROR, ERROR]


@pytest.mark.parametrize(("smi", "torch", "verdict"), [
    (MISSING, None, OK), (LATE, None, ERROR), (CommandResult(9, error="no communication with the driver"), None, ERROR),
    (CommandResult(0, "A, 1 MiB, 5\nA, 1 MiB, 5\n"), None, OK),
    (CommandResult(0, "A\nA\n"), CommandResult(0, "2.14.1 2\n"), OK),
    (CommandResult(0, "A\nA\n"), CommandResult(0, "2.14.1+cpu 0\n"), ERROR),
    (CommandResult(0, "A\n"), CommandResult(1, error="ImportError"), ERROR)])
def test_gpus(smi: CommandResult, torch: CommandResult | None, verdict: str) -> None:
    assert checks.check_gpus(smi, torch).verdict == verdict


@pytest.mark.parametrize(("place", "verdict", "words"), [
    (FolderFacts("results", "/r", free_bytes=2**40, free_files=10**7), OK, "/r: writable, 1 TiB free"),
    (FolderFacts("results", "/r", False, 2**40), OK, "will be created"),
    (FolderFacts("results", "/r", free_bytes=2**33), WARNING, "8 GiB free"),
    (FolderFacts("results", "/r", free_bytes=2**29), ERROR, "512 MiB"),
    (FolderFacts("results", "/r", free_bytes=2**40, free_files=7), WARNING, "room for 7 files"),
    (FolderFacts("results", "/r", problem="cannot be written: Permission denied"), ERROR, "Permission denied"),
    (None, ERROR, "does not answer")])
def test_folders(place: FolderFacts | None, verdict: str, words: str) -> None:
    finding = checks.check_folder(place, "results")
    assert finding.verdict == verdict and words in finding.result and (verdict == OK) == (not finding.advice)


def test_clock() -> None:
    assert checks.check_clock([None, FolderFacts("a", "/a", clock_offset=0.3)]).verdict == OK
    finding = checks.check_clock([FolderFacts("a", "/a", clock_offset=1), FolderFacts("b", "/b", clock_offset=-61.2)])
    assert finding.verdict == WARNING and "the disk of /b is 61 s behind" in finding.result


@pytest.mark.parametrize(("used", "files", "verdict"), [
    ("50", "5", OK), ("95", "5", WARNING), ("50", "1001*", ERROR), ("110*", "5", ERROR)])
def test_quotas(used: str, files: str, verdict: str) -> None:
    text = ("Disk quotas for user me (uid 1000): \n     Filesystem  blocks   quota   limit   grace   files   quota   "
            f"limit   grace\nserver:/home   {used}     100     120       0   {files}       0    1000       0\n")
    assert checks.check_quotas([MISSING, CommandResult(0, text)]).verdict == verdict
    assert checks.check_quotas([MISSING, LATE]) == Finding("quota", OK, "none reported")


def test_internet() -> None:
    assert checks.check_packed("/a/.venv.packed", None) == []
    assert checks.check_packed("/a/.venv.packed", True)[0].verdict == OK
    stale, = checks.check_packed("/a/.venv.packed", False)
    assert stale.verdict == WARNING and "pack-env" in stale.advice
    assert checks.check_internet(None, 1).result.endswith("has 1 repository")
    assert checks.check_internet("hub cannot be reached", 3).verdict == WARNING


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with an environment and a submit script, on a machine whose programs are in `bin`."""
    folder = tmp_path / "my 'project'"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (folder / "tools").symlink_to(ROOT / "tools")
    (folder / "activate.sh").write_text(f"echo welcome\n{(ROOT / 'activate.sh').read_text()}")
    (folder / "submit_cpu.sh").write_text(SCRIPT)
    program(folder / "bin", "nvidia-smi", "echo 'A100, 80 GiB, 570'")
    program(folder / "bin", "sbatch", "exit 0")
    for name in ("quota", "lfs"):
        program(folder / "bin", name, "exit 1")
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return folder


def test_hanging_commands_time_out(machine: Path) -> None:
    for name in ("squeue", "sacct", "nvidia-smi"):
        program(machine / "bin", name, "sleep 600 & wait")  # a child of its own, which has the pipe
    before = {path: path.stat().st_mtime_ns for path in machine.rglob("*") if path.is_file()}
    start = time.monotonic()
    findings = {finding.check: finding for finding in probes.examine(str(machine), seconds=10)}
    assert time.monotonic() - start < 60, "not the ten minutes"
    assert [findings[name].verdict for name in ("slurm", "gpu", "jobs", "submit_cpu.sh", "results")] == [
        ERROR, ERROR, WARNING, OK, OK]
    assert findings["jobs"].result.endswith("another Python than this one") and "packages" in findings
    assert before == {path: path.stat().st_mtime_ns for path in machine.rglob("*") if path.is_file()}


def test_problems_of_a_machine_are_reported(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / ".venv" / "bin" / "python").unlink()
    (machine / "results").symlink_to("/nowhere/at/all")
    for name in ("squeue", "sacct"):
        program(machine / "bin", name, "exit 0")
    program(machine / "bin", "sbatch", "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    monkeypatch.setattr(client, "query", lambda command: "cpu\nlong\n")
    findings = {finding.check: finding for finding in probes.examine(str(machine), seconds=20)}
    assert "make environment" in findings["jobs"].result and findings["jobs"].verdict == ERROR
    assert findings["results"].result.endswith("results: a link to /nowhere/at/all, which does not exist")
    assert findings["submit_cpu.sh"].verdict == ERROR and "allowed: cpu, long" in findings["submit_cpu.sh"].result
    assert findings["accounting"].verdict == OK and findings["gpu"].result.startswith("1: A100, 80 GiB, 570")


def test_read_only_folder_is_reported() -> None:
    facts = probes.inspect_folder("results", "/proc/not/made")  # nor by root
    assert facts.problem and facts.problem.startswith("cannot be written: ")


def test_hanging_probe_has_no_result() -> None:
    answers = probes.run_concurrently({"disk": lambda: time.sleep(30), "refused": lambda: os.stat("/no/such"),
                                        "good": lambda: 1}, 0.3)
    assert answers == {"disk": None, "refused": None, "good": 1}


def test_command_prints_lines_or_json(machine: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("python", OK, "3.11"), Finding("gpu", WARNING, "few", "buy")]
    monkeypatch.setattr(probes, "examine", lambda *_: findings)
    assert experiments.main(["doctor"]) == 0
    assert capsys.readouterr().out == "ok       python  3.11\nwarning  gpu     few; buy\n1 warning, 1 ok\n"
    findings.append(Finding("results", ERROR, "full", "make room"))
    assert experiments.main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[2] == {"check": "results", "verdict": "error", "found": "full",
                                                      "do": "make room"}
