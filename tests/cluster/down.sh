#!/usr/bin/env bash
# Stop the cluster that up.sh started in FOLDER, kill its jobs, and remove the folder. Nothing else is touched.
#
#   tests/cluster/down.sh [FOLDER]
#
# Processes are known by their environment, not by pid files, which go stale: so it works on a cluster of which parts
# were killed, stopped (SIGSTOP) or orphaned, and a reused pid is safe. Its state is thrown away: nothing is asked politely.
set -euo pipefail

folder=$(realpath -m "${1:-${TMPDIR:-/tmp}/gridiron-slurm}")

# having NAME=VALUE: pids of the processes that were started with it, one per line
having() {
    grep --null-data --line-regexp --fixed-strings --files-with-matches --no-messages "$1" /proc/[0-9]*/environ |
        cut -d/ -f3 || true
}

# The daemons; the keepers of jobs that slurmd started; the processes of jobs. A shell that uses the cluster is none.
cluster_processes() {
    having "GRIDIRON_CLUSTER_DAEMON=$folder"
    for pid in $(having "SLURM_CONF=$folder/slurm.conf"); do
        if grep --quiet '^slurmstepd' "/proc/$pid/comm" 2>/dev/null ||
            grep --quiet --null-data '^SLURM_JOB_ID=' "/proc/$pid/environ" 2>/dev/null; then
            echo "$pid"
        fi
    done
}

for _ in {1..50}; do
    mapfile -t pids < <(cluster_processes)
    if ((${#pids[@]} == 0)); then break; fi
    kill -KILL "${pids[@]}" 2>/dev/null || true # one may have ended by itself
    sleep 0.1
done
if ((${#pids[@]} > 0)); then
    echo "error: processes that do not end: ${pids[*]}" >&2
    exit 1
fi

# only what up.sh made, should the path be another folder
if [[ -f $folder/slurmdbd.conf ]]; then rm -rf -- "$folder"; fi
