#!/usr/bin/env bash
# JupyterLab on a compute node, for notebooks/view_results.ipynb:
#   sbatch submit_jupyter.sh
# Once it runs, jupyter-JOBID.out has the tunnel to open and says where the address is. scancel JOBID ends it.
# It listens on the node's loopback alone, never on its network, and wants a token that only you can read.

#SBATCH --job-name=jupyter
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --partition=cpu-killable
#SBATCH --cpus-per-task=2
# of the whole job
#SBATCH --mem=8G
#SBATCH --time=8:00:00
#SBATCH --no-requeue
#SBATCH --output=jupyter-%j.out

set -euo pipefail
source ./activate.sh
umask 077 # the address is for nobody else

port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# in the environment: the words of a command can be seen by everybody on the node
JUPYTER_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(24))')
export JUPYTER_TOKEN
address=$PWD/jupyter-${SLURM_JOB_ID:-here}.url
echo "http://localhost:8899/lab/tree/notebooks/view_results.ipynb?token=$JUPYTER_TOKEN" >"$address"

me=$(id -un)
login=${SLURM_SUBMIT_HOST:-$(hostname)}
echo "On your own machine:  ssh -N -J $me@$login -L 8899:127.0.0.1:$port $me@$(hostname)"
echo "In its browser:       the address in $address"

exec jupyter lab --no-browser --ip=127.0.0.1 --port="$port" --ServerApp.port_retries=0 "$@"
