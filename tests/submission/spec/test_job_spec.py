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


def test_minimal_job_spec(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(MINIMAL)
    assert read_job_spec(str(path)) == JobSpec(
        name="grid", parameters={"base_lr": [1, 2]}, output_dir="results", text=MINIMAL, source=str(path))


def test_all_keys_of_job_details():
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


def test_samples_seed_and_draw():
    job_spec = with_details("samples: 20, seed: 3, draw: shared")
    assert (job_spec.samples, job_spec.seed, job_spec.draw) == (20, 3, "shared")
    assert (with_details("").samples, with_details("").seed, with_details("").draw) == (None, 0, "per_point")
    for wrong in ("samples: 0", "samples: true", "samples: 1.5", "seed: -1", "seed: x", "draw: each"):
        with pytest.raises(JobSpecError, match=wrong.split(":")[0]):
            with_details(wrong)


def test_null_equals_an_absent_key():
    job_spec = with_details("output_dir: null, command: null, script: null, sbatch: null, tags: null")
    assert job_spec.output_dir == "results"
    assert job_spec.command is None
    assert job_spec.sbatch == {}
    assert not job_spec.warnings


def test_other_keys_of_job_details_are_stored_with_a_warning():
    job_spec = with_details("project: p, comment: c, cluster: x, owner: {a: 1}, dataset: d")
    assert job_spec.extra == {"project": "p", "comment": "c", "cluster": "x", "owner": {"a": 1}, "dataset": "d"}
    assert len(job_spec.warnings) == 5
    assert "'project'" in job_spec.warnings[0]
    assert job_spec.parameters == {}


def test_tracker_settings_apply_to_every_run():
    job_spec = parse_job_spec("job_details: {name: g, wandb: true, wandb_tags: [a, b], wandb_run_name: '[x]'}\n"
                              "parameters: {base_lr: 1, wandb: false}\n", "job.yaml")
    assert job_spec.parameters == {"wandb": False, "wandb_tags": [["a", "b"]], "wandb_run_name": ["[x]"], "base_lr": 1}
    assert not job_spec.warnings
    assert not job_spec.extra


def test_other_top_level_keys_give_a_warning():
    assert parse_job_spec(f"{MINIMAL}common: &c {{a: 1}}\n", "job.yaml").warnings == [
        "job.yaml: 'common' beside job_details and parameters is ignored"]


@pytest.mark.parametrize(("text", "words"), [
    ("", ["a job spec must be a mapping", "empty"]),
    ("- a", ["a job spec must be a mapping"]),
    ("just text", ["a job spec must be a mapping"]),
    ("a: [1, b: {", ["line 2, column 1", "not valid YAML"]),
    ("a: 1\na: 2", ["line 2", "is defined twice"]),
    ("parameters: {}", ["job_details is required"]),
    ("job_details: {name: x}", ["parameters is required", "base_lr"]),
    ("job_details: {name: x}\nparameters:", ["parameters is required"]),
    ("job_details: {name: x}\nparameter: {a: 1}", ["unknown key 'parameter'", "'parameters'"]),
    ("job_detials: {name: x}\nparameters: {a: 1}", ["unknown key 'job_detials'", "'job_details'"]),
    ("job_details: [name]\nparameters: {}", ["job_details must be a mapping"]),
    ("job_details: {name: x}\nparameters: [a]", ["parameters must be a mapping"]),
    ("job_details: {name: x}\nparameters: {1: 2}", ["invalid key 1", "'1'"]),
    ("job_details: {}\nparameters: {}", ["name is required"]),
    ("job_details: {name: null}\nparameters: {}", ["name is required"]),
    ("job_details: {name: 12}\nparameters: {}", ["not a string", '"12"']),
    ("job_details: {name: [a]}\nparameters: {}", ["not a string"]),
    ("job_details: {name: x, output-dir: y}\nparameters: {}", ["'output-dir'", "'output_dir'"]),
    ("job_details: {name: x, scripts: y}\nparameters: {}", ["'scripts'", "'script'"]),
    ("job_details: {name: x, tag: y}\nparameters: {}", ["'tag'", "'tags'"]),
    ("job_details: {name: x, wandb_project: y}\nparameters: {}", ["'wandb_project'", "'wandb_project_name'"]),
    ("job_details: {name: x, output_dir: 3}\nparameters: {}", ["invalid output_dir"]),
    ("job_details: {name: x, script: 3}\nparameters: {}", ["script", "not a string"]),
    ("job_details: {name: x, command: []}\nparameters: {}", ["invalid command"]),
    ("job_details: {name: x, command: {a: b}}\nparameters: {}", ["invalid command"]),
    ("job_details: {name: x, sbatch: [a]}\nparameters: {}", ["invalid sbatch options"]),
    ("job_details: {name: x, sbatch: {gres: [a]}}\nparameters: {}", ["invalid sbatch options"]),
    ("job_details: {name: x, tags: [1]}\nparameters: {}", ["invalid tags"]),
])
def test_invalid_input_is_refused(text, words):
    with pytest.raises(JobSpecError) as refused:
        parse_job_spec(text, "job.yaml")
    message = str(refused.value)
    assert message.startswith("job.yaml")
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", ["a", "linear-classifier-example-2", "v1.2_x", "a=b,c@d+e", "2024", "_x", "a" * 100])
def test_valid_names(name):
    assert check_name(name, "here") == name


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "/a", "a..b", "../a", "-a", ".a", "a b", "a\n", "\na", "a\x00",
                                  "a%j", "a;b", "$a", "a'", 'a"', "a*", "~a", "é", "a\u202eb", "a\ud800",
                                  "+a", "=a", "a" * 101])
