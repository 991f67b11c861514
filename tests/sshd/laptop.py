"""A project on a "laptop", which submits to a "cluster" that is another folder of this machine, behind a real sshd."""
from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT
from tests.sshd.fixture import Sshd

JOB_SPEC = "job_details: {{name: {name}}}\nparameters: {{{parameters}}}\n"


class Laptop:
    """`folder` is a project of this machine in git, with a train.py without torch; `there` its folder on `cluster`."""

    def __init__(self, folder: Path, there: Path, sshd: Sshd, setup: tuple[str, ...] = ()) -> None:
        self.folder, self.there, self.sshd = folder, there, sshd
        folder.mkdir(parents=True)
        for name in ("submit_multiple.py", "experiments.py", ".gitignore", "submit_cpu.sh"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "train.py").write_text((ROOT / "tests" / "submission" / "entry.py").read_text())
        (folder / "jobs").mkdir()
        self.write_spec("tiny", "batch_size: [1, 2], base_lr: [0.1, 1]")
        # results, data and the environment, as links or not, stay where they are
        (folder.parent / "large disk").mkdir()
        (folder.parent / "large disk" / "huge.bin").write_bytes(b"0" * 1000)
        for name in ("results", "data", ".venv"):
            (folder / name).symlink_to(folder.parent / "large disk")
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.email", "me@example.org")
        self.git("config", "user.name", "me")
        self.commit()
        sshd.write_hosts(folder, there, (f"export GRIDIRON_TEST_ROOT='{there}' OMP_NUM_THREADS=1", *setup))

    def git(self, *words: str) -> str:
        return subprocess.run(["git", *words], cwd=self.folder, check=True, capture_output=True, text=True
                              ).stdout.strip()

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "all")
        return self.git("rev-parse", "HEAD")

    def write_spec(self, name: str, parameters: str) -> str:
        (self.folder / "jobs" / f"{name}.yaml").write_text(JOB_SPEC.format(name=name, parameters=parameters))
        return f"jobs/{name}.yaml"

    def start(self, *words: str | Path, program: str = "submit_multiple.py") -> subprocess.Popen[str]:
        """The command with --on cluster, at work, in a session of its own."""
        return subprocess.Popen([sys.executable, program, *words, "--on", "cluster"], cwd=self.folder, text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                start_new_session=True)

    def submit(self, *words: str | Path, code: int = 0, stdin: str = "", program: str = "submit_multiple.py") -> str:
        """The same to its end, which is `code`; what it says."""
        process = self.start(*words, program=program)
        said, _ = process.communicate(stdin, timeout=300)
        assert process.returncode == code, said
        return said

    def batch(self, name: str = "tiny") -> Path:
        """The batch of that name, there."""
        only, = (self.there / "results").glob(f"*-{name}")
        return only

    def executed(self, name: str = "tiny") -> list[int]:
        """How often each run there was executed to its end."""
        return [len((run / "executed").read_text().split()) if (run / "executed").exists() else 0
                for run in sorted(self.batch(name).iterdir()) if run.name[0].isdigit()]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
