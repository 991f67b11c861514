"""srun: run a command once per task, all at once, on this machine and without the queue."""
from __future__ import annotations

import os

from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.commands import sbatch
from tests.fake_slurm.commands.options import parse_options
from tests.fake_slurm.errors import CommandExit

OPTIONS = sbatch.OPTIONS + " l:label u:unbuffered pty mpi= overlap exact"


def run(cluster: Cluster, arguments: list[str], call_number: int) -> str:
    options, command = parse_options("srun", OPTIONS, arguments, stop_at_positional=True)
    task_count = options.get("ntasks", os.environ.get("SLURM_NTASKS", "1"))
    pids = [os.posix_spawnp(command[0], command, {**os.environ, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank),
                                                  "SLURM_NTASKS": task_count, "SLURM_STEP_ID": "0"})
            for rank in range(int(task_count))]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    raise CommandExit("", max((128 - code if code < 0 else code) for code in codes))
