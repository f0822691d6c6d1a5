#!/bin/bash
# A list in 1,000 parts, each a task with a GPU of its own, which may start whenever there is one:
#
#   sbatch configs/cluster/slurm-array.sh prompts.csv /shared/clips --preset miniflux-768p
#
# When the tasks have ended, put the index in order; if something is missing, it names the parts to run again
# and its exit status is 1. Run these with the same line, here parts 3 and 17 to 20; PARTS stays what it was:
#
#   pyramid-seed batch --gather -o /shared/clips
#   sbatch --array=3,17-20 configs/cluster/slurm-array.sh prompts.csv /shared/clips --preset miniflux-768p
#
# The first part may come alone, so that the model is downloaded once: sbatch --array=0 ...
#
#SBATCH --job-name=clips
#SBATCH --array=0-999
#SBATCH --ntasks=1 --cpus-per-task=8 --gpus=1 --mem=64G --time=12:00:00
#SBATCH --output=%x-%A_%a.out --open-mode=append
# A task that is preempted begins again where it was; two minutes before its time is up it stops by itself.
#SBATCH --requeue --signal=TERM@120
set -euo pipefail

list=$1 clips=$2
shift 2
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-8}  # which srun does not take over since Slurm 22.05
# Signals go to what srun has started; its exit status is that of the part.
exec srun pyramid-seed batch "$list" -o "$clips" --part "auto/${PARTS:-1000}" "$@"
