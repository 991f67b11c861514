"""Slurm's words for the state of a job, as squeue, sacct and scontrol print them: the only module that lists them.

`states.py` maps them to the states of runs. A word that is in no list, of a newer Slurm, counts as running there.
"""
from __future__ import annotations

COMPLETED = "COMPLETED"
# in the queue until a user or an administrator releases it
HELD = frozenset(("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"))
PENDING = HELD | {"PENDING", "REQUEUED", "REQUEUE_FED"}
RUNNING = frozenset(("RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT",
                     "RESIZING"))
ENDED = ("BOOT_FAIL", "CANCELLED", COMPLETED, "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
         "REVOKED", "TIMEOUT")
# those that sacct selects by; with them it also lists jobs that were cancelled while they waited for a dependency
ACCOUNTED = ("PENDING", "RUNNING", "SUSPENDED", *ENDED)
