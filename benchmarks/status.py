"""A status, and the plan of a retry, of 10,000 runs against one stat of each folder plus one squeue plus one sacct."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from src import run_folder, yaml_io
from src.submission import batch, failures, journal, states, status
from src.submission.observe import observe
from src.submission.plan import plan_next

HEADER = "epoch,step,timestamp,train/loss,train/accuracy,val/last/loss,val/last/accuracy\n"
FAKE = """#!/bin/sh
exec cat "{folder}/$(basename "$0").rows"
"""  # a Slurm command that prints a file


def measure(size: int = 10_000) -> list[tuple[str, float, float | None]]:
    """(what, figure, the most it may be): both ratios, and the memory of the process that did it."""
    command = [sys.executable, "-m", "benchmarks.status", str(size)]
    seconds = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    bare = seconds["stat"] + seconds["squeue"] + seconds["sacct"]
    shown = ", ".join(f"{what} {1e3 * seconds[what]:.0f} ms" for what in ("stat", "squeue", "sacct"))
    return [(f"status of {size:,} runs, {1e3 * seconds['status']:.0f} ms / bare ({shown})", seconds["status"] / bare,
             10.0),
            (f"plan of a retry of {size:,} runs, {1e3 * seconds['retry']:.0f} ms / bare", seconds["retry"] / bare,
             10.0),
            ("MiB of memory", seconds["memory"], 200.0)]


def make(root: Path, size: int) -> Path:
    """A batch of `size` runs, an eighth each done, failed and running, the rest pending; and what squeue and sacct say.
    """
    path = root / "26-01-02-benchmark"
    names = [f"{index:05d}_benchmark+bat_siz={index}" for index in range(size)]
    texts = [yaml_io.dump_flat({"batch_size": index + 1, "dataset": "sklearn/digits", "base_lr": 0.1})
             for index in range(size)]
    batch.write(str(path), "job_details: {name: benchmark}\n", names, texts)
    book = journal.Journal(str(path), "260102-000000-aaaaaa")
    now = time.time() - 10_000
    records = [{"kind": "plan", "time": now, "mode": journal.SLURM, "who": {}, "way": journal.ONE_EACH, "bounds": [],
                "script": "/x/submit_cpu.sh", "identity": {}, "tickets": dict.fromkeys(names, 1)}]
    for unit in range(size):
        records += [{"kind": "sending", "unit": unit, "time": now},
                    {"kind": "job", "unit": unit, "slurm_job": str(100_000 + unit), "time": now}]
    Path(book.path).write_text("".join(json.dumps(record) + "\n" for record in records))
    config = yaml_io.dump_flat({**{f"key_{index}": index for index in range(40)}, "facts": {"epochs": 20}})
    stats = HEADER + "".join(f"{epoch},{epoch * 100},1e9,0.5,0.5,0.5,0.{epoch:02d}\n" for epoch in range(20))
    queue, accounting = [], []
    for index, name in enumerate(names):
        job, kind = str(100_000 + index), min(index % 8, 3)
        row = {3: "PENDING|{}|Priority", 2: "RUNNING|{}|None"}.get(kind)
        queue.append(f"{job if row else 500_000 + index}|{(row or 'PENDING|{}|Priority').format(int(now))}|"
                     f"gridiron-260102-000000-{'aaaaaa' if row else 'bbbbbb'}-{index}")
        accounting.append(f"{job}|{('COMPLETED', 'FAILED', 'RUNNING', 'PENDING')[kind]}|{int(now)}|0:0")
        if kind == 3:
            continue
        who = {"host": "node1", "boot_id": "b", "pid": index, "pid_start": 1, "slurm_job": job, "time": now}
        how, error = ("completed", None) if kind == 0 else ("failed", f"ValueError: no {index}") if kind == 1 else (
            None, None)
        record = {"ticket": 1, "number": 0, "who": who, "start": now, "host": f"node{index % 7}", "slurm_job": job,
                  "end": how and now, "how": how, "error": error}
        for file, text in (("claim-1", json.dumps(who)), ("attempt-1-0.json", json.dumps(record)),
                           (run_folder.CONFIG, config), (run_folder.STATS, stats), (run_folder.LOG, "epoch 1\n")):
            (path / name / file).write_text(text)
        if kind == 0:
            (path / name / run_folder.DONE).write_text("completed\n")
    commands = root / "bin"
    commands.mkdir()
    for command, rows in (("squeue", queue), ("sacct", accounting)):
        (commands / f"{command}.rows").write_text("\n".join(rows) + "\n")
        (commands / command).write_text(FAKE.format(folder=commands))
        (commands / command).chmod(0o755)
    os.environ["PATH"] = f"{commands}:{os.environ['PATH']}"
    return path


def seconds(path: Path) -> dict[str, float]:
    """Seconds for each part, once."""
    took = {}
    folders = [os.path.join(path, name) for name in run_folder.run_names(path)]

    def lap(what: str, start: float) -> float:
        took[what] = (now := time.perf_counter()) - start
        return now

    start = time.perf_counter()
    for folder in folders:
        os.stat(folder)
    start = lap("stat", start)
    for command in ("squeue", "sacct"):
        subprocess.run([command], check=True, capture_output=True)
        start = lap(command, start)
    status.render(observe([str(path)]))
    start = lap("status", start)
    observation, = observe([str(path)])
    plan_next(observation.runs, states.RETRIED)
    failures.group(observation.runs.values())
    failures.nodes_to_avoid(observation.runs.values())
    lap("retry", start)
    return took


def main(size: int) -> None:
    """Print the best of three as JSON, and the most memory that this process had, in MiB."""
    root = Path(tempfile.mkdtemp())  # on a disk, where results are
    try:
        path = make(root, size)
        rounds = [seconds(path) for _ in range(3)]
    finally:
        shutil.rmtree(root)
    with open("/proc/self/status", encoding="ascii") as file:
        memory = next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:"))
    print(json.dumps({**{what: min(took[what] for took in rounds) for what in rounds[0]}, "memory": memory}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
