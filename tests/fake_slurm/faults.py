"""Faults that tests inject into calls of the commands, and the rate limit of sbatch."""
from __future__ import annotations

import os
import time

from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.records import read_record


def inject(cluster: Cluster, command: str, nth: list[int], **effects: str) -> None:
    """Apply effects to the nth calls of a command from now on, counted from 1; to all calls if `nth` is empty.

    Effects: Accept ("0": the command does not do its work), Stdout and Stderr (printed instead of, and after, its own
    output), Code (its exit code), Delay and Hang (seconds to sleep before and after its work), Kill (the process dies).
    """
    calls = cluster.numbers(f"calls/{command}")
    cluster.add_record("rules", {"Command": command, "Nth": ",".join(map(str, nth)),
                                 "Base": str(calls[-1] if calls else 0), **effects})


def effects_on(cluster: Cluster, command: str, call_number: int) -> dict[str, str]:
    """Return the effects on a call; later rules override earlier ones."""
    effects: dict[str, str] = {}
    for number in cluster.numbers("rules"):
        rule = read_record(f"{cluster.folder}/rules/{number}")
        count = call_number - int(rule["Base"])
        if rule["Command"] == command and count > 0 and (not rule["Nth"] or str(count) in rule["Nth"].split(",")):
            effects.update(rule)
    return effects


def exceeds_rate_limit(cluster: Cluster) -> bool:
    """Count a call of sbatch. Whether this second has had as many calls as the setting Rate allows."""
    rate, second = cluster.settings["Rate"], int(time.time())
    for slot in range(int(rate or 0)):
        try:
            os.close(os.open(f"{cluster.folder}/rate/{second}-{slot}", os.O_CREAT | os.O_EXCL))
            return False
        except FileExistsError:
            continue
    return bool(rate)
