#!/usr/bin/env bash
# JupyterLab on a compute node, on its loopback alone and behind a token.
#   sbatch submit_jupyter.sh
# Its output, jupyter-{job}.out, says what to type on your own machine. Further words go to JupyterLab.

# one process on one node
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --job-name=jupyter
# a partition whose jobs are not preempted, if there is one
#SBATCH --partition=cpu-killable
#SBATCH --cpus-per-task=2
# memory of the whole job, not per CPU: of all kernels together
#SBATCH --mem=8G
# days-hours:minutes:seconds; a job that asks for less often starts sooner
#SBATCH --time=08:00:00
# a second start would have another node, port and token
#SBATCH --no-requeue
# only you can read it
#SBATCH --output=jupyter-%j.out

set -euo pipefail
# sbatch runs a copy of this script elsewhere, in the folder that --chdir names or it was called from: the project's
source ./activate.sh
# exec: a shell that stays alive keeps the signals to itself
exec python -m src.analysis.lab "$@"
