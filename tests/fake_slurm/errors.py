"""Slurm's error messages, word for word, and the exception that ends a command."""
from __future__ import annotations

UNSUPPORTED = 97  # exit code for calls that fake Slurm cannot answer
TEST_ONLY = "sbatch --test-only"  # counted, and given faults, separately from calls that submit
_FAILED = "sbatch: error: Batch job submission failed: "
_MEMORY = "sbatch: error: Memory specification can not be satisfied\n"
_POLICY = _FAILED + "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"

# sbatch's messages by a name for the error; sbatch exits with 1
MESSAGES = {
    "socket_timed_out": _FAILED + "Socket timed out on send/recv operation",
    "unable_to_contact": _FAILED + "Unable to contact slurm controller (connect failure)",
    "zero_bytes": _FAILED + "Zero Bytes were transmitted or received",
    "queue_full": "sbatch: error: Slurm job queue full, sleeping and retrying\n" + _FAILED + (
        "Unable to create job record, try again"),
    "temporarily_unable": "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n" + _FAILED + (
        "Resource temporarily unavailable"),
    "assoc_limit": "sbatch: error: AssocMaxSubmitJobLimit\n" + _POLICY,
    "qos_limit": "sbatch: error: QOSMaxSubmitJobPerUserLimit\n" + _POLICY,
    "policy": _POLICY,
    "invalid_partition": "sbatch: error: invalid partition specified: nope\n" + _FAILED + (
        "Invalid partition name specified"),
    "invalid_feature": _FAILED + "Invalid feature specification",
    "invalid_gres": "sbatch: error: Invalid generic resource (gres) specification",
    "node_config": _FAILED + "Requested node configuration is not available",
    "memory": _MEMORY + _FAILED + "Requested node configuration is not available",
    "invalid_account": _FAILED + "Invalid account or account/partition combination specified",
    "invalid_qos": _FAILED + "Invalid qos specification",
    "array_spec": _FAILED + "Invalid job array specification",
    "dependency": _FAILED + "Job dependency problem",
    "dos_line_breaks": "sbatch: error: Batch script contains DOS line breaks (\\r\\n)\n"
                       "sbatch: error: instead of expected UNIX line breaks (\\n).",
    "no_shebang": "sbatch: error: This does not look like a batch script.  The first\n"
                  "sbatch: error: line must start with #! followed by the path to an interpreter.\n"
                  "sbatch: error: For instance: #!/bin/sh",
    "empty_script": "sbatch: error: Batch script is empty!",
}
SACCT_MESSAGES = {
    "accounting_away": "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to "
                       "host:127.0.0.1:6819: Connection refused\n"
                       "sacct: error: Sending PersistInit msg: Connection refused\n"
                       "sacct: error: Problem talking to the database: Connection refused",
    "accounting_disabled": "Slurm accounting storage is disabled",
}
# what other commands print in place of _FAILED
_PREFIXES = {TEST_ONLY: "allocation failure: ", "squeue": "slurm_load_jobs error: ", "sinfo": "slurm_load_partitions: ",
             "scancel": "scancel: error: Kill job error on job id 1: ", "scontrol": "slurm_load_jobs error: ",
             "sacctmgr": "sacctmgr: error: ", "srun": "srun: error: Unable to allocate resources: "}


class CommandExit(Exception):
    """Ends the command with a message on stderr, which may be empty, and an exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.message, self.code = message, code


def unsupported(feature: str) -> CommandExit:
    """Return the error for what real Slurm may support and fake Slurm does not: better no answer than a wrong one."""
    return CommandExit(f"fake Slurm does not support {feature}; add it in tests/fake_slurm/commands", UNSUPPORTED)


def message_of(error: str, command: str = "sbatch") -> str:
    """Return what a command prints for an error: a key of MESSAGES or SACCT_MESSAGES."""
    return SACCT_MESSAGES.get(error) or adapt_message(command, MESSAGES[error])


def adapt_message(command: str, message: str) -> str:
    """Turn sbatch's message into that of another command."""
    if command == "sbatch":
        return message
    if command == TEST_ONLY:
        message = message.removeprefix(_MEMORY)
    return message.replace(_FAILED, _PREFIXES.get(command, f"{command}: error: "))
