"""No file, whatever is in it, stops a reader: no crash, no traceback, at most 2 s and 200 MiB.

A minute of mutated real files, the same each time; an hour of other ones in `make chaos`. GRIDIRON_FUZZ_SEED repeats a
failure.
"""
from __future__ import annotations

import base64
import gzip
import io
import json
import os
import random
import shutil
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src import notes, run_folder
from src.archive import writer
from src.config import Config
from src.io import files, yaml_io
from src.search import definition
from src.search.space import Dimension, Space
from src.training.output import checkpoint, resume
from tests import fuzz_readers, fuzzing
from tests.analysis.make_batch import DIGITS, curves
from tests.conftest import ROOT
from tests.submission.conftest import Project, project

__all__ = ["project"]  # the fixture

CHAOS = os.environ.get("GRIDIRON_CHAOS") == "1"
SECONDS = 3600.0 if CHAOS else float(os.environ.get("GRIDIRON_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("GRIDIRON_FUZZ_SEED", "0")) or (random.randrange(1, 2**31) if CHAOS else 1)
JOB_SPEC = """\
job_details:
  name: tiny
  output_dir: results
  metric: {name: "val/(last|av)/accuracy", goal: maximize}
  tags: [a, b]
  samples: 2
  sbatch: {mem: 4G, time: 2:00:00}
parameters:
  batch_size: [8, 13, 14]
  base_lr: "[x / 10 for x in range(2)]"
  weight_decay: {LIST: [{momentum: 0.9}, {momentum: [0.1, 0.2]}]}
  model_kwargs: &kwargs {width: 3}
  seed_model: !int_uniform [0, 9]
"""
COMMAND = {"who.json": {"host": "node1", "boot_id": "b", "pid": 1, "time": 1.8e9}, "done.json": [1, 3, "runs", 0],
           "words.json": ["submit_multiple.py", "x.yaml"], "question": 1}
DECISION = {"number": 0, "kind": "new", "trial": 0, "rung": 0, "run": "000_a", "point": {"base_lr": 0.5},
            "parameters": {"base_lr": 0.1}, "sampler": "random", "seed": 1, "versions": {"optuna": "5"}, "time": 1.8e9,
            "who": {}, "results": [{"trial": 0, "rung": 0, "value": 0.5, "best": 0.5, "end": None}]}
SACCT = "12|COMPLETED|1764547200|0:0|60\n13_[0-2]|CANCELLED by 0|1764547200|0:15|UNLIMITED\n"
JOBSTATS = "JS1:" + base64.b64encode(gzip.compress(json.dumps({"nodes": {"n1": {
    "used_memory": 1 << 30, "total_time": 100.5, "gpu_utilization": {"0": 40.5}, "gpu_used_memory": {"0": 1 << 33}}},
    "total_time": 60, "gpus": 1}).encode(), mtime=0)).decode()
# files that are not part of a batch
OUTSIDE = {
    "gridiron.toml": 'trusted_modules = ["my_lab"]\n[cluster]\nssh = "login1"\nfolder = "work/gridiron"\n',
    "hosts.toml": '[cluster]\nsetup = ["source env"]\noptions = ["-J", "gate"]\npython = "python3"\n',
    "notify.txt": "slack://token/channel\nmailto://user:password@example.org\n",
    "sweep.yaml": "method: grid\nprogram: train.py\nmetric: {name: val/last/accuracy, goal: maximize}\nparameters:\n"
                  "  base_lr: {values: [0.1, 0.2]}\n  momentum: {value: 0.9}\n",
    "t.tasks.json": json.dumps({"kind": "worker", "batch": "/tmp/none", "tickets": {"000_a": 1, "001_b": 2}, "slots": 2,
                                "workers": 1, "gpus": ["0"], "command": ["sbatch"], "canaries": {"001_b": "000_c"},
                                "stacks": [[0, 1]], "stack_size": 2}),
    "t.0.slots.json": json.dumps({"kinds": ["a"], "cpus": 4, "gpu": "H100", "lanes": [
        {"gpu": "0", "slots": 4, "best": 4, "refused": 8, "is_settled": True, "memory": 1 << 30, "gpu_memory": None,
         "cpus": 0.9, "gpu_busy": 70.5, "samples_per_second": {"4": 100.5},
         "decisions": [{"time": 1.8e9, "slots": 4, "reason": "settled"}]}]}),
    "usage.json": json.dumps({"form": 1, "complete": True, "runs": {"000_a": {
        "kind": "k", "length": 2, "seconds": 60.5, "by_workers": False, "slurm_job": "12", "per_length": 30.0,
        "rest": 0.5, "memory": 1 << 30, "gpu_memory": None, "cpu": 1.5, "gpu": 40.5, "cpus": 4, "gpus": 1}}}),
    "gpu-idle.json": json.dumps({"busy": 4.5, "minutes": 20, "cause": "data loading", "ticket": 1, "number": 0}),
    "jobstats.txt": JOBSTATS,
    "squeue.txt": "12|RUNNING|1764547200|1764547260|None|gridiron t.0\n"
                  "13_[0-3,7%2]|PENDING|1764547200|N/A|Priority|x\n",
    "sacct.txt": SACCT, "scontrol.txt": "JobId=12 JobName=x Restarts=0 PreemptTime=None Comment=a b\n",
    "usage.txt": "12|COMPLETED|60|01:02:03|4|1024K|4096M|60|cpu=4,mem=4G,node=1,gres/gpu=1|"
                 f"cpu=00:01:00,gres/gpuutil=50|{JOBSTATS}\n"
                 "12.batch|COMPLETED|60|00:10.5|4|2048K|||||\n",
    "quota.txt": "/dev/sda 1000 2000 3000 0 10 20 30 0\n",
    "frames.txt": 'welcome\nmark\n{"out": "text"}\n{"done": [1, 3, "runs", 0]}\n{"ask": 1}\n{"exit": 0}\n',
    "token.json": '{"going": "261129-1"}\n',
    "status.json": '[{"batch": "results/26-11-29-tiny", "runs": [{"run": "000_a", "state": "done", "why": ""}]}]\n',
    "run/spec.yaml": "base_lr: 0.1\n", "run/artifacts/a.json": '{"x": [1, 2]}\n',
    "run/artifacts/a.csv": "x,y\n1,2\n3,a\n", "run/artifacts/a.txt": "text\n", "command/out": "text\n",
    "command/err": "",
    **{f"command/{name}": json.dumps(value) for name, value in COMMAND.items()},
    "search/search/decision-0000.json": json.dumps(DECISION),
    "search/search/finished.json": json.dumps({"trials": 4, "error": "no point is left", "time": 1.8e9})}
FACTS = {"host": "node1", "threads": 2, "epochs": 12, "input_shape": [1, 8, 8], "output_dim": 10, "commit": "0" * 40}


@pytest.fixture
def batch(project: Project) -> Path:
    """A batch that was submitted and run, with the files of a training added to its runs."""
    project.spec.write_text("job_details: {name: tiny, output_dir: re sults, metric: val/.*/accuracy}\n"
                            "parameters: {batch_size: [8, 13, 14], base_lr: 0.1}\n")
    assert project.submit(project.spec, "--local", "-y") == 1, "runs with batch_size 13 fail"
    folder = project.batch
    for index, run in enumerate(project.runs()):
        config = {**Config.from_dict({**DIGITS, "batch_size": 8}).to_dict(), "output_dir": str(run), "facts": FACTS}
        files.write_atomic(run / "config.yaml", yaml_io.dump_flat(config))
        files.write_atomic(run / "stats.csv", curves({"base_lr": 0.1}, 12, index))
        files.write_atomic(run / "steps.csv", "step,epoch,timestamp,loss\n5,1,1.5,0.25\n10,1,2.5,0.125\n")
        (run / "arrays").mkdir()
        np.savez_compressed(run / "arrays" / "epoch-00012.npz", **{"val/last/matrix": np.eye(3)})
    notes.add(str(folder), "a note", None)
    files.write_json(folder / "submissions" / "from-far.json", {
        "host": "far", "time": 1.8e9, "journals": ["t"], "states": {project.runs()[0].name: ["done", ""]}})
    (folder / run_folder.extension_name(0)).mkdir()
    files.write_json(folder / run_folder.extension_name(0) / run_folder.EXTENSION,
                     {"names": [run.name for run in project.runs()], "identity": {}})
    files.write_atomic(folder.parent / "x.yaml", JOB_SPEC)
    add_checkpoints(min(folder.glob("000_*")))
    record, = folder.glob("code/*/code.json")
    files.write_json(record, {**json.loads(record.read_text()), "snapshot": True})
    add_outside(folder.parent / fuzz_readers.OUTSIDE)
    return folder


def add_checkpoints(run: Path) -> None:
    """Add a saved model and a state to resume from to a run."""
    config = Config.from_dict({**DIGITS, "model": "linear"})
    model = torch.nn.Linear(64, 10)
    files.write_atomic(run / "config.yaml", yaml_io.dump_flat({
        **config.to_dict(), "output_dir": str(run), "facts": {**FACTS, "input_shape": [64]}}))
    checkpoint.save(str(run / "best_checkpoint.pt"), config, {"epoch": 2, "step": 10}, model, model,
                    {"weights": "av", "epoch": 2, "metric": "val/last/accuracy", "value": 0.5, "goal": "maximize"})
    resume.write(str(run / run_folder.resume_name(10)), {
        "config": Config.from_dict({**DIGITS, "model": "linear", "output_dir": str(run)}).to_dict(), "step": 10,
        "versions": resume.versions(), "meters": [{"loss": 1.0}],
        "generators": resume.generator_states(torch.device("cpu"))})


def add_outside(folder: Path) -> None:
    """Write files that are not part of a batch: settings, answers of other programs, data sets, artifacts."""
    def write(name: str, content: str | bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    rng, samples = np.random.default_rng(0), io.BytesIO()
    for name, text in OUTSIDE.items():
        write(name, text)
    (folder / "notify.txt").chmod(0o600)
    space = Space(dimensions=(Dimension("base_lr", "base_lr", "float", 0.1, 1.0),))
    definition.write(folder / "search", definition.Search(
        "random", 4, 2, 1, "val/last/accuracy", True, 9, space, "tiny", ("base_lr",),
        definition.EarlyStop("asha", (1, 3), 3.0)))
    archived = folder / "archived"
    write("archived/000_a/spec.yaml", "base_lr: 0.1\n" * 50)
    write("archived/000_a/done", "completed\n")
    (archived / "000_a" / "link").symlink_to("done")
    writer.publish_runs(str(archived), {"000_a": writer.list_entries(str(archived / "000_a"))})
    shutil.rmtree(archived / "000_a")
    np.save(samples, np.eye(3))
    write("run/artifacts/a.npy", samples.getvalue())
    np.savez_compressed(folder / "run/artifacts/a.npz", x=np.eye(3))
    rows = "".join(f"{row % 2} {row + 1}:0.5 9:{row}\n" for row in range(8))
    write("data/plain", rows)
    write("data/packed.gz", gzip.compress(rows.encode(), mtime=0))
    for name in ("a/1.png", "a/2.jpg", "b/3.png", "b/4.gif"):
        (folder / "data/images/train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / "data/images/train" / name)
    for name, kind, shape in (("images", 3, (4, 28, 28)), ("labels", 1, (4,))):
        head = struct.pack(f">{1 + len(shape)}i", 0x800 + len(shape), *shape)
        for part in ("train", "t10k"):
            write(f"data/MNIST/raw/{part}-{name}-idx{kind}-ubyte", head + bytes(rng.integers(
                0, 2 if kind == 1 else 255, shape, np.uint8).ravel().tolist()))


def test_mutated_files_stop_no_reader(batch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    counts, left, seed = Counter[str](), SECONDS, SEED
    while left > 0:
        seconds = min(left, 60.0)
        answer: dict[str, Any] = fuzzing.run_in_process(batch, seconds, seed)
        assert answer["failures"] == [], f"GRIDIRON_FUZZ_SEED={seed}\n" + "\n".join(answer["failures"])
        counts.update(answer["counts"])
        left, seed = left - seconds, seed + 1
    with capfd.disabled():
        print(f"\nfuzzing from seed {SEED}: {counts.total():,} files, each read by {answer['readers']} readers: "
              f"{json.dumps(dict(counts.most_common()))}")
    assert counts.total() > SECONDS / 10


def test_every_module_that_reads_files_has_a_reader_here(batch: Path) -> None:
    """A new module that reads files fails this test until it is added to fuzz_readers.MODULES."""
    source = ROOT / "src"
    reading = {path.relative_to(source).with_suffix("").as_posix() for path in source.rglob("*.py")
               if fuzz_readers.READS.search(path.read_text("utf-8"))}
    assert sorted(reading) == sorted(fuzz_readers.MODULES)
    names = {reader.name for reader in fuzz_readers.all_readers(batch)}
    listed = {name for readers in fuzz_readers.MODULES.values() if isinstance(readers, tuple) for name in readers}
    assert listed <= names
