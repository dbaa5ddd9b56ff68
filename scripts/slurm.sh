#!/usr/bin/env bash
# An example for Slurm: one task for each GPU, on as many machines as --nodes says.
#   sbatch --export=ALL,DATA=pages.jsonl,MODEL=runs/qwen3-1.7b-pretrain scripts/slurm.sh finetune [flags of parsit train]
# The job is told to stop ten minutes before its time is over: the run saves, and the same command goes on.
#SBATCH --job-name=parsit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@600
#SBATCH --output=parsit-%j.log
set -euo pipefail

STAGE="${1:-pretrain}"
[[ $# -eq 0 ]] || shift
case "$STAGE" in
  pretrain | finetune) SCRIPT="$STAGE.sh" ;;
  lora | train_lora) SCRIPT=train_lora.sh ;;
  *) printf 'slurm.sh: %s: the stage must be pretrain, finetune or lora\n' "$STAGE" >&2; exit 2 ;;
esac
# A batch script is run from a copy: the scripts are where the job was submitted.
cd -- "${SLURM_SUBMIT_DIR:-$PWD}"
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
# Every task reads its rank from Slurm's variables; the first host is where they meet.
exec "${SRUN:-srun}" bash "${PARSIT_SCRIPTS:-scripts}/$SCRIPT" "$@"
