#!/usr/bin/env bash
# A run without a GPU: for linear models and small networks.
#   python submit_multiple.py jobs/digits-quickstart.yaml -s submit_cpu.sh
# Options of submit_multiple.py and of a job spec (sbatch, SBATCH) override the lines below.

# one process on one node
#SBATCH --nodes=1
#SBATCH --ntasks=1
# this partition runs jobs on idle nodes and preempts them when their owners need the nodes
#SBATCH --partition=cpu-killable
# all of them are used for training
#SBATCH --cpus-per-task=2
# memory per node, not per CPU
#SBATCH --mem=8G
# days-hours:minutes:seconds. Three hours fit into the gaps of a schedule and into most short partitions, so that jobs
# start soon; a run that takes longer saves its state and continues by itself. A program of your own that cannot do that
# needs a limit for all of its work: --sbatch time=2-00:00:00
#SBATCH --time=03:00:00
# requeue the job after a preemption or a node failure, and append to its output file
#SBATCH --requeue
#SBATCH --open-mode=append
# send USR1 three to four minutes before the time limit, so that the run can save its state; submit_multiple.py
# requests a fifth of a limit below 15 minutes
#SBATCH --signal=B:USR1@180

set -euo pipefail
# sbatch runs a copy of this script; the working directory is the project's folder
source ./activate.sh
# exec: a shell that stays alive does not pass signals on
exec python train.py "$@"
