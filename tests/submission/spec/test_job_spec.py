"""Job specs: what job_details may say, and clear errors for what they may not."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import JobSpecError
from src.submission.spec.job_spec import JobSpec, check_name, check_output_dir
from src.submission.spec.reader import parse_job_spec, read_job_spec

MINIMAL = "job_details: {name: grid}\nparameters: {base_lr: [1, 2]}\n"


def with_details(details: str) -> JobSpec:
    return parse_job_spec(f"job_details: {{name: grid, {details}}}\nparameters: {{}}\n", "job.yaml")


def test_a_minimal_job_spec(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(MINIMAL)
    assert read_job_spec(str(path)) == JobSpec(
        name="grid", parameters={"base_lr": [1, 2]}, output_dir="results", text=MINIMAL, source=str(path))


def test_all_of_job_details():
    job_spec = with_details("output_dir: $WORK/out, command: python x.py, script: my.sh, sbatch: {mem: 8G, "
                            "exclusive: null}, tags: [a, b], description: why, snapshot: true, 2nd: ")
    assert job_spec.output_dir == "$WORK/out"
    assert job_spec.command == "python x.py"
    assert job_spec.script == "my.sh"
    assert job_spec.sbatch == {"mem": "8G", "exclusive": None}
    assert job_spec.tags == ["a", "b"]
    assert job_spec.description == "why"
    assert job_spec.snapshot is True
    assert with_details("tags: a").tags == ["a"]
    assert with_details("command: [python, x.py, -n, 3]").command == ["python", "x.py", "-n", "3"]


def test_random_points():
    job_spec = with_details("samples: 20, seed: 3, draw: shared")
    assert (job_spec.samples, job_spec.seed, job_spec.draw) == (20, 3, "shared")
    assert (with_details("").samples, with_details("").seed, with_details("").draw) == (None, 0, "per_point")
    for wrong in ("samples: 0", "samples: true", "samples: 1.5", "seed: -1", "seed: x", "draw: each"):
        with pytest.raises(JobSpecError, match=wrong.split(":")[0]):
            with_details(wrong)


def test_null_is_as_good_as_absent():
    job_spec = with_details("output_dir: null, command: null, script: null, sbatch: null, tags: null")
    assert job_spec.output_dir == "results"
    assert job_spec.command is None
    assert job_spec.sbatch == {}
    assert not job_spec.warnings


def test_a_groups_own_keys_are_kept_with_a_warning():
    job_spec = with_details("project: p, comment: c, cluster: x, owner: {a: 1}, dataset: d")
    assert job_spec.extra == {"project": "p", "comment": "c", "cluster": "x", "owner": {"a": 1}, "dataset": "d"}
    assert len(job_spec.warnings) == 5
    assert "'project'" in job_spec.warnings[0]
    assert job_spec.parameters == {}


def test_tracker_settings_hold_for_every_run():
    job_spec = parse_job_spec("job_details: {name: g, wandb: true, wandb_tags: [a, b], wandb_run_name: '[x]'}\n"
                              "parameters: {base_lr: 1, wandb: false}\n", "job.yaml")
    assert job_spec.parameters == {"wandb": False, "wandb_tags": [["a", "b"]], "wandb_run_name": ["[x]"], "base_lr": 1}
    assert not job_spec.warnings
    assert not job_spec.extra


def test_another_top_level_key_is_a_warning():
    assert parse_job_spec(f"{MINIMAL}common: &c {{a: 1}}\n", "job.yaml").warnings == [
        "job.yaml: 'common' beside job_details and parameters is not used"]


@pytest.mark.parametrize(("text", "words"), [
    ("", ["a job spec is a mapping", "empty"]),
    ("- a", ["a job spec is a mapping"]),
    ("just text", ["a job spec is a mapping"]),
    ("a: [1, b: {", ["line 2, column 1", "not valid YAML"]),
    ("a: 1\na: 2", ["line 2", "stands twice"]),
    ("parameters: {}", ["no job_details"]),
    ("job_details: {name: x}", ["no parameters", "base_lr"]),
    ("job_details: {name: x}\nparameters:", ["no parameters"]),
    ("job_details: {name: x}\nparameter: {a: 1}", ["unknown key 'parameter'", "'parameters'"]),
    ("job_detials: {name: x}\nparameters: {a: 1}", ["unknown key 'job_detials'", "'job_details'"]),
    ("job_details: [name]\nparameters: {}", ["job_details is a mapping"]),
    ("job_details: {name: x}\nparameters: [a]", ["parameters is a mapping"]),
    ("job_details: {name: x}\nparameters: {1: 2}", ["the key 1", "'1'"]),
    ("job_details: {}\nparameters: {}", ["there is no name"]),
    ("job_details: {name: null}\nparameters: {}", ["there is no name"]),
    ("job_details: {name: 12}\nparameters: {}", ["not a string", '"12"']),
    ("job_details: {name: [a]}\nparameters: {}", ["not a string"]),
    ("job_details: {name: x, output-dir: y}\nparameters: {}", ["'output-dir'", "'output_dir'"]),
    ("job_details: {name: x, scripts: y}\nparameters: {}", ["'scripts'", "'script'"]),
    ("job_details: {name: x, tag: y}\nparameters: {}", ["'tag'", "'tags'"]),
    ("job_details: {name: x, wandb_project: y}\nparameters: {}", ["'wandb_project'", "'wandb_project_name'"]),
    ("job_details: {name: x, output_dir: 3}\nparameters: {}", ["output_dir", "not the path"]),
    ("job_details: {name: x, script: 3}\nparameters: {}", ["script", "not a string"]),
    ("job_details: {name: x, command: []}\nparameters: {}", ["not a command"]),
    ("job_details: {name: x, command: {a: b}}\nparameters: {}", ["not a command"]),
    ("job_details: {name: x, sbatch: [a]}\nparameters: {}", ["mapping of sbatch's options"]),
    ("job_details: {name: x, sbatch: {gres: [a]}}\nparameters: {}", ["mapping of sbatch's options"]),
    ("job_details: {name: x, tags: [1]}\nparameters: {}", ["not tags"]),
])
def test_refused(text, words):
    with pytest.raises(JobSpecError) as refused:
        parse_job_spec(text, "job.yaml")
    message = str(refused.value)
    assert message.startswith("job.yaml")
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", ["a", "linear-classifier-example-2", "v1.2_x", "a=b,c@d+e", "2024", "_x", "a" * 100])
def test_names(name):
    assert check_name(name, "here") == name


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "/a", "a..b", "../a", "-a", ".a", "a b", "a\n", "\na", "a\x00",
                                  "a%j", "a;b", "$a", "a'", 'a"', "a*", "~a", "é", "a\u202eb", "a\ud800",
                                  "+a", "=a", "a" * 101])
def test_unsafe_names(name):
    with pytest.raises(JobSpecError, match="here: the name"):
        check_name(name, "here")


@given(st.text())
def test_the_name_that_an_error_proposes_is_accepted(name):
    try:
        check_name(name, "here")
    except JobSpecError as error:
        if error.hint:
            proposed = error.hint.removeprefix("for instance name: ")
            assert check_name(proposed, "here") == proposed


@pytest.mark.parametrize("path", ["", " ", "a%j", "a\nb", 3, None, ["a"]])
def test_unsafe_output_dir(path):
    with pytest.raises(JobSpecError, match="output_dir"):
        check_output_dir(path, "here")


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(JobSpecError, match="No such file"):
        read_job_spec(str(tmp_path / "none.yaml"))
    with pytest.raises(JobSpecError, match="directory"):
        read_job_spec(str(tmp_path))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JobSpecError, match="UTF-8"):
        read_job_spec(str(tmp_path / "binary.yaml"))


def test_resources_stand_instead_of_a_script() -> None:
    text = "job_details: {{name: t, resources: {{gpus: 1, mem: null}}{}}}\nparameters: {{base_lr: 1}}\n"
    found = parse_job_spec(text.format(""), "x.yaml").resources
    assert found is not None
    assert (found.gpus, found.mem, found.ranks) == (1, None, 1)
    with pytest.raises(JobSpecError, match="give one of them"):
        parse_job_spec(text.format(", script: s.sh"), "x.yaml")
    with pytest.raises(JobSpecError, match=r"x\.yaml, job_details, resources: .*'gpus'"):
        parse_job_spec(text.replace("gpus", "gpsu").format(""), "x.yaml")
