#!/usr/bin/env bash
# Stage 2: all weights, from stage 1's output (MODEL; by default where pretrain.sh wrote it).
#   DATA=… [IMAGE_FOLDER=…] [OUTPUT_DIR=…] [MODEL=…] [MODEL_SIZE=0.6B|1.7B|4B|8B] bash scripts/finetune.sh [flags of parsit train]
set -euo pipefail
# shellcheck source=scripts/stage.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/stage.sh"
train_stage finetune "$@"
