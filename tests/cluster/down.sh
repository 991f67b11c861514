#!/usr/bin/env bash
# Stop the cluster that up.sh started in FOLDER, kill its jobs, and remove the folder. Nothing else is touched.
#
#   tests/cluster/down.sh [FOLDER]
#
# Processes are identified by their environment instead of by pid files, which may be stale. So it also works if parts of
# the cluster were killed, stopped (SIGSTOP) or orphaned, and a reused pid does no harm. All processes are sent KILL: the
# state of the cluster is discarded anyway.
set -euo pipefail

folder=$(realpath -m "${1:-${TMPDIR:-/tmp}/gridiron-slurm}")

# pids_with NAME=VALUE: print the pids of the processes that have it in their environment, one per line
pids_with() {
    grep --null-data --line-regexp --fixed-strings --files-with-matches --no-messages "$1" /proc/[0-9]*/environ |
        cut -d/ -f3 || true
}

# Print the pids of the daemons, of slurmstepd, and of the processes of jobs; not those of shells that use the cluster.
cluster_processes() {
    pids_with "GRIDIRON_CLUSTER_DAEMON=$folder"
    for pid in $(pids_with "SLURM_CONF=$folder/slurm.conf"); do
        if grep --quiet '^slurmstepd' "/proc/$pid/comm" 2>/dev/null ||
            grep --quiet --null-data '^SLURM_JOB_ID=' "/proc/$pid/environ" 2>/dev/null; then
            echo "$pid"
        fi
    done
}

for _ in {1..50}; do
    mapfile -t pids < <(cluster_processes)
    if ((${#pids[@]} == 0)); then break; fi
    kill -KILL "${pids[@]}" 2>/dev/null || true # some may have ended by themselves
    sleep 0.1
done
if ((${#pids[@]} > 0)); then
    echo "error: processes do not end: ${pids[*]}" >&2
    exit 1
fi

# remove only a folder that up.sh has created
if [[ -f $folder/slurmdbd.conf ]]; then rm -rf -- "$folder"; fi
