"""The fixture `project`: a project in a temporary folder whose train.py does not need torch."""
from __future__ import annotations

from pathlib import Path

import pytest

import submit_multiple
from tests.conftest import ROOT

JOB_SPEC = """\
job_details: {{name: tiny, output_dir: re sults}}
parameters:
  batch_size: {batch_size}
  base_lr: [0.1, 1]
"""

# lines of a program in which another thread than the main one takes SIGINT, once `file` exists
INTERRUPT_FROM_A_THREAD = """\
import os, signal, threading, time
def interrupt():
    while not os.path.exists({file!r}):
        time.sleep(0.02)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
"""


class Project:
    """A project. `folder` holds train.py and the job spec x.yaml; `results` holds the batches."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results, self.spec = folder, folder / "re sults", folder / "x.yaml"
        (folder / "train.py").write_text((ROOT / "tests" / "submission" / "entry.py").read_text())
        self.write_spec()

    def write_spec(self, batch_size: str = "[8, 32]") -> None:
        self.spec.write_text(JOB_SPEC.format(batch_size=batch_size))

    def submit(self, *arguments: str | Path) -> int:
        """Run submit_multiple.py. Returns its exit code."""
        return submit_multiple.main([str(argument) for argument in arguments])

    @property
    def batch(self) -> Path:
        """The folder of the only batch."""
        folder, = (path for path in self.results.iterdir() if not path.name.startswith("."))
        return folder

    def runs(self) -> list[Path]:
        """Return the folders of all runs."""
        return sorted(path for path in self.batch.iterdir() if path.name[0].isdigit())

    def executed(self) -> list[int]:
        """Return how many times each run was executed to its end."""
        return [len((run / "executed").read_text().split()) if (run / "executed").exists() else 0
                for run in self.runs()]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project, which is the working directory too, in a folder whose name has to be quoted."""
    folder = tmp_path / "a $HOME 'project' (1)"
    folder.mkdir()
    monkeypatch.setenv("GRIDIRON_TEST_ROOT", str(ROOT))
    monkeypatch.setattr(submit_multiple, "PROJECT", str(folder))
    monkeypatch.chdir(folder)
    return Project(folder)
