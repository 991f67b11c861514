"""docs/coming-from.md: files of other tools are recognised, and their translations have the points of the originals."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from src.errors import JobSpecError
from src.io import yaml_io
from src.submission.spec import command_template, grid, reader
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "coming-from.md").read_text("utf-8")
SECTIONS: dict[str, str] = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
GRID = [{"lr": lr, "depth": depth} for lr in (0.1, 0.2) for depth in (2, 4)]  # of all examples without random points


def files_of(section: str) -> list[str]:
    """Return the YAML files of a section: the other tool's first, if there is one, and the translation last."""
    return re.findall(r"^```yaml\n(.*?)^```", SECTIONS[section], re.M | re.S)


def commands_of(section: str) -> list[list[str]]:
    """Return the command of each run of a section's job spec."""
    spec = reader.parse_job_spec(files_of(section)[-1], "job.yaml")
    assert not spec.warnings
    words = command_template.parse_command(spec.command, "job.yaml")
    return [command_template.fill_command(words, point, "run") for point in grid.expand_job_spec(spec).specs]


@pytest.mark.parametrize("section", ["SEML", "Hydra", "Ray Tune", "Optuna"])
def test_file_of_the_other_tool_refers_to_its_section(section: str) -> None:
    with pytest.raises(JobSpecError) as error:
        reader.parse_job_spec(files_of(section)[0], "other.yaml")
    assert f"a file of {section}, not a job spec; docs/coming-from.md#{section.lower().replace(' ', '-')}" in str(
        error.value)


@pytest.mark.parametrize(("section", "form"), [
    ("Hydra", ["python", "app.py", "lr={lr}", "depth={depth}", "hydra.run.dir=run"]),
    ("Ray Tune", ["python", "tool.py", "--lr={lr}", "--depth={depth}", "--epochs=3"]),
    ("Bash loops", ["python", "tool.py", "--lr={lr}", "--depth={depth}"])])
def test_translated_grid_runs_the_same_commands_in_order(section: str, form: list[str]) -> None:
    assert commands_of(section) == [[word.format(**point) for word in form] for point in GRID]


def test_translated_seml_file_uses_each_random_sample_at_each_grid_point() -> None:
    commands = commands_of("SEML")
    assert [command[3:5] for command in commands] == [
        [f"--lr={point['lr']}", f"--depth={point['depth']}"] for point in GRID] * 2
    assert {command[2] for command in commands} == {"--epochs=3"}
    dropouts = [command[5] for command in commands]
    assert dropouts == [dropouts[0]] * 4 + [dropouts[4]] * 4
    assert 0 <= float(dropouts[0].partition("=")[2]) <= 0.5 and dropouts[0] != dropouts[4]


def test_translated_study_draws_from_its_search_space() -> None:
    commands = commands_of("Optuna")
    assert len(commands) == 4
    for *_, lr, depth in commands:
        assert 0.01 <= float(lr.removeprefix("--lr=")) <= 1
        assert depth.removeprefix("--depth=") in ("1", "2", "3", "4")


def test_translation_requests_the_resources_of_the_other_file() -> None:
    seml, hydra = (reader.parse_job_spec(files_of(section)[-1], "job.yaml").resources for section in ("SEML", "Hydra"))
    options = yaml_io.load(files_of("SEML")[0], "seml.yaml")["slurm"][0]["sbatch_options"]
    assert (f"gpu:{seml.gpus}", seml.mem, seml.cpus_per_gpu, seml.time) == (
        options["gres"], options["mem"], options["cpus-per-task"], options["time"])
    launcher = yaml_io.load(files_of("Hydra")[0], "hydra.yaml")["hydra"]["launcher"]
    assert (hydra.gpus, hydra.mem, hydra.cpus_per_gpu, hydra.time, hydra.partition) == (
        launcher["gpus_per_node"], f"{launcher['mem_gb']}G", launcher["cpus_per_task"], launcher["timeout_min"],
        launcher["partition"])


def test_messages_refer_to_existing_sections() -> None:
    assert set(reader._OTHER_TOOLS) < set(SECTIONS)
    assert (Path(ROOT) / "docs" / "coming-from.md").exists()
