#!/usr/bin/env bash
# The same as pretrain.sh, with Qwen3-4B.
set -euo pipefail
MODEL_SIZE=4B exec bash "$(dirname -- "${BASH_SOURCE[0]}")/pretrain.sh" "$@"
