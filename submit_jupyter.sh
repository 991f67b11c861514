#!/usr/bin/env bash
# JupyterLab on a compute node, listening only on its loopback interface, with a token.
#   sbatch submit_jupyter.sh
# Its output, jupyter-{job}.out, shows the command for your own machine, and the file with the address, which contains
# the token and is readable only by you. Further arguments are passed to JupyterLab.

# one process on one node
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --job-name=jupyter
# use a partition without preemption, if there is one
#SBATCH --partition=cpu-killable
#SBATCH --cpus-per-task=2
# memory per node, for all kernels together
#SBATCH --mem=8G
# days-hours:minutes:seconds; shorter jobs often start sooner
#SBATCH --time=08:00:00
# a second start would use another node, port and token
#SBATCH --no-requeue
#SBATCH --output=jupyter-%j.out

set -euo pipefail
# sbatch runs a copy of this script; the working directory is the project's folder
source ./activate.sh
# exec: a shell that stays alive does not pass signals on
exec python -m src.analysis.lab "$@"
