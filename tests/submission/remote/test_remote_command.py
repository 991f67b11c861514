"""experiments.py --on HOST over a real sshd, with a far project in a folder of a nasty name."""
from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import threading
from pathlib import Path

import pytest

import experiments
from src.submission.remote import ssh
from tests.analysis.make_batch import make_batch
from tests.conftest import ROOT
from tests.hub_server import Hub, hub_server
from tests.sshd.fixture import Sshd, sshd
from tests.submission.conftest import Project, project
from tests.submission.job.test_worker import both_run, states_of, submit_in_background, wait_for
from tests.texts import reviews, write_csv

__all__ = ["hub_server", "project", "sshd"]  # the fixtures

NAME = "26-11-20-digits"
NASTY = "my $(touch x) `touch y`; 'job'.yaml"


@pytest.fixture
def far(project: Project, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project on the host `cluster`. We are in `here`, which knows of it."""
    for name in ("experiments.py", "submit_multiple.py"):
        (project.folder / name).symlink_to(ROOT / name)
    project.spec.write_text(project.spec.read_text().replace("re sults", "results"))
    project.results = project.folder / "results"
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    for module in ("common", "results"):
        monkeypatch.setattr(f"src.commands.{module}.PROJECT", str(here))
    monkeypatch.chdir(here)
    sshd.write_hosts(here, project.folder)
    return project


@pytest.mark.parametrize(("words", "kept"), [
    (["status", "--on", "x", "b"], ["status", "b"]), (["status", "b", "--on=x"], ["status", "b"]),
    (["note", "b", "--on", "x", "a --on b"], ["note", "b", "a --on b"])])
def test_on_option_is_removed(words: list[str], kept: list[str]) -> None:
    assert ssh.remove_on_option(words) == kept


def test_monitoring_commands_run_on_the_host(far: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    far.results.mkdir()
    batch = Path(make_batch(far.results))
    run = sorted(batch.glob("0*"))[3]
    (run / "training.log").write_text("epoch 1\n")
    assert experiments.main(["status", "--on", "cluster"]) == 0
    out = capfd.readouterr().out
    assert f"results/{NAME}" in out and out.count("_digits") == 12
    assert experiments.main(["watch", "--every", "0.1", "--on=cluster", f"results/{NAME}"]) == 0
    assert "12/12 runs" in capfd.readouterr().out
    assert experiments.main(["logs", "-f", "--on", "cluster", "3"]) == 0
    assert capfd.readouterr().out.endswith("epoch 1\nstate: done\n")
    assert experiments.main(["wait", f"results/{NAME}", "--on", "cluster"]) == 0
    assert experiments.main(["note", "--on", "cluster", f"results/{NAME}", NASTY]) == 0
    assert capfd.readouterr().out.endswith(f"{NASTY}\n")
    assert experiments.main(["status", "--on", "cluster", "$(touch x)"]) == 2
    assert "no such folder" in capfd.readouterr().err
    assert experiments.main(["status", "--on", "clustre"]) == 2
    assert "did you mean 'cluster'?" in capfd.readouterr().err
    assert not [path for folder in (tmp_path, far.folder, far.folder.parent) for path in folder.glob("[xy]")]


def test_other_output_folder_on_the_host(far: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "large disk").mkdir()
    make_batch(tmp_path / "large disk")
    text = Path("hosts.toml").read_text("utf-8").replace("setup = []\n", "")
    Path("hosts.toml").write_text(text, "utf-8")
    with open("hosts.toml", "a", encoding="utf-8") as file:
        file.write(f"setup = ['export DISK=\"{tmp_path}/large disk\"']\noutput_dir = '$DISK'\n")
    for words in (["status"], ["status", f"results/{NAME}"], ["logs", "-f", "0"]):
        assert experiments.main([*words, "--on", "cluster"]) == 0
        assert capfd.readouterr().out
    assert experiments.main(["sync", "cluster"]) == 0
    assert Path("results", NAME, "job.yaml").is_file()


def test_cancel_runs_on_the_host(far: Project, capfd: pytest.CaptureFixture[str],
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    far.write_spec("[15, 8]")
    far.spec.write_text(far.spec.read_text().replace("re sults", "results"))
    home = os.getcwd()
    monkeypatch.chdir(far.folder)
    process = submit_in_background(far)
    wait_for(lambda: both_run(far))
    monkeypatch.chdir(home)
    assert experiments.main(["status", "--on", "cluster", f"results/{far.batch.name}"]) == 0
    assert "running" in capfd.readouterr().out
    assert experiments.main(["cancel", "-y", f"results/{far.batch.name}", "--on", "cluster"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("cancelled "), out
    assert re.search(r"submit_multiple.py -r results/\S+ --on cluster ", out)
    assert process.wait(20) == 130 and states_of(far).count("cancelled") == 2


def test_report_is_downloaded(far: Project, capfd: pytest.CaptureFixture[str]) -> None:
    far.results.mkdir()
    batch = Path(make_batch(far.results))
    assert experiments.main(["report", f"results/{NAME}", "--on", "cluster"]) == 0
    path = Path("results", f"{NAME}.report.html").resolve()
    assert capfd.readouterr().out == f"report: {path}\n"
    assert path.read_text() == (batch / "report.html").read_text()
    assert experiments.main(["report", f"results/{NAME}", "--on", "cluster", "--to", NASTY]) == 0
    assert Path(NASTY).read_text().startswith("<!doctype html>") and not Path("x").exists()
    capfd.readouterr()
    assert experiments.main(["report", f"results/{NAME}", "--on", "cluster", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"report": str(path)}


def test_report_on_several_batches_leaves_that_on_the_first_alone(far: Project,
                                                                  capfd: pytest.CaptureFixture[str]) -> None:
    """It has the name that the same command without --on gives it."""
    far.results.mkdir()
    first = Path(make_batch(far.results))
    second, copy = f"{NAME}-2", Path("results", NAME)
    shutil.copytree(first, first.with_name(second))
    copy.mkdir(parents=True)
    (copy / "report.html").write_text("of the first batch")
    batches = [f"results/{NAME}", f"results/{second}"]
    assert experiments.main(["report", *batches, *batches, "--on", "cluster"]) == 0
    path = copy.resolve() / f"report-with-{second}.html"
    assert capfd.readouterr().out == f"report: {path}\n"
    assert path.read_text() == (first / path.name).read_text()
    assert (copy / "report.html").read_text() == "of the first batch"
    assert experiments.main(["report", *reversed(batches), "--on", "cluster"]) == 0  # without a copy of its first batch
    assert Path("results", f"{second}.report-with-{NAME}.html").is_file() and len(list(copy.iterdir())) == 2


def test_lost_connection_is_retried(far: Project, sshd: Sshd, capfd: pytest.CaptureFixture[str]) -> None:
    far.results.mkdir()
    batch = Path(make_batch(far.results))
    done, looked = next(batch.glob("003*")) / "done", far.folder / "looked"
    done.unlink()
    program = far.folder / "experiments.py"
    program.unlink()
    program.write_text(f"import os, sys, time\nopen({str(looked)!r}, 'a').write('x')\n"
                       f"while not os.path.exists({str(done)!r}):\n    time.sleep(0.1)\nprint('all done')\n")

    def cut() -> None:
        wait_for(looked.exists)
        sshd.drop_connections()
        wait_for(lambda: looked.read_text() == "xx")
        done.write_text("completed\n")

    thread = threading.Thread(target=cut)
    thread.start()
    assert experiments.main(["wait", f"results/{NAME}", "--on", "cluster"]) == 0
    thread.join()
    out, err = capfd.readouterr()
    assert out == "all done\n" and "cluster: the connection was lost" in err


def test_prefetch_uploads_the_job_spec(far: Project, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / NASTY
    spec.write_text("job_details: {name: t, command: [echo, hi]}\nparameters: {x: [1]}\n")
    assert experiments.main(["prefetch", str(spec), "--on", "cluster"]) == 2
    out, err = capfd.readouterr()
    assert "this job spec runs its own command" in err and err.startswith("uploaded  ")
    assert not list(far.folder.rglob("[xy]")) and not out
    assert experiments.main(["prefetch", "no such.yaml", "--on", "cluster"]) == 2
    assert "no such job spec on this machine" in capfd.readouterr().err


def test_prefetch_downloads_on_the_host(far: Project, hub_server: Hub, tmp_path: Path,
                                                           capfd: pytest.CaptureFixture[str]) -> None:
    """Into its cache, from a hub that this process knows nothing of; the second time from the cache."""
    cache = tmp_path / "cache there"
    setup = [f"export {key}={shlex.quote(value)}" for key, value in hub_server.environment(cache).items()]
    text = Path("hosts.toml").read_text("utf-8").replace("setup = []\n", f"setup = {json.dumps(setup)}\n")
    Path("hosts.toml").write_text(text, "utf-8")
    write_csv(far.folder / "data" / "reviews.csv", reviews(20))
    Path("job.yaml").write_text("job_details: {name: t}\nparameters: {dataset: hf/reviews.csv, model: hf/me/tiny, "
                                "model_pretrained: false, data_splits_map: {train: train}, data_download: false, "
                                "base_lr: [0.1, 1]}\n")
    for _ in range(2):
        assert experiments.main(["prefetch", "job.yaml", "--on", "cluster"]) == 0
        out, err = capfd.readouterr()
        assert out == "hf/reviews.csv: present already\nhf/me/tiny: settings are in the cache\n", err
        assert hub_server.downloads == dict.fromkeys(("config.json", "tokenizer.json", "tokenizer_config.json"), 1)
    assert {path.name for path in cache.rglob("*.json")} >= set(hub_server.downloads)


def test_doctor_runs_on_the_host(far: Project, capfd: pytest.CaptureFixture[str]) -> None:
    (far.folder / "experiments.py").unlink()
    (far.folder / "experiments.py").write_text("import os, sys\nprint(sys.argv[1:], os.environ['GRIDIRON_ON'])\n"
                                               "sys.exit(1)\n")
    assert experiments.main(["doctor", "--json", "--on", "cluster"]) == 1
    assert capfd.readouterr().out == "['doctor', '--json'] cluster\n"


def test_only_repeatable_commands_are_retried(far: Project, monkeypatch: pytest.MonkeyPatch,
                                              capfd: pytest.CaptureFixture[str]) -> None:
    """A machine that stays away: seven tries, and then how to go on; what must not be done twice, once."""
    monkeypatch.setattr(ssh, "RETRY_DELAYS", (0.0, 0.0))
    calls: list[object] = []

    def broken(_: object, words: list[str]) -> str:
        calls.append(words)
        return "exit 255"

    monkeypatch.setattr(ssh, "project_command", broken)
    assert experiments.main(["status", "--on", "cluster"]) == 2
    assert len(calls) == 3 and "2 retries failed" in capfd.readouterr().err
    assert experiments.main(["cancel", "x", "--on", "cluster"]) == 2
    assert len(calls) == 4 and "the connection was lost" in capfd.readouterr().err
