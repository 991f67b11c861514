"""A train.py without torch: batch_size selects how a run ends, and seed_model how it ends in a stack."""
from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

sys.path.insert(0, os.environ["GRIDIRON_TEST_ROOT"])

from src.errors import ConfigError
from src.submission.job import attempt, stack
from src.submission.job.stack import StackMember
from src.submission.system import process
from src.submission.system.signals import signals


def train(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
    """Behave as the spec's batch_size selects, and append a line to `executed` at the end.

    13: crash, unless the batch has a file `mended`. 14: diverge. 15: sleep for a minute. 16: wait for USR1 and save,
    until the file `steps` has 3 lines. 17: wait for the other processes of this start. 18: wait for a file `go` in the
    batch, and check meanwhile whether the run was taken over.
    """
    print(f"training {spec['batch_size']} with {os.environ.get('GRIDIRON_THREADS')} threads")
    if spec["batch_size"] == 13 and not os.path.exists(os.path.join(os.path.dirname(folder or "."), "mended")):
        raise RuntimeError("unlucky\nnumber")
    if spec["batch_size"] == 15:
        for _ in range(600):
            time.sleep(0.1)
    if spec["batch_size"] == 16:
        steps = os.path.join(folder or ".", "steps")
        with open(steps, "a+") as file:
            file.write(f"{os.environ.get('SLURM_JOB_ID')}\n")
            file.seek(0)
            remaining = 3 - len(file.readlines())
        while remaining and not signals.time_is_short():
            time.sleep(0.05)
        if remaining:
            return "requeued"
    if spec["batch_size"] == 17:
        with open(os.path.join(folder or ".", "present"), "a+") as file:
            file.write("present\n")
            file.flush()
            while file.seek(0) or len(file.readlines()) < process.world_size():
                time.sleep(0.05)
    while spec["batch_size"] == 18 and not os.path.exists(os.path.join(os.path.dirname(folder or "."), "go")):
        time.sleep(0.1)
        check()
    check()
    with open(os.path.join(folder or ".", "executed"), "a") as file:
        file.write("once\n")
    return "diverged" if spec["batch_size"] == 14 else "completed"


def warm_up(specs: list[dict[str, Any]]) -> None:
    """Do nothing: there is nothing to import."""


def choose_stack(specs: Sequence[dict[str, Any]], largest: int | None) -> tuple[int, str]:
    """Choose all runs. With momentum 0.1 none, with 0.2 two at once; with 0.3 the process is killed."""
    momentum = specs[0].get("momentum")
    if momentum == 0.3:
        os.kill(os.getpid(), signal.SIGKILL)
    size = {0.1: 1, 0.2: 2}.get(momentum, len(specs))
    return min(size, largest or size), "single runs are faster" if size == 1 else ""


def train_stack(members: Sequence[StackMember]) -> Iterator[tuple[int, str | BaseException]]:
    """Train the members: those that have not waited for a file first. seed_model selects how a member ends.

    1: an error of its own. 2: it diverges. 3: it is never ended. 4: the whole stack fails. 5: it waits until a signal
    arrives, and saves; a later stack ends it. 6: the process is killed. 7: a UserError of its own.
    """
    with open(os.path.join(os.path.dirname(members[0].folder), "stacks"), "a") as file:
        file.write(" ".join(os.path.basename(member.folder).partition("_")[0] for member in members) + "\n")
    stops: list[bool] = []
    with signals.on_stop(lambda: stops.append(True)):
        for index, member in enumerate(members):
            seed, saved = member.spec.get("seed_model"), os.path.join(member.folder, "saved")
            try:
                member.check()
            except Exception as error:
                yield index, error
                continue
            while seed == 5 and not stops and not os.path.exists(saved):
                time.sleep(0.05)
            if stops:
                continue
            if seed == 4:
                raise RuntimeError("the stack fails")
            if seed == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            if seed == 1:
                yield index, RuntimeError("unlucky member")
            elif seed == 7:
                yield index, ConfigError("wrong", where="seed_model")
            elif seed != 3:
                print(f"member {os.path.basename(member.folder)}")
                _write(member.folder, "executed", "stacked")
                yield index, "diverged" if seed == 2 else "completed"
        if not stops:
            return
        for member in members:
            _write(member.folder, "saved", "")
        if signals.warned:
            for index, member in enumerate(members):
                if not os.path.exists(os.path.join(member.folder, "done")):
                    yield index, "requeued"
    signals.raise_if_stopped()


def _write(folder: str, name: str, line: str) -> None:
    with open(os.path.join(folder, name), "a") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(attempt.main(sys.argv[1:], train=train, warm_up=warm_up, run_stack=functools.partial(
        stack.run_stack, stack.Stacker(choose_stack, train_stack), train)))
