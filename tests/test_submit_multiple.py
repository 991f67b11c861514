"""submit_multiple.py from the command line: its output, questions, files, and errors of one line."""
from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
import submit_multiple
from src.submission.batch import batch_folder as batch_module
from src.submission.batch import journal
from src.submission.execution import execute
from src.submission.slurm import client
from src.submission.system import process
from tests.conftest import ROOT
from tests.submission.conftest import Project, project

__all__ = ["project"]  # the fixture

SCRIPT = "#!/bin/bash\n#SBATCH --partition=killable\n#SBATCH --mem=8G\nexec python train.py \"$@\"\n"

FAKE_SLURM = """#!/bin/sh
# a Slurm that takes every job and never runs one
case "$(basename "$0") $*" in
"sbatch --test-only "*)
  echo >> "{folder}/tried"
  if [ -e "{folder}/refuses" ]; then cat "{folder}/refuses" >&2; exit 1; fi;;
sbatch*)
  n=$(($(cat "{folder}/n" 2>/dev/null || echo 0) + 1)); echo $n > "{folder}/n"
  for word; do
    case "$word" in --comment=*) echo "$n|PENDING|N/A|N/A|(Priority)|${{word#--comment=}}" >> "{folder}/queue";; esac
  done
  if [ "$n" = "$(cat "{folder}/fail_at" 2>/dev/null)" ]; then
    echo "sbatch: error: invalid partition specified: x" >&2; exit 1
  fi
  echo $n;;
squeue*) cat "{folder}/queue" 2>/dev/null; exit 0;;
sacct*) exit 1;;
sinfo*) echo killable; echo cpu-killable;;
esac
"""


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Project) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "sacct", "sinfo"):
        (folder / name).write_text(FAKE_SLURM.format(folder=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    (project.folder / "s.sh").write_text(SCRIPT)
    return folder


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts)


def test_dry_run_prints_the_plan_and_writes_nothing(project: Project, fake_slurm: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(project.folder)
    assert project.submit(project.spec, "-s", "s.sh", "-d") == 0
    assert everything(project.folder) == before
    assert not (fake_slurm / "n").exists()
    out = capsys.readouterr().out
    assert "4 runs: 2 batch_size x 2 base_lr" in out
    assert "first run  000_tiny+bat_siz=8+bas_lr=0.1" in out
    assert "last run   003_tiny+bat_siz=32+bas_lr=1" in out
    assert "s.sh: partition killable, mem 8G" in out
    assert out.count("\nsbatch --parsable ") == 4


def test_dry_run_prints_the_exact_commands(project: Project, fake_slurm: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(journal, "new_token", lambda: "t-1")
    called: list[list[str]] = []
    monkeypatch.setattr("src.submission.slurm.client.submit", lambda command, _: called.append(command) or "1")
    project.submit(project.spec, "-s", "s.sh", "-d", "--json")
    shown = [json.loads(line)["command"] for line in capsys.readouterr().out.splitlines()]
    project.submit(project.spec, "-s", "s.sh", "-y")
    assert called == shown


def test_plan_shows_the_source_of_each_option_and_a_retry_repeats_those_of_the_environment(
        project: Project, fake_slurm: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "owner")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "7")
    monkeypatch.setenv("SBATCH_REQUEUE", "")
    assert project.submit(project.spec, "-s", "s.sh", "--no-submit", "--sbatch", "mem=9G", "-y") == 0
    assert ("resources  s.sh: partition owner (SBATCH_PARTITION), mem 9G (--sbatch), time 7 (SBATCH_TIMELIMIT)\n"
            in capsys.readouterr().out)
    monkeypatch.delenv("SBATCH_TIMELIMIT")
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    assert project.submit("-r", project.batch, "-d") == 0
    out = capsys.readouterr().out
    assert " --requeue --partition=owner --time=7 --mem=9G " in out
    assert "ignored    SBATCH_PARTITION of this shell: a retry repeats the options" in out
    assert project.submit("-r", project.batch, "-d", "--sbatch", "partition=mine") == 0
    assert " --partition=mine " in capsys.readouterr().out


def test_values_of_options_reach_sbatch_as_they_were_written(project: Project, fake_slurm: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    """Also from the files of the batch."""
    project.spec.write_text("job_details: {name: tiny, output_dir: re sults, sbatch: {account: 2024_01}}\n"
                            "parameters: {batch_size: 8, SBATCH: {qos: 1e3, licenses: 1.10}}\n")
    assert project.submit(project.spec, "-s", "s.sh", "--no-submit", "--sbatch", "reservation=0x1F", "-y") == 0
    assert project.submit("-r", project.batch, "-d") == 0
    assert " --account=2024_01 --qos=1e3 --licenses=1.10 --reservation=0x1F " in capsys.readouterr().out


def test_clusters_of_the_shell_are_repeated_by_a_retry(project: Project, fake_slurm: Path,
                                                       monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SLURM_CLUSTERS", "c2")
    assert project.submit(project.spec, "-s", "s.sh", "--no-submit", "-y") == 0
    assert "clusters c2 (SLURM_CLUSTERS)" in capsys.readouterr().out
    monkeypatch.setenv("SLURM_CLUSTERS", "c3")
    assert project.submit("-r", project.batch, "-d") == 0
    out = capsys.readouterr().out
    assert " --clusters=c2 " in out
    assert "ignored    SLURM_CLUSTERS of this shell: a retry repeats the options" in out


def test_dry_run_shows_the_command_of_the_first_run(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """And warns of a program whose metrics nothing here would read; keys of a sweep are explained for such programs."""
    (project.folder / "mine.py").write_text("import wandb\nwandb.log({'loss': 1})\n")
    (project.folder / "sweep.yaml").write_text(
        "program: mine.py\nmethod: grid\nearly_terminate: {type: hyperband}\nparameters: {lr: [0.3, 1]}\n")
    for arguments in (["sweep.yaml"], [project.spec, "--command", "python mine.py --out={folder} {args}"]):
        assert project.submit(*arguments, "--local", "-d") == 0
        out = capsys.readouterr().out
        assert "warning: mine.py logs metrics by wandb.log, which only W&B reads" in out
        line, = [line for line in out.splitlines() if line.startswith("runs ")]
        if arguments == ["sweep.yaml"]:
            words = shlex.split(line)
            assert words[1] == "/usr/bin/env" and words[2].startswith("WANDB_SWEEP_PARAM_PATH=")
            assert words[3:] == [sys.executable, "mine.py", "--lr=0.3"]
            assert "early_terminate is not supported with method grid" in out and "early_stopping" not in out
        else:
            run = out.split("first run  ")[1].split()[0]
            folder = os.path.join(os.path.abspath(project.results), f"{batch_module.today():%y-%m-%d}-tiny", run)
            assert shlex.split(line)[1:] == ["python", "mine.py", f"--out={folder}", "--batch_size=8", "--base_lr=0.1"]
    assert project.submit("sweep.yaml", "--local", "-d", "--json") == 0
    programs = [json.loads(line)["program"][3:] for line in capsys.readouterr().out.splitlines()]
    assert programs == [["mine.py", "--lr=0.3"], ["mine.py", "--lr=1"]]


def test_null_drops_an_option_and_is_shown_as_absent(project: Project, fake_slurm: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "-s", "s.sh", "-d", "--sbatch", "gres=null") == 0
    assert "resources  s.sh: partition killable, mem 8G\n" in capsys.readouterr().out
    assert project.submit(project.spec, "-s", "s.sh", "-d", "--sbatch", "mem=null") == 2
    assert "s.sh, line 3: mem is null, which cannot remove --mem=8G of the script" in capsys.readouterr().err


def test_json_prints_one_object_per_run(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--local", "-d", "--json") == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first["name"] == "000_tiny+bat_siz=8+bas_lr=0.1"
    assert first["spec"] == {"batch_size": 8, "base_lr": 0.1}
    assert first["folder"].endswith(first["name"])
    assert first["command"][1:] == ["train.py", f"{first['folder']}/spec.yaml"]


def test_batch_is_written_before_sbatch_is_called_and_nothing_is_submitted_twice(
        project: Project, fake_slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    assert (fake_slurm / "n").read_text() == "4\n"
    assert (project.batch / "job.yaml").read_text() == project.spec.read_text()
    assert (project.runs()[0] / "spec.yaml").read_text() == "batch_size: 8\nbase_lr: 0.1\n"
    assert "Slurm jobs 1 to 4" in capsys.readouterr().out
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    assert "nothing to submit: 0 of 4 done, 4 pending" in capsys.readouterr().out
    assert project.submit("-r", project.batch, "-y") == 0
    assert "nothing to submit" in capsys.readouterr().out
    assert (fake_slurm / "n").read_text() == "4\n"


@pytest.mark.parametrize("again", ["the same command", "-r"])
def test_sbatch_error_stops_the_submission_and_both_commands_continue_it(again: str, project: Project, fake_slurm: Path,
                                                                         capsys: pytest.CaptureFixture[str]) -> None:
    (fake_slurm / "fail_at").write_text("3")
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 2
    error = capsys.readouterr().err
    for message in ("2 of 4 submitted, stopped at 002_tiny", "invalid partition specified: x", "cpu-killable, killable",
                    "continues where it stopped"):
        assert message in error
    (fake_slurm / "queue").write_text("".join((fake_slurm / "queue").read_text().splitlines(True)[:2]))
    arguments = [project.spec, "-s", "s.sh", "-y"] if again == "the same command" else ["-r", project.batch, "-y"]
    assert project.submit(*arguments) == 0
    assert (fake_slurm / "n").read_text() == "5\n"  # jobs 1, 2, (3 refused), 4, 5
    tickets = journal.read_history(str(project.batch)).tickets
    assert [ticket.number for ticket in tickets.values()] == [1, 1, 1, 1]


def test_killed_after_sbatch_accepted_a_job_submits_it_only_once(project: Project, fake_slurm: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """An exception that no handler catches."""

    def killed(self: object, unit: int, job: str) -> None:
        raise Killed  # before the answer is written to the journal
    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "record_job", killed)
        patch.setattr(journal.Journal, "record_end", lambda self: None)
        with pytest.raises(Killed):
            project.submit(project.spec, "-s", "s.sh", "-y")
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 2  # the other process is still alive and submitting
    monkeypatch.setattr(process, "is_alive", lambda who: False)
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    assert (fake_slurm / "n").read_text() == "4\n"


def test_ctrl_c_keeps_submitted_jobs(project: Project, fake_slurm: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    submit = client.submit

    def interrupted(command: list[str], ticket: int) -> str:
        if (fake_slurm / "n").exists() and (fake_slurm / "n").read_text() == "2\n":
            raise KeyboardInterrupt
        return submit(command, ticket)
    with monkeypatch.context() as patch:
        patch.setattr(client, "submit", interrupted)
        assert project.submit(project.spec, "-s", "s.sh", "-y") == 130
    assert "2 of 4 Slurm jobs submitted" in capsys.readouterr().out
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    assert (fake_slurm / "n").read_text() == "4\n"


def test_nothing_is_written_if_sbatch_would_refuse(project: Project, fake_slurm: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    (fake_slurm / "refuses").write_text("allocation failure: Invalid partition name specified\n")
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 2
    error = capsys.readouterr().err
    for message in ("Invalid partition name specified", "allowed: cpu-killable, killable", "nothing was written"):
        assert message in error
    assert not project.results.exists()
    assert not (fake_slurm / "n").exists()
    (fake_slurm / "refuses").write_text("sbatch: error: Unable to contact slurm controller (connect failure)\n")
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0  # the submission itself retries
    assert (fake_slurm / "tried").read_text() == "\n\n"  # once for all four, which have the same options


def test_batch_of_yesterday_is_continued_after_midnight(project: Project, fake_slurm: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    (fake_slurm / "fail_at").write_text("3")
    project.submit(project.spec, "-s", "s.sh", "-y")
    (fake_slurm / "queue").write_text("".join((fake_slurm / "queue").read_text().splitlines(True)[:2]))
    monkeypatch.setattr(batch_module, "today", lambda: datetime.date(2099, 1, 1))
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    assert len(list(project.results.iterdir())) == 1
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0  # no run is submitted twice
    project.write_spec("[8, 16]")
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0  # another job spec on another day
    assert len(list(project.results.iterdir())) == 2


def test_edited_job_spec_is_rejected_with_the_difference(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--local", "-y") == 0
    project.write_spec("[8, 16]")
    assert project.submit(project.spec, "--local", "-y") == 2
    assert "parameters.batch_size: [8, 32] -> [8, 16]" in capsys.readouterr().err
    project.write_spec()
    assert project.submit(project.spec, "--local", "-y", "--set", "base_lr=3") == 2
    assert "overrides.base_lr: nothing -> 3" in capsys.readouterr().err
    assert project.submit(project.spec, "--local", "-d", "--set", "base_lr=3") == 0  # a dry run is allowed
    assert "note: submitting this would be an error" in capsys.readouterr().out


def test_max_runs_submits_the_first_runs_and_may_grow(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--local", "-y", "--max-runs", "1") == 0
    assert [run.name for run in project.runs()] == ["000_tiny+bat_siz=8+bas_lr=0.1"]
    left_out = ("3 points of the job spec are not in the batch, because of --max-runs: the command that made it, "
                "without that option, adds them\n")
    capsys.readouterr()
    assert project.submit("-r", project.batch) == 0
    assert f"note: {left_out}" in capsys.readouterr().out
    assert experiments.main(["status", str(project.batch)]) == 0
    assert f"\n{left_out}" in capsys.readouterr().out
    assert project.submit(project.spec, "--local", "-y") == 0
    assert project.executed() == [1] * 4
    capsys.readouterr()
    assert experiments.main(["status", str(project.batch)]) == 0
    assert "not in the batch" not in capsys.readouterr().out


def test_max_runs_of_a_retry_counts_runs_to_submit(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.submit(project.spec, "--no-submit", "-y")
    for done in range(1, 5):
        assert project.submit("-r", project.batch, "--local", "-y", "--max-runs", "1") == 0
        assert project.executed() == [1] * done + [0] * (4 - done)
    assert "4 runs: 1 to submit, 3 left alone (1 done, 2 for later)" in capsys.readouterr().out


def test_overwrite_is_not_suggested_while_runs_are_pending(project: Project, fake_slurm: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    project.submit(project.spec, "-s", "s.sh", "-y")
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    assert "-o removes" not in capsys.readouterr().out


def test_complete_batch_is_success(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.submit(project.spec, "--local", "-y")
    for arguments in (["-y"], ["-d"], ["-y", "--extend"]):
        capsys.readouterr()
        assert project.submit(project.spec, "--local", *arguments) == 0
        assert capsys.readouterr().out.endswith(
            "nothing to submit: 4 of 4 done\nto run it again: -o removes this batch and runs all of it again; "
            "another job_details.name makes another batch\n")
    assert project.executed() == [1] * 4
    (project.runs()[0] / "done").unlink()
    path = project.runs()[0] / "attempt-1-0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "how": "failed", "error": "OSError: x"}))
    assert project.submit(project.spec, "--local", "-y") == 0
    out = capsys.readouterr().out
    assert "nothing to submit: 3 of 4 done, 1 failed\n`python submit_multiple.py -r " in out
    assert "submits 1 run that did not end well" in out
    project.write_spec("[8, 64]")
    assert project.submit(project.spec, "--local", "-y") == 2  # another job spec
    assert "made from another job spec" in capsys.readouterr().err


def test_no_submit_writes_folders_and_retry_submits_them(project: Project, fake_slurm: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    assert len(project.runs()) == 4
    assert not (fake_slurm / "n").exists()
    assert project.submit("-r", project.batch, "-y") == 2  # neither -s nor --local was ever given
    assert "-s SCRIPT" in capsys.readouterr().err
    assert project.submit("-r", project.batch, "-s", "s.sh", "-y") == 0
    assert (fake_slurm / "n").read_text() == "4\n"


def test_set_replaces_an_axis_or_adds_a_constant(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.submit(project.spec, "--local", "-d", "--json", "--set", "batch_size=[1,2,3]", "--set", "base_lr=1e-3",
                   "--set", "loss=mse")
    specs = [json.loads(line)["spec"] for line in capsys.readouterr().out.splitlines()]
    assert specs == [{"batch_size": size, "base_lr": 1e-3, "loss": "mse"} for size in (1, 2, 3)]


def test_random_points_are_reproducible_and_fixed_by_samples_and_seed_of_the_batch(
        project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_spec("!int_uniform [100, 999]")
    arguments = (project.spec, "--local", "-y", "--set", "base_lr=!loguniform [1e-3, 1]", "--samples", "3")
    assert project.submit(*arguments, "--max-runs", "1") == 0
    assert "3 runs: 3 samples" in capsys.readouterr().out
    assert project.submit(*arguments) == 0  # continues the batch
    assert [run.name.split("=")[0] for run in project.runs()] == ["000_tiny+bat_siz", "001_tiny+bat_siz",
                                                                  "002_tiny+bat_siz"]
    assert project.executed() == [1, 1, 1]
    assert project.submit(*arguments, "--seed", "1") == 2
    assert "seed: null -> 1" in capsys.readouterr().err
    assert project.submit(*arguments, "--samples", "4") == 2
    assert "samples: 3 -> 4" in capsys.readouterr().err
    assert project.submit("-r", project.batch, "--samples", "4") == 2
    assert "another name" in capsys.readouterr().err


def test_overwrite_asks_for_the_batch_name_and_is_rejected_while_runs_are_alive(
        project: Project, fake_slurm: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    assert project.submit(project.spec, "-s", "s.sh", "-o", "-y") == 2
    assert "4 runs of it may be pending or running" in capsys.readouterr().err
    for run in project.runs():
        (run / "done").write_text("completed\n")
    (project.batch / "mine").touch()
    assert project.submit(project.spec, "-s", "s.sh", "-o", "-d") == 0
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "y")
    assert project.submit(project.spec, "-s", "s.sh", "-o") == 2
    assert project.batch.name in questions[0]
    assert (project.batch / "mine").exists()
    monkeypatch.setattr("builtins.input", lambda _: project.batch.name)
    assert project.submit(project.spec, "-s", "s.sh", "-o") == 0
    assert not (project.batch / "mine").exists()
    assert [path.name for path in project.results.iterdir()] == [project.batch.name]


def test_overwrite_does_not_remove_through_a_link(project: Project, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--local", "-y") == 0
    elsewhere = tmp_path / "elsewhere"
    project.batch.rename(elsewhere)
    name = f"{batch_module.today():%y-%m-%d}-tiny"
    (project.results / name).symlink_to(elsewhere)
    assert project.submit(project.spec, "--local", "-y", "-o") == 2
    assert "nothing is removed through a link" in capsys.readouterr().err
    assert (elsewhere / "job.yaml").exists()


def test_question_without_standard_input_is_an_error(project: Project, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    assert project.submit(project.spec, "--local") == 2
    assert "pass -y to continue without a question" in capsys.readouterr().err
    assert not project.results.exists()


def test_ctrl_c_at_the_question_writes_nothing(project: Project, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(question: str) -> str:
        raise KeyboardInterrupt
    monkeypatch.setattr("builtins.input", interrupted)
    assert project.submit(project.spec, "--local") == 130
    assert capsys.readouterr().err == "\nstopped\n"
    assert not project.results.exists()


def test_local_no_submit_writes_folders_that_run_later(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--local", "--no-submit", "-y") == 0
    assert f"-r 're sults/{project.batch.name}' --local  runs them" in capsys.readouterr().out
    assert not any((run / "done").exists() for run in project.runs())
    assert project.submit("-r", project.batch, "--local", "-y") == 0
    assert all((run / "done").exists() for run in project.runs())


def test_batch_folder_as_job_spec_is_rejected(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--local", "--no-submit", "-y") == 0
    assert project.submit(project.batch, "--local") == 2
    assert "-r continues it" in capsys.readouterr().err


def test_tags_of_batch_and_points_are_merged(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text("""\
job_details: {name: tiny, tags: [paper]}
parameters:
  LIST:
    - {batch_size: 8, TAGS: [small, paper]}
    - {batch_size: 2048}
""")
    assert project.submit(project.spec, "--local", "-d", "--json") == 0
    specs = [json.loads(line)["spec"] for line in capsys.readouterr().out.splitlines()]
    assert [spec["TAGS"] for spec in specs] == [["paper", "small"], ["paper"]]


def test_points_with_their_own_script_and_sbatch_options(project: Project, fake_slurm: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    (project.folder / "big.sh").write_text(SCRIPT)
    project.spec.write_text("""\
job_details: {name: tiny, output_dir: out, sbatch: {mem: 4G, time: "1:00:00"}}
parameters:
  LIST:
    - {batch_size: 8}
    - {batch_size: 2048, SBATCH: {mem: 16G}, SCRIPT: big.sh}
""")
    assert project.submit(project.spec, "-s", "s.sh", "-d", "--json", "--sbatch", "time=2:00:00") == 0
    small, big = [json.loads(line)["command"] for line in capsys.readouterr().out.splitlines()]
    assert project.submit(project.spec, "-s", "s.sh", "-d") == 0
    assert "1 run: mem 16G, script big.sh" in capsys.readouterr().out
    assert "--mem=4G" in small
    assert "--mem=16G" in big
    assert "--time=2:00:00" in small
    assert small[-2].endswith("/s.sh")
    assert big[-2].endswith("/big.sh")


BAD = {
    "no such file": (None, "cannot be read"),
    "not YAML": ("job_details: [a\nb: }", "line 2, column"),
    "duplicate key": ("job_details: {name: a}\nparameters: {a: 1, a: 2}", "is defined twice"),
    "no job_details": ("parameters: {batch_size: 1}", "job_details"),
    "no parameters": ("job_details: {name: a}", "parameters"),
    "no name": ("job_details: {output_dir: r}\nparameters: {batch_size: 1}", "name"),
    "unknown parameter": ("job_details: {name: a}\nparameters: {batchsize: 1}", "did you mean 'batch_size'?"),
    "wrong type": ('job_details: {name: a}\nparameters: {batch_size: "abc"}', "a whole number"),
    "empty axis": ("job_details: {name: a}\nparameters: {batch_size: []}", "without values"),
    "unequal ZIP": ("job_details: {name: a}\nparameters: {ZIP: {batch_size: [1, 2], base_lr: [1]}}", "ZIP"),
    "forbidden expression": ("job_details: {name: a}\nparameters: {base_lr: '[__import__(\"os\")]'}", "base_lr"),
    "too large expression": ("job_details: {name: a}\nparameters: {base_lr: 'range(10**12)'}", "base_lr"),
    "name with ..": ("job_details: {name: ../a}\nparameters: {batch_size: 1}", "name"),
    "name with %": ("job_details: {name: 'a%j'}\nparameters: {batch_size: 1}", "name"),
    "name with control characters": ('job_details: {name: "a\\nb"}\nparameters: {batch_size: 1}', "name"),
    "unknown data set": ("job_details: {name: a}\nparameters: {dataset: sklearn/digit}", "sklearn/digits"),
    "unknown family": ("job_details: {name: a}\nparameters: {dataset: kaggle/x}", "libsvm/NAME"),
    "unknown model": ("job_details: {name: a}\nparameters: {model: tiny/lenett}", "did you mean 'tiny/lenet'?"),
    "unknown optimizer": ("job_details: {name: a}\nparameters: {optim_alg: adamm}", "adam, adamw"),
    "unknown schedule": ("job_details: {name: a}\nparameters: {lr_schedule: cosin}", "cosine"),
    "misspelt split": ("job_details: {name: a}\nparameters: {data_splits_map: {train: 'train[:80'}}", "train[:80%]"),
    "metric of unknown direction": ("job_details: {name: a, metric: energy}\nparameters: {batch_size: 1}",
                                    "metric: whether more or less is better is not known for 'energy'"),
    "best epoch by such a metric": (
        "job_details: {name: a}\nparameters: {early_stopping_patience: 3, metrics: [['train:energy']], "
        "best_checkpoint_metric: test/.*/energy}",
        "best_checkpoint_metric: whether more or less is better is not known for test/last/energy"),
    "best epoch by a split that is not evaluated": (
        "job_details: {name: a}\nparameters: {save_best_checkpoint: true, best_checkpoint_metric: val/.*/accuracy}",
        "best_checkpoint_metric: 'val/.*/accuracy' matches no metric of this run; allowed: train/loss"),
    "best epoch by a metric that is not measured": (
        "job_details: {name: a}\nparameters: {save_best_checkpoint: true, best_checkpoint_metric: test/.*/f1}",
        "best_checkpoint_metric: 'test/.*/f1' matches no metric of this run"),
    "best epoch by metrics of both directions": (
        "job_details: {name: a}\nparameters: {save_best_checkpoint: true, best_checkpoint_metric: test/.*}",
        "best_checkpoint_metric: 'test/.*' matches metrics that improve by falling and metrics that improve by rising"),
    "no train split": ("job_details: {name: a}\nparameters: {data_splits_map: {val: train}}", "train is missing"),
}


@pytest.mark.parametrize("text", [
    "job_details: {{name: a, metric: {{name: energy, goal: minimize}}}}\nparameters: {{{by_energy}}}\n",
    "job_details: {{name: a}}\nparameters: {{{by_energy}, best_checkpoint_goal: maximize}}\n",
    "job_details: {{name: a}}\nparameters: {{best_checkpoint_metric: test/.*/energy}}\n"])  # nothing is chosen by it
def test_goal_makes_any_metric_acceptable(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_energy = ("save_best_checkpoint: true, best_checkpoint_metric: test/.*/energy, "
                 "metrics: [['train:energy']]")
    (tmp_path / "x.yaml").write_text(text.format(by_energy=by_energy))
    assert submit_multiple.main(["x.yaml", "--local", "-d"]) == 0


@pytest.mark.parametrize("text_and_message", BAD.values(), ids=BAD.keys())
def test_wrong_input_is_reported_in_one_line(text_and_message: tuple[str | None, str], tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    text, message = text_and_message
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "x.yaml").write_text(text)
    assert submit_multiple.main(["x.yaml", "--local", "-y"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert "x.yaml" in error
    assert message in error
    assert everything(tmp_path) == ([] if text is None else ["x.yaml"])


@pytest.mark.parametrize(("arguments", "expected"), [
    (["x.yaml"], "--local --workers 4"), (["x.yaml", "--local", "-s", "s.sh"], "use one of them"),
    (["x.yaml", "--array", "--local"], "use one of them"),
    (["x.yaml", "--array", "--workers", "2", "-s", "s.sh"], "use one of them"),
    (["x.yaml", "--slots", "2", "-s", "s.sh"], "--workers"), (["x.yaml", "--gpus", "free", "-s", "s.sh"], "--local"),
    (["x.yaml", "--max-queued", "2", "--local"], "Slurm's queue"), (["x.yaml", "--wait", "--local"], "Slurm's queue"),
    (["x.yaml", "--max-queued", "2", "--workers", "3", "-s", "s.sh"], "without --max-queued"),
    (["x.yaml", "--max-running", "2", "-s", "s.sh"], "--array"), (["x.yaml", "--state", "failed", "--local"], "-r"),
    (["x.yaml", "--local", "--sbatch", "mem=1G"], "use one of them"),
    (["x.yaml", "--local", "--set", "base_lr"], "KEY=VALUE"), (["-r", "nowhere", "--local"], "no such folder"),
    (["-r", "re sults", "--local"], "not a batch folder"), (["x.yaml", "-s", "missing.sh"], "missing.sh"),
    (["x.yaml", "-s", "x.yaml"], "#!/bin/bash"), (["x.yaml", "-s", "dos.sh"], "DOS line breaks"),
    (["x.yaml", "--local", "--set", "batchsize=3"], "did you mean 'batch_size'?"),
    (["-r", "re sults", "--local", "--set", "a=1"], "another name")])
def test_contradicting_options_are_rejected(arguments: list[str], expected: str, project: Project,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    project.results.mkdir()
    (project.folder / "dos.sh").write_bytes(b"#!/bin/bash\r\n#SBATCH --mem=1G\r\n")
    assert project.submit(*arguments, "-y") == 2
    assert expected in capsys.readouterr().err


def test_without_slurm_the_error_suggests_local_and_nothing_is_written(project: Project,
                                                                       monkeypatch: pytest.MonkeyPatch,
                                                                       capsys: pytest.CaptureFixture[str]) -> None:
    (project.folder / "s.sh").write_text(SCRIPT)
    monkeypatch.setenv("PATH", str(project.folder))
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 2
    assert "--local" in capsys.readouterr().err
    assert not project.results.exists()


def test_dry_run_imports_no_heavy_library() -> None:
    """Dataclasses load inspect, and generate code for each class: a quarter of the time of a dry run."""
    program = ("import sys, submit_multiple; submit_multiple.main(['jobs/linear-classifier-example.yaml', '-d', '-s', "
               "'submit_cpu.sh']); print(*sorted(sys.modules), sep='\\n')")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("\n"))
    assert not loaded & {"torch", "numpy", "pandas", "loguru", "pathlib", "asyncio", "difflib", "multiprocessing",
                         "dataclasses", "inspect"}


def test_killed_before_the_first_submission_continues_with_its_overrides(project: Project, fake_slurm: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is created together with its journal, so that its overrides are never missing."""
    arguments = [project.spec, "-s", "s.sh", "-y", "--set", "base_lr=[3,4]"]

    def killed(*_: object) -> int:
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(execute, "_start", killed)
        assert project.submit(*arguments) == 130
    monkeypatch.setattr(process, "is_alive", lambda who: False)
    assert project.submit(*arguments) == 0
    assert (fake_slurm / "n").read_text() == "4\n"


def test_deleted_run_is_created_again_by_the_same_command_only(project: Project,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--local", "-y") == 0
    gone = project.runs()[1]
    shutil.rmtree(gone)
    assert project.submit("-r", project.batch, "--local", "-y") == 0
    out = capsys.readouterr().out
    assert "3 done, 1 deleted" in out
    assert "1 run deleted and left alone; the command that made the batch creates it again" in out
    assert not gone.exists()
    assert project.submit(project.spec, "--local", "-y") == 0
    assert project.executed() == [1] * 4
    assert (gone / "claim-2").exists()


def test_empty_spec_stops_a_retry_and_is_written_again_by_the_same_command(project: Project,
                                                                           capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    (project.runs()[1] / "spec.yaml").write_text("")
    assert project.submit("-r", project.batch, "--local", "-y") == 2
    assert "this spec is empty" in capsys.readouterr().err
    assert project.submit(project.spec, "--local", "-y") == 0
    assert project.executed() == [1] * 4


def test_retry_works_with_an_unreadable_job_yaml(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    (project.batch / "job.yaml").write_text("a: [")
    assert project.submit(project.spec, "--local", "-y") == 2
    assert "its job.yaml: not valid YAML" in capsys.readouterr().err
    assert project.submit("-r", project.batch, "--local", "-y") == 0
    assert project.executed() == [1] * 4


def test_folder_of_plots_in_a_batch_is_not_a_run(project: Project) -> None:
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    (project.batch / "plots").mkdir()
    assert project.submit("-r", project.batch, "--local", "-y") == 0
    assert project.executed() == [1] * 4


@pytest.mark.parametrize("what", ["batch", "journal"])
def test_full_disk_is_reported_and_the_same_command_continues(what: str, project: Project, fake_slurm: Path,
                                                              monkeypatch: pytest.MonkeyPatch,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        if what == "batch":
            patch.setattr(batch_module, "write_specs", full)
        else:
            patch.setattr(journal.Journal, "_append", full)
        assert project.submit(project.spec, "-s", "s.sh", "-y") == 2
    error = capsys.readouterr().err
    assert "No space left on device; when that is fixed, give the same command again" in error
    assert "Traceback" not in error
    monkeypatch.setattr(process, "is_alive", lambda who: False)
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    assert (fake_slurm / "n").read_text() == "4\n"


def test_unreadable_journal_is_reported(project: Project, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert project.submit(project.spec, "--no-submit", "-y") == 0

    def refuse(path: str) -> list[object]:
        raise PermissionError(errno.EACCES, "Permission denied", path)
    monkeypatch.setattr("src.io.files.read_json_lines", refuse)
    assert project.submit("-r", project.batch, "--local", "-y") == 2
    assert capsys.readouterr().err.endswith(".jsonl: Permission denied\n")


def test_programs_that_share_the_project_folder_get_a_warning_and_cwd_separates_them(
        project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.folder / "mine.py").write_text("import sys\nopen('result.json', 'w').write(sys.argv[1])\n")
    text = f"job_details: {{name: tiny, output_dir: out, command: '{sys.executable} mine.py {{args}}'%s}}\n"
    project.spec.write_text(text % "" + "parameters: {rate: [1, 2]}\n")
    assert project.submit(project.spec, "--local", "-d") == 0
    assert "warning: all runs work in the project's folder, and may overwrite each other's" in capsys.readouterr().out
    project.spec.write_text(text % ", cwd: '{folder}'" + "parameters: {rate: [1, 2]}\n")
    assert project.submit(project.spec, "--local", "-y") == 0
    assert "warning" not in capsys.readouterr().out
    written = sorted((project.folder / "out").glob("*/*/result.json"))
    assert [path.read_text() for path in written] == ["--rate=1", "--rate=2"]
    project.spec.write_text("job_details: {name: other, cwd: x}\nparameters: {batch_size: 8}\n")
    assert project.submit(project.spec, "--local", "-d") == 0
    assert "warning: cwd is used only with `command`" in capsys.readouterr().out


def test_unknown_parameter_of_a_sweep_with_train_py_says_how_to_name_a_program_of_ones_own(
        project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = "program: train.py\nmethod: grid\nparameters:\n  epochs: {values: [1, 2]}\n"
    project.spec.write_text(sweep)
    assert project.submit(project.spec, "--local", "-d") == 2
    error = capsys.readouterr().err
    assert "unknown parameter 'epochs'; here it is train_length; or if train.py is a program of your own" in error
    assert "program: my_train.py" in error
    (project.folder / "mine").mkdir()
    (project.folder / "mine" / "train.py").write_text("")
    project.spec.write_text(sweep.replace("train.py", "mine/train.py"))
    assert project.submit(project.spec, "--local", "-d") == 0
    project.spec.write_text(sweep.replace("epochs", "train_length").replace("train.py", "./train.py"))
    assert project.submit(project.spec, "--local", "-d") == 0


@pytest.mark.parametrize(("option", "code"), [("-y", 2), ("-d", 0)])
def test_closed_output_ends_a_submission_with_an_error(option: str, code: int, project: Project) -> None:
    """`… -y | head` printed a plan, submitted nothing, and exited with 0."""
    process = subprocess.Popen([sys.executable, ROOT / "submit_multiple.py", project.spec, "--local", option],
                               cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    error = process.stderr.read()
    assert process.wait(20) == code
    assert error.count("the output was closed before the submission had ended; the same command") == (code == 2)
    assert error.count("\n") == (code == 2)
    assert not project.results.exists()
