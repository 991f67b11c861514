"""A project on a "laptop" that submits to a "cluster": another folder of this machine, behind a real sshd."""
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
    """A project in git whose train.py does not need torch. `remote_dir` is its folder on the host `cluster`."""

    def __init__(self, folder: Path, remote_dir: Path, sshd: Sshd, setup: tuple[str, ...] = ()) -> None:
        self.folder, self.remote_dir, self.sshd = folder, remote_dir, sshd
        folder.mkdir(parents=True)
        for name in ("submit_multiple.py", "experiments.py", ".gitignore", "submit_cpu.sh"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "train.py").write_text((ROOT / "tests" / "submission" / "entry.py").read_text())
        (folder / "jobs").mkdir()
        self.write_spec("tiny", "batch_size: [1, 2], base_lr: [0.1, 1]")
        # results, data and the environment are not uploaded, whether they are links or not
        (folder.parent / "large disk").mkdir()
        (folder.parent / "large disk" / "huge.bin").write_bytes(b"0" * 1000)
        for name in ("results", "data", ".venv"):
            (folder / name).symlink_to(folder.parent / "large disk")
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.email", "me@example.org")
        self.git("config", "user.name", "me")
        self.commit()
        sshd.write_hosts(folder, remote_dir, (f"export GRIDIRON_TEST_ROOT='{remote_dir}' OMP_NUM_THREADS=1", *setup))

    def git(self, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=self.folder, check=True, capture_output=True, text=True
                              ).stdout.strip()

    def commit(self) -> str:
        """Commit all changes. Returns the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "all")
        return self.git("rev-parse", "HEAD")

    def write_spec(self, name: str, parameters: str) -> str:
        """Write a job spec. Returns its path in the project."""
        (self.folder / "jobs" / f"{name}.yaml").write_text(JOB_SPEC.format(name=name, parameters=parameters))
        return f"jobs/{name}.yaml"

    def start(self, *arguments: str | Path, program: str = "submit_multiple.py") -> subprocess.Popen[str]:
        """Start the program with --on cluster, in a session of its own."""
        return subprocess.Popen([sys.executable, program, *arguments, "--on", "cluster"], cwd=self.folder, text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                start_new_session=True)

    def submit(self, *arguments: str | Path, code: int = 0, stdin: str = "",
               program: str = "submit_multiple.py") -> str:
        """Run the program with --on cluster. Checks its exit code, and returns what it prints."""
        process = self.start(*arguments, program=program)
        output, _ = process.communicate(stdin, timeout=300)
        assert process.returncode == code, output
        return output

    def batch(self, name: str = "tiny") -> Path:
        """Return the folder of a batch on the cluster."""
        folder, = (self.remote_dir / "results").glob(f"*-{name}")
        return folder

    def executed(self, name: str = "tiny") -> list[int]:
        """Return how many times each run on the cluster was executed to its end."""
        return [len((run / "executed").read_text().split()) if (run / "executed").exists() else 0
                for run in sorted(self.batch(name).iterdir()) if run.name[0].isdigit()]


def wait_until(condition: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"timeout after {seconds} s"
        time.sleep(0.02)
