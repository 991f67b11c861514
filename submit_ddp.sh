#!/usr/bin/env bash
# A run on several GPUs of several nodes, with one process per GPU (docs/multi_gpu.md).
#   python submit_multiple.py jobs/cifar10-ddp.yaml -s submit_ddp.sh
# Options of submit_multiple.py and of a job spec (sbatch, SBATCH) override the lines below.

# nodes, and one process per GPU on each of them
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --gres=gpu:2
# GPUs of one type, because the slowest one limits the speed: a feature (`sinfo -o '%N %G %f'` lists features)
#SBATCH --constraint=geforce_rtx_2080
# this partition runs jobs on idle nodes and preempts them when their owners need the nodes
#SBATCH --partition=killable
# CPUs per process: one for training, the others for the num_workers data-loader processes
#SBATCH --cpus-per-task=4
# memory per node, not per CPU
#SBATCH --mem=32G
# days-hours:minutes:seconds. Longer than for one GPU: a run that continues waits for all of its nodes again
#SBATCH --time=2-00:00:00
# requeue the job after a preemption or a node failure, and append to its output file
#SBATCH --requeue
#SBATCH --open-mode=append
# send USR1 three to four minutes before the time limit, so that the run can save its state; submit_multiple.py
# requests a fifth of a limit below 15 minutes
#SBATCH --signal=B:USR1@180

set -euo pipefail
# sbatch runs a copy of this script; the working directory is the project's folder
source ./activate.sh
# srun needs the number of CPUs as an option; it ends all processes when one fails. exec: a shell that stays alive does
# not pass signals on, and srun does
exec srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" python train.py "$@"
