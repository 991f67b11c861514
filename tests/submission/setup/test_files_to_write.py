"""Files that somebody has edited are left alone; those as shipped, or as an earlier setup wrote them, are replaced."""
from __future__ import annotations

import os
from pathlib import Path

from src.submission.setup import files_to_write
from src.submission.setup.files_to_write import plan_changes
from tests.conftest import ROOT


def test_hash_of_the_shipped_script_is_known() -> None:
    """After a change of submit_cpu.sh: write its new hash into files_to_write.SHIPPED."""
    text = files_to_write.without_mark((ROOT / "submit_cpu.sh").read_text())
    assert files_to_write.SHIPPED["submit_cpu.sh"] == files_to_write.digest(text)


def test_edited_file_is_left_alone_and_repeating_changes_nothing(tmp_path: Path) -> None:
    project, text = str(tmp_path), "#!/bin/bash\n#SBATCH --partition=gpu\n#SBATCH --requeue\n"
    change, = plan_changes(project, {"submit_a.sh": text})[0]
    assert change.diff() == ["new   submit_a.sh: partition=gpu"]
    files_to_write.write(change)
    assert os.access(tmp_path / "submit_a.sh", os.X_OK)
    files_to_write.write(change._replace(path=str(tmp_path / "activate.sh"), text="# shellcheck shell=bash\n"))
    assert not os.access(tmp_path / "activate.sh", os.X_OK), "it is sourced"
    (tmp_path / "activate.sh").unlink()
    assert plan_changes(project, {"submit_a.sh": text}) == ([], [])
    other = text.replace("gpu", "guest")
    change, = plan_changes(project, {"submit_a.sh": other})[0]  # nobody has edited it
    assert change.diff()[-1] == "+#SBATCH --partition=guest"
    (tmp_path / "submit_a.sh").write_text(files_to_write.with_mark(text).replace("=gpu", "=mine"))
    assert plan_changes(project, {"submit_a.sh": other}) == ([], ["submit_a.sh"])


def test_own_file_without_a_mark_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "submit_cpu.sh").write_text("#!/bin/bash\n# mine\n")
    assert plan_changes(str(tmp_path), {"submit_cpu.sh": "#!/bin/bash\n"}) == ([], ["submit_cpu.sh"])
    (tmp_path / "submit_cpu.sh").write_text((ROOT / "submit_cpu.sh").read_text())
    assert len(plan_changes(str(tmp_path), {"submit_cpu.sh": "#!/bin/bash\n"})[0]) == 1
    assert plan_changes(str(tmp_path), {"submit_cpu.sh": (ROOT / "submit_cpu.sh").read_text()}) == ([], [])
