"""A status, and the plan of a retry, of 10,000 runs, compared with one stat per folder, one squeue and one sacct."""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.cluster import is_possible, one_machine_slurm
from src import run_folder
from src.io import yaml_io
from src.submission.batch import batch_folder, journal
from src.submission.planning.tickets import next_tickets
from src.submission.slurm import client
from src.submission.status import failures, retry_policy, status
from src.submission.status.observe import observe

HEADER = "epoch,step,timestamp,train/loss,train/accuracy,val/last/loss,val/last/accuracy\n"
ARRAY = 1000  # tasks in each held job array


def measure(size: int = 10_000) -> list[tuple[str, float, float | None]]:
    """Return (label, value, limit): two ratios, and the memory of the measuring process."""
    if not is_possible():
        return [("not measured: a one-machine Slurm needs root and Debian's packages", float("nan"), None)]
    command = [sys.executable, "-m", "benchmarks.status", str(size)]
    seconds = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    bare = seconds["stat"] + seconds["squeue"] + seconds["sacct"]
    parts = ", ".join(f"{part} {1e3 * seconds[part]:.0f} ms" for part in ("stat", "squeue", "sacct"))
    return [(f"status of {size:,} runs, {1e3 * seconds['status']:.0f} ms / bare calls ({parts})",
             seconds["status"] / bare, 10.0),
            (f"plan of a retry of {size:,} runs, {1e3 * seconds['retry']:.0f} ms / bare calls",
             seconds["retry"] / bare, 10.0),
            ("peak memory, in MiB", seconds["memory"], 200.0)]


def make(root: Path, size: int) -> Path:
    """Make a batch of `size` runs: an eighth each done, failed and started, the others pending in a real queue."""
    path = root / "26-01-02-benchmark"
    names = [f"{index:05d}_benchmark+bat_siz={index}" for index in range(size)]
    texts = [yaml_io.dump_flat({"batch_size": index + 1, "dataset": "sklearn/digits", "base_lr": 0.1,
                                "data_splits_map": {"train": "train[:80%]", "val": "train[80%:]"}})
             for index in range(size)]
    batch_folder.create(str(path), "job_details: {name: benchmark}\n", names, texts)
    jobs = hold(size)
    now = time.time() - 1000
    records = [{"kind": "plan", "time": now, "mode": journal.SLURM, "who": {}, "way": journal.ONE_EACH, "bounds": [],
                "script": "/x/submit_cpu.sh", "identity": {}, "tickets": dict.fromkeys(names, 1)}]
    for unit, job in enumerate(jobs):
        records += [{"kind": "sending", "unit": unit, "time": now},
                    {"kind": "job", "unit": unit, "slurm_job": job, "time": now}]
    (path / run_folder.SUBMISSIONS / "260102-000000-aaaaaa.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in records))
    config = yaml_io.dump_flat({**{f"key_{index}": index for index in range(40)}, "facts": {"epochs": 20}})
    stats = HEADER + "".join(f"{epoch},{epoch * 100},1e9,0.5,0.5,0.5,0.{epoch:02d}\n" for epoch in range(20))
    for index, (name, job) in enumerate(zip(names, jobs, strict=True)):
        kind = index % 8
        if kind > 2:
            continue
        process = {"host": "node1", "boot_id": "b", "pid": index, "pid_start": 1, "slurm_job": job, "time": now}
        how, error = ("completed", None) if kind == 0 else ("failed", f"ValueError: no {index}") if kind == 1 else (
            None, None)
        record = {"ticket": 1, "number": 0, "who": process, "start": now, "host": f"node{index % 7}", "slurm_job": job,
                  "end": how and now, "how": how, "error": error}
        for file, text in (("claim-1", json.dumps(process)), ("attempt-1-0.json", json.dumps(record)),
                           (run_folder.CONFIG, config), (run_folder.STATS, stats), (run_folder.LOG, "epoch 1\n")):
            (path / name / file).write_text(text)
        if kind == 0:
            (path / name / run_folder.DONE).write_text("completed\n")
    return path


def hold(size: int) -> list[str]:
    """Put `size` tasks into the queue, held. Their ids, but for every eighth one that is no Slurm job any more."""
    jobs: list[str] = []
    for start in range(0, size, ARRAY):
        count = min(ARRAY, size - start)
        job = subprocess.run(["sbatch", "--parsable", "--hold", f"--array=0-{count - 1}", "--output=/dev/null",
                              "--wrap=true"], check=True, capture_output=True, text=True).stdout.strip()
        jobs += [f"{job}_{task}" for task in range(count)]
    return [f"9{index:07d}" if index % 8 == 1 else job for index, job in enumerate(jobs)]


def seconds(path: Path) -> dict[str, float]:
    """Return the seconds of each part, measured once."""
    took = {}
    folders = [os.path.join(path, name) for name in run_folder.run_names(path)]

    def lap(what: str, start: float) -> float:
        took[what] = (now := time.perf_counter()) - start
        return now

    start = time.perf_counter()
    for folder in folders:
        os.stat(folder)
    start = lap("stat", start)
    with calls() as commands:
        status.render(observe([str(path)]))
        start = lap("status", start)
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
        start = lap(command[0], start)
    observation, = observe([str(path)])
    next_tickets(observation.runs, retry_policy.RETRIED)
    failures.group_failures(observation.runs.values())
    failures.nodes_to_avoid(observation.runs.values())
    lap("retry", start)
    return took


@contextlib.contextmanager
def calls() -> Iterator[list[list[str]]]:
    """Record the Slurm commands that are called within the block."""
    made: list[list[str]] = []
    call = client._call

    def record(command: list[str], *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        made.append(command)
        return call(command, *arguments, **options)

    client._call = record
    try:
        yield made
    finally:
        client._call = call


def main(size: int) -> None:
    """Print the best of three as JSON, and the peak memory of this process in MiB."""
    root = Path(tempfile.mkdtemp())  # on a disk, like results
    try:
        with one_machine_slurm():
            path = make(root, size)
            rounds = [seconds(path) for _ in range(3)]
    finally:
        shutil.rmtree(root)
    with open("/proc/self/status", encoding="ascii") as file:
        memory = next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:"))
    print(json.dumps({**{what: min(took[what] for took in rounds) for what in rounds[0]}, "memory": memory}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
