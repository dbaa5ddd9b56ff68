#!/usr/bin/env bash
# Stage 1: the projector alone, on image captions.
#   DATA=… [IMAGE_FOLDER=…] [OUTPUT_DIR=…] [MODEL_SIZE=0.6B|1.7B|4B|8B] bash scripts/pretrain.sh [flags of parsit train]
set -euo pipefail
# shellcheck source=scripts/stage.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/stage.sh"
train_stage pretrain "$@"
