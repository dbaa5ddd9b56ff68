#!/usr/bin/env bash
# The same as finetune.sh, with Qwen3-4B.
set -euo pipefail
MODEL_SIZE=4B exec bash "$(dirname -- "${BASH_SOURCE[0]}")/finetune.sh" "$@"
