"""The job specs in jobs/: number of runs, names of the first and the last, and whether all points are valid."""
from __future__ import annotations

import pathlib
import re

import pytest

from src.config import Config, check_parameters
from src.run_folder import read_spec
from src.submission.spec.grid import Grid, expand_job_spec, expand_parameters
from src.submission.spec.naming import run_names
from src.submission.spec.reader import read_job_spec

JOBS = pathlib.Path(__file__).parents[1] / "jobs"
GRIDS = {
    "linear-classifier-example": (108, "000_NAME+bat_siz=8+bas_lr=0.015625+mom=0",
                                  "107_NAME+bat_siz=8192+bas_lr=0.4+mom=0.9"),
    "linear-classifier-example-2": (108, "000_NAME+bat_siz=8+bas_lr=0.125+mom=0",
                                    "107_NAME+bat_siz=8192+bas_lr=3.2+mom=0.9"),
    "linear-classifier-example-wandb": (54, "000_NAME+bat_siz=512+bas_lr=0.015625+mom=0",
                                        "053_NAME+bat_siz=8192+bas_lr=0.4+mom=0.9"),
    "cifar10-example": (4, "000_NAME+mod=tiny_lenet+mod_pre=false",
                        "003_NAME+mod=timm_mobilenetv3_small_100+mod_pre=false"),
    "cifar10-ddp": (3, "000_NAME+bat_siz=512+bas_lr=0.1", "002_NAME+bat_siz=2048+bas_lr=0.4"),
    "digits-quickstart": (24, "000_NAME+mod=linear+bas_lr=0.015625+ave=null",
                          "023_NAME+mod=tiny_lenet+bas_lr=0.125+ave=poly_8"),
    "digits-composite": (16, "000_NAME+bas_lr=0.25+see_tra=0+mom=0",
                         "015_NAME+bas_lr=0.1+see_tra=1+mom=0.9,0.99+opt_alg=adam"),
    "pack-folders": (6, "000_NAME+wha=benchmarks", "005_NAME+wha=tests"),
    "mnist": (3, "000_NAME+mod=tiny_lenet+pre=float32", "002_NAME+mod=timm_test_resnet"),
    "grammar-tour": (22, "000_NAME+mom=0.9+see_tra=0+bat_siz=16+bas_lr=0.02+mod=linear+wei_dec=0",
                     "021_NAME+mom=0.9,0.99+see_tra=1+bat_siz=64+bas_lr=0.001+mod=tiny_lenet+ave=null+opt_alg=adam"),
}


def grid_of(name: str) -> Grid:
    job_spec = read_job_spec(JOBS / f"{name}.yaml")
    return expand_parameters(job_spec.parameters, name, check=None if job_spec.command else check_parameters)


SEARCHES = {"tune-digits"}  # tests/test_search.py runs them


def test_every_job_spec_is_listed():
    assert {path.stem for path in JOBS.glob("*.yaml")} == {*GRIDS, *SEARCHES}


@pytest.mark.parametrize("name", GRIDS)
def test_grid(name):
    count, first, last = GRIDS[name]
    job_spec, grid = read_job_spec(JOBS / f"{name}.yaml"), grid_of(name)
    assert job_spec.name == name  # the batch is named like the file
    names = run_names(name, grid.specs, grid.varying)
    assert len(names) == count
    assert names[0] == first.replace("NAME", name)
    assert names[-1] == last.replace("NAME", name)
    assert not [*job_spec.warnings, *grid.warnings]
    for spec in grid.specs if job_spec.command is None else ():
        Config.from_dict(spec)


@pytest.mark.parametrize("name", [*GRIDS, *SEARCHES])
def test_header(name):
    header = re.match(r"(#.*\n)+", (JOBS / f"{name}.yaml").read_text(encoding="utf-8"))[0]
    assert f"# Command: python submit_multiple.py jobs/{name}.yaml" in header
    assert "\n# Cost: " in header and "\n# Shows: " in header
    assert name in SEARCHES or f"{GRIDS[name][0]} runs" in header


def test_linear_classifier_example():
    grid = grid_of("linear-classifier-example")
    assert grid.axes == [("batch_size", 6), ("LIST", 18)]
    smallest_batch = [spec for spec in grid.specs if spec["batch_size"] == 8]
    rates = {momentum: [spec["base_lr"] for spec in smallest_batch if spec["momentum"] == momentum]
             for momentum in (0, 0.9)}
    assert rates[0] == [2.0 ** power for power in range(-6, 3)]
    assert rates[0.9] == [rate / 10 for rate in rates[0]]


def test_all_runs_of_the_wandb_example_are_tracked():
    assert all(spec["wandb"] is True and spec["wandb_project_name"] for spec in
               grid_of("linear-classifier-example-wandb").specs)


def test_grammar_tour():
    grid = grid_of("grammar-tour")
    assert {(spec["batch_size"], spec["base_lr"]) for spec in grid.specs} == {(16, 0.02), (64, 0.04), (16, 1e-3),
                                                                            (64, 1e-3)}
    memory = {(spec["model"], spec.get("optim_alg")): spec.get("SBATCH", {}).get("mem") for spec in grid.specs}
    assert memory == {("linear", None): "2G", ("tiny/lenet", "sgd"): None, ("tiny/lenet", "adam"): "4G"}
    assert grid.notes == ["grammar-tour, EXCLUDE removes 2 of 24 grid points"]


@pytest.mark.parametrize("path", sorted((JOBS / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_sweep(path):
    sweep = read_job_spec(path)
    grid = expand_job_spec(sweep, check=check_parameters)
    assert sweep.name == path.stem
    assert not sweep.warnings
    header = re.match(r"(#.*\n)+", sweep.text)[0]
    assert f"python submit_multiple.py jobs/sweeps/{path.name}" in header
    assert f"{len(grid.specs)} runs" in header


@pytest.mark.parametrize("path", sorted((JOBS / "single").glob("*.yaml")), ids=lambda path: path.stem)
def test_single_spec(path):
    spec = read_spec(path)
    Config.from_dict(spec)
    assert f"python train.py jobs/single/{path.name}" in path.read_text(encoding="utf-8")
