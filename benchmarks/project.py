"""A project folder with the real submit_multiple.py and a train.py that does nothing."""
from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TRAIN = """\
import sys

from src.submission.job import attempt


def warm_up(specs):
    import src.training.experiment  # the imports of a worker for real runs


if __name__ == "__main__":
    sys.exit(attempt.main(sys.argv[1:], train=lambda spec, folder, check: "completed", warm_up=warm_up))
"""
SCRIPT = f"""#!/bin/bash
#SBATCH --hold --time=5 --mem=100
exec {sys.executable} train.py "$@"
"""


def make(folder: Path) -> Path:
    """Fill the folder. Slurm jobs of its script `s.sh` stay held."""
    shutil.copy(ROOT / "submit_multiple.py", folder)
    (folder / "src").symlink_to(ROOT / "src")
    (folder / "train.py").write_text(TRAIN)
    (folder / "s.sh").write_text(SCRIPT)
    return folder


def submit(folder: Path, name: str, runs: int, *arguments: str) -> None:
    """Run submit_multiple.py on a grid of `runs` runs."""
    (folder / f"{name}.yaml").write_text(
        f"job_details: {{name: {name}, output_dir: results}}\nparameters: {{seed_model: 'range({runs})'}}\n")
    subprocess.run([sys.executable, "submit_multiple.py", f"{name}.yaml", "-y", *arguments], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL)
