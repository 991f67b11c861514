"""The results of `--slots auto`: a small file for each worker in its batch, and the first guess from earlier ones."""
from __future__ import annotations

import os
import statistics
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from src import run_folder
from src.io import files, records
from src.printable import printable
from src.submission.batch import batch_folder
from src.submission.batch.usage_history import RunUse, similar_runs
from src.submission.slots.policy import Guess

_MAX_LINES = 3  # of the decisions of a worker
_MAX_BATCHES = 20  # the newest ones, in which a guess is looked for
_LANE: records.Forms = {
    "gpu": records.optional(records.is_text), "slots": records.is_count, "best": records.is_count,
    "refused": records.optional(records.is_count), "is_settled": lambda value: isinstance(value, bool),
    "samples_per_second": records.mapping_of(records.is_text, records.is_number),
    "decisions": records.list_of(records.is_mapping),
    **dict.fromkeys(("memory", "gpu_memory", "cpus", "gpu_busy"), records.optional(records.is_number))}
_FORMS: records.Forms = {"kinds": records.list_of(records.is_text), "host": records.is_text,
                         "cpus": records.is_number, "gpu": records.optional(records.is_text),
                         "lanes": records.list_of(records.is_mapping)}
_DECISION: records.Forms = {"time": records.is_time, "slots": records.is_count, "reason": records.is_text}


class SlotsRecord:
    """The file of a worker. kinds: of its runs; cpus: for all of them; gpu: the model of the GPU, if there is one."""

    def __init__(self, batch: str, token: str, worker: str, kinds: Collection[str], cpus: float,
                 gpu: str | None) -> None:
        self._path = os.path.join(batch, run_folder.SUBMISSIONS, f"{token}.{worker}{run_folder.SLOTS_SUFFIX}")
        self._head = {"worker": worker, "host": os.uname().nodename, "kinds": sorted(kinds), "cpus": cpus, "gpu": gpu}

    def write(self, lanes: list[dict[str, Any]]) -> None:
        """Write the state of all lanes."""
        files.write_json(self._path, {**self._head, "time": time.time(), "lanes": lanes}, sync=False)


def read_all(batch: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the worker and the content of each file of results of a batch, the oldest first."""
    folder = os.path.join(batch, run_folder.SUBMISSIONS)
    for name in sorted(name for name in files.list_folder(folder) if name.endswith(run_folder.SLOTS_SUFFIX)):
        if content := read(os.path.join(folder, name)):
            yield name.removesuffix(run_folder.SLOTS_SUFFIX).partition(".")[2], content


def read(path: str) -> dict[str, Any]:
    """Return the content of a file of results, without invalid fields; empty if it cannot be used."""
    content = records.fields(files.read_json(path), _FORMS)
    if not content.keys() >= {"kinds", "cpus", "lanes"}:
        return {}
    lanes = [records.fields(lane, _LANE) for lane in content["lanes"]]
    return {**content, "lanes": [lane for lane in lanes if lane.keys() >= {"slots", "best", "is_settled"}]}


def first_guess(batch: str, kinds: Collection[str], cpus: float, gpu: str | None, memory: float) -> Guess | None:
    """Return the newest result of workers with as many CPUs and the same GPU for runs of these kinds, of a batch in the
    same folder; else an estimate from the resources that earlier runs used; None without either.
    """
    for path in reversed(batch_folder.all_batches(os.path.dirname(batch))[-_MAX_BATCHES:]):
        for _, content in reversed(list(read_all(path))):
            lanes = [lane for lane in content["lanes"] if lane["is_settled"]]
            is_alike = set(content["kinds"]).issuperset(kinds) and (content["cpus"], content.get("gpu")) == (cpus, gpu)
            if lanes and is_alike:
                return Guess(lanes[0]["best"], lanes[0].get("refused"), os.path.basename(path))
    uses = [use for runs in similar_runs(kinds, os.path.dirname(batch)).values() for use in runs]
    return _estimate(uses, cpus, memory) if uses else None


def _estimate(uses: Collection[RunUse], cpus: float, memory: float) -> Guess | None:
    """Return half of the runs that would fill the CPUs, the GPU or the memory, so that both sides of it are tried."""
    limits = [total / statistics.median(used) for total, used in (
        (cpus, [use.cpu for use in uses if use.cpu]), (100.0, [use.gpu for use in uses if use.gpu]),
        (memory, [use.memory for use in uses if use.memory])) if used]
    slots = int(min(limits, default=0)) // 2
    return Guess(slots, source=f"an estimate from {len(uses)} earlier runs") if slots > 1 else None


def lines(batch: str) -> list[str]:
    """Return lines for `status --efficiency`: what each worker found, and its last decisions with their reasons."""
    return [line for worker, content in read_all(batch) for line in lines_of(worker, content)]


def lines_of(worker: str, content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of one worker, from what its file contains."""
    for lane in content.get("lanes", ()):
        where = f"worker {worker}" + (f", GPU {lane['gpu']}" if lane.get("gpu") else "")
        yield from map(printable, (f"slots, {where}: {_describe(lane)}", *_decision_lines(lane)))


def _decision_lines(lane: Mapping[str, Any]) -> Iterator[str]:
    for decision in lane.get("decisions", [])[-_MAX_LINES:]:
        decision = records.fields(decision, _DECISION)
        if decision.keys() >= _DECISION.keys():
            when = time.strftime("%H:%M:%S", time.localtime(decision["time"]))
            yield f"  {when}  {decision['slots']} at a time: {decision['reason']}"


def _describe(lane: Mapping[str, Any]) -> str:
    """Return `4 at a time (settled), each run used 1.2 GB, 0.9 CPUs, GPU 81 % busy, 812 samples a second with 4`."""
    use = [f"{lane['memory'] / 2**30:.2g} GB" if lane.get("memory") else "",
           f"{lane['gpu_memory'] / 2**30:.2g} GB of the GPU" if lane.get("gpu_memory") else "",
           f"{lane['cpus']:.2g} CPUs" if lane.get("cpus") else ""]
    rate = lane.get("samples_per_second", {}).get(str(lane["best"]))
    parts = [f"{lane['slots']} at a time ({'settled' if lane['is_settled'] else 'still searching'})",
             f"each run used {', '.join(filter(None, use))}" if any(use) else "",
             f"GPU {lane['gpu_busy']:.0f} % busy" if lane.get("gpu_busy") is not None else "",
             f"{rate:.4g} samples a second with {lane['best']}" if rate else ""]
    return ", ".join(filter(None, parts))
