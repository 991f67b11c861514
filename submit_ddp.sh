#!/usr/bin/env bash
# One run on several GPUs of several nodes: a process for each GPU, which train together (docs/multi_gpu.md).
#   python submit_multiple.py jobs/cifar10-ddp.yaml -s submit_ddp.sh
# Options given to submit_multiple.py or in a job spec (sbatch, SBATCH) win over the lines below.

# nodes, and on each as many processes as it has GPUs for this job
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --gres=gpu:2
# of one kind, since the slowest sets the pace: a feature (`sinfo -o '%N %G %f'` lists them)
#SBATCH --constraint=geforce_rtx_2080
# jobs here use idle nodes and are preempted when the owners need them
#SBATCH --partition=killable
# for each process: it trains with one and has the others for the num_workers processes that load data
#SBATCH --cpus-per-task=4
# memory of each node, not per CPU
#SBATCH --mem=32G
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
# srun takes the number of CPUs from nowhere else, and ends the other processes when one fails; exec: a shell that stays
# alive keeps the signals to itself, and srun passes them on
exec srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" python train.py "$@"
