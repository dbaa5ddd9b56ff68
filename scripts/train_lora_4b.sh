#!/usr/bin/env bash
# The same as train_lora.sh, with Qwen3-4B.
set -euo pipefail
MODEL_SIZE=4B exec bash "$(dirname -- "${BASH_SOURCE[0]}")/train_lora.sh" "$@"
