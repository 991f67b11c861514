#!/usr/bin/env bash
# A run on one GPU with 8 or 11 GB of memory.
#   python submit_multiple.py jobs/cifar10-example.yaml -s submit_2080.sh
# Options of submit_multiple.py and of a job spec (sbatch, SBATCH) override the lines below.

# one process on one node
#SBATCH --nodes=1
#SBATCH --ntasks=1
# this partition runs jobs on idle nodes and preempts them when their owners need the nodes
#SBATCH --partition=killable
# about four CPUs per GPU, for the num_workers data-loader processes
#SBATCH --cpus-per-task=4
# memory per node, not per CPU
#SBATCH --mem=8G
# one GPU, on a node with this feature (`sinfo -o '%N %G %f'` lists features)
#SBATCH --gres=gpu:1
#SBATCH --constraint=geforce_rtx_2080
# days-hours:minutes:seconds. Jobs of twelve hours start sooner than those of days, and most partitions allow them. A
# run that takes longer saves its state, waits for a GPU again, and continues by itself. A program of your own that
# cannot do that needs a limit for all of its work: --sbatch time=2-00:00:00
#SBATCH --time=12:00:00
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