def test_unsafe_names_are_refused(name):
    with pytest.raises(JobSpecError, match="here: the name"):
        check_name(name, "here")


@given(st.text())
def test_proposed_name_is_valid(name):
    try:
        check_name(name, "here")
    except JobSpecError as error:
        if error.hint:
            proposed = error.hint.removeprefix("for example name: ")
            assert check_name(proposed, "here") == proposed


@pytest.mark.parametrize("path", ["", " ", "a%j", "a\nb", 3, None, ["a"]])
def test_unsafe_output_dir_is_refused(path):
    with pytest.raises(JobSpecError, match="output_dir"):
        check_output_dir(path, "here")


def test_unreadable_file_is_refused(tmp_path):
    with pytest.raises(JobSpecError, match="No such file"):
        read_job_spec(str(tmp_path / "none.yaml"))
    with pytest.raises(JobSpecError, match="directory"):
        read_job_spec(str(tmp_path))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JobSpecError, match="UTF-8"):
        read_job_spec(str(tmp_path / "binary.yaml"))


def test_resources_replace_a_script() -> None:
    text = "job_details: {{name: t, resources: {{gpus: 1, mem: null}}{}}}\nparameters: {{base_lr: 1}}\n"
    found = parse_job_spec(text.format(""), "x.yaml").resources
    assert found is not None
    assert (found.gpus, found.mem, found.ranks) == (1, None, 1)
    with pytest.raises(JobSpecError, match="keep one of them"):
        parse_job_spec(text.format(", script: s.sh"), "x.yaml")
    with pytest.raises(JobSpecError, match=r"x\.yaml, job_details, resources: .*'gpus'"):
        parse_job_spec(text.replace("gpus", "gpsu").format(""), "x.yaml")


OTHER_TOOLS = {
    "SEML": ["seml: {executable: main.py, name: x, output_dir: logs}\nfixed: {lr: 1}",
             "slurm: {sbatch_options: {mem: 8G}}\ngrid: {lr: {type: choice, options: [1, 2]}}",
             "grid: {lr: {type: choice, options: [1, 2]}}",
             "seml: {executable: main.py}\nslurm: [{experiments_per_job: 2}]\nrandom: {samples: 3}\nprogram: x"],
    "Hydra": ["defaults: [{model: resnet}, _self_]\nlr: 0.1", "hydra: {run: {dir: x}}\nlr: 0.1",
              "hydra: {sweeper: {params: {lr: 'choice(1, 2)'}}}\nparameters: {a: 1}"],
    "Optuna": ["study_name: x\nstorage: sqlite:///x.db\nn_trials: 20",
               "search_space: {lr: {low: 1, high: 2}}\nsampler: TPESampler", "n_trials: 5\nlr: 1"],
    "Ray Tune": ["tune_config: {num_samples: 4}\nparam_space: {lr: 0.1}", "num_samples: 4\nscheduler: asha",
                 "cartpole-ppo: {env: CartPole-v1, run: PPO, stop: {training_iteration: 5}, config: {lr: 0.1}}",
                 "train: {config: {lr: {grid_search: [0.1, 0.2]}}}"],
}


@pytest.mark.parametrize(("tool", "text"), [(tool, text) for tool, texts in OTHER_TOOLS.items() for text in texts])
def test_a_file_of_another_tool_is_named_and_refers_to_its_translation(tool: str, text: str) -> None:
    anchor = tool.lower().replace(" ", "-")
    with pytest.raises(JobSpecError) as error:
        parse_job_spec(text, "x.yaml")
    assert str(error.value) == (f"x.yaml: this is a file of {tool}, not a job spec; docs/coming-from.md#{anchor} shows "
                                "its translation")


@pytest.mark.parametrize("text", [
    "job_details: {name: x}\nparameters: {seml: 1, n_trials: 3}\n", "num_samples: 3\nlr: 1\n", "direction: up\n",
    "job_details: {name: x}\nparameters: {a: {grid_search: [1]}}\nslurm: {a: 1}\n",
    "method: grid\nparameters: {n_trials: [1], a: {value: {run: x, env: y}}}\nscheduler: {engine: ax}\n",
    "a: &a {b: *a}\n", "run: x\nenv: y\n"])
def test_other_files_are_not_taken_for_those_of_other_tools(text: str) -> None:
    try:
        parse_job_spec(text, "x.yaml")
    except JobSpecError as error:
        message = str(error)
    else:
        message = ""
    assert "this is a file of" not in message
