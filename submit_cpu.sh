#!/usr/bin/env bash
# One run without a GPU: linear models, small networks.
#   python submit_multiple.py jobs/digits-quickstart.yaml -s submit_cpu.sh
# Options given to submit_multiple.py or in a job spec (sbatch, SBATCH) win over the lines below.

# one process on one node
#SBATCH --nodes=1
#SBATCH --ntasks=1
# jobs here use idle nodes and are preempted when the owners need them
#SBATCH --partition=cpu-killable
# training runs on all of them
#SBATCH --cpus-per-task=2
# memory of the whole job, not per CPU
#SBATCH --mem=8G
# days-hours:minutes:seconds; a job that asks for less often starts sooner
#SBATCH --time=2-00:00:00
# put back into the queue when it is preempted or its node fails; its output then goes on in the same file
#SBATCH --requeue
#SBATCH --open-mode=append
# three minutes (up to four) before the time is over: USR1, so that a run knows that its time limit ended it
#SBATCH --signal=B:USR1@180

set -euo pipefail
# sbatch runs a copy of this script elsewhere, in the folder that --chdir names or it was called from: the project's
source ./activate.sh
# exec: a shell that stays alive keeps the signals to itself
exec python train.py "$@"
