"""Entry point of all commands: record the call, apply the faults that a test injected, run the command."""
from __future__ import annotations

import os
import sys
import time

from tests.fake_slurm import errors, faults
from tests.fake_slurm.cluster import Cluster
from tests.fake_slurm.errors import CommandExit

NAMES = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "sacctmgr", "srun")
CALL_KINDS = (*NAMES, errors.TEST_ONLY)


def main(argv: list[str]) -> None:
    """Answer one call and end the process. argv: the path of the command's link, and its arguments."""
    command, arguments = os.path.basename(argv[0]), argv[1:]
    folder = os.environ.get("FAKE_SLURM", "")
    if not os.path.isfile(f"{folder}/settings"):
        print(f"fake {command}: $FAKE_SLURM ({folder or 'not set'}) is not the folder of a fake cluster; see "
              "docs/testing.md", file=sys.stderr)
        sys.exit(errors.UNSUPPORTED)
    cluster = Cluster(folder)
    kind = errors.TEST_ONLY if command == "sbatch" and "--test-only" in arguments else command
    number = record_call(cluster, kind, [command, *arguments])
    effects = faults.effects_on(cluster, kind, number)
    time.sleep(float(effects.get("Delay", 0)))
    stdout, stderr, code = execute(cluster, kind, arguments, number, is_accepted=effects.get("Accept") != "0")
    stdout, code = effects.get("Stdout", stdout), int(effects.get("Code", code))
    if "Stderr" in effects:
        stderr += effects["Stderr"] + "\n"
    time.sleep(float(effects.get("Hang", 0)))
    if "Kill" in effects:
        os.kill(os.getpid(), 9)
    write_all(1, stdout)
    write_all(2, stderr)
    os._exit(code)  # shutting the interpreter down would take longer than the call


def record_call(cluster: Cluster, kind: str, argv: list[str]) -> int:
    """Store the call for `FakeSlurm.calls`. Returns its number among the calls of its kind."""
    return cluster.add_record(f"calls/{kind}", {
        "Time": str(time.time()), "Cwd": os.getcwd(), "Argv": "\0".join(argv),
        "Environ": "\0".join(f"{key}={value}" for key, value in os.environ.items())})


def execute(cluster: Cluster, kind: str, arguments: list[str], number: int, is_accepted: bool) -> tuple[str, str, int]:
    """Run the command, unless a fault prevents it. Returns stdout, stderr and exit code."""
    command = kind.partition(" ")[0]
    try:
        if command == "sbatch" and faults.exceeds_rate_limit(cluster):
            raise CommandExit(errors.MESSAGES["temporarily_unable"])
        if not is_accepted:
            return "", "", 0
        # not importlib, which would have to be imported first
        module = __import__(f"tests.fake_slurm.commands.{command}", fromlist=["run"])
        return module.run(cluster, arguments, number), "", 0
    except CommandExit as end:
        message = errors.adapt_message(kind, end.message)
        return "", message + "\n" * bool(message), end.code


def write_all(descriptor: int, text: str) -> None:
    """Write text to a file descriptor, in as many pieces as it takes."""
    data = text.encode("utf-8", "surrogateescape")
    while data:
        data = data[os.write(descriptor, data):]
