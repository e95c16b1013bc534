#!/usr/bin/env bash
#SBATCH --job-name=raylm-pretrain
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=35
#SBATCH --mem=640G
#SBATCH --gres=gpu:h100:8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=raylm-pretrain-%j.log
# pretrain by Slurm. Made by `raylm cluster render jobs/pretrain.toml --to ...`: yours to read and change.
# Machines: 1 x 10 CPUs, 40 GB (corpus, tokens, report); 4 x 8 h100, 32 CPUs, 640 GB (base).
#
#   sbatch cluster/slurm/train.sh
#   # put back into the queue, or submitted again, it goes on from what is finished
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"

# Ray's token, in a file that only its owner reads; the folder is seen by all machines
umask 077
export RAY_AUTH_TOKEN_PATH="$SLURM_SUBMIT_DIR/.ray-token-$SLURM_JOB_ID"
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
export RAYLM_HEAD_ADDRESS="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"

# srun does not take over the cores of a task by itself (Slurm 22.05 and later): Ray would have one
srun --kill-on-bad-exit=1 --cpus-per-task=35 .venv/bin/raylm cluster start -- .venv/bin/raylm run jobs/pretrain.toml --set root=/shared/runs --set 'stages.base.workers={count = 32, gpus = 1, nodes = 4, device = "h100", least = 8}'
