# shellcheck shell=bash
# What the training scripts share: from environment and arguments to one `parsit train` command. Sourced, not run.

given() { # flag, arguments: whether the flag is among them
  local flag="$1" word
  shift
  for word in "$@"; do
    [[ "$word" == "$flag" || "$word" == "$flag="* ]] && return 0
  done
  return 1
}

stop() { printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2; exit 2; }

train_stage() { # stage, further flags of `parsit train`
  local stage="$1" size preset from command flags=()
  shift
  size="${MODEL_SIZE:-1.7B}"
  case "$size" in
    0.6B | 0.6b) preset="qwen3-0.6b" ;;
    1.7B | 1.7b) preset="qwen3-1.7b" ;;
    4B | 4b) preset="qwen3-4b" ;;
    8B | 8b) preset="qwen3-8b" ;;
    *) stop "MODEL_SIZE is $size: it must be 0.6B, 1.7B, 4B or 8B" ;;
  esac
  if ! given --data "$@"; then
    [[ -n "${DATA:-}" ]] || stop "no data: set DATA, or give --data FILE"
    flags+=(--data "$DATA")
  fi
  if [[ -n "${IMAGE_FOLDER:-}" ]] && ! given --image_folder "$@"; then
    flags+=(--image_folder "$IMAGE_FOLDER")
  fi
  given --output_dir "$@" || flags+=(--output_dir "${OUTPUT_DIR:-runs/$preset-$stage}")
  if [[ "$stage" != pretrain ]] && ! given --model_name_or_path "$@"; then
    from="${MODEL:-runs/$preset-pretrain}"
    [[ -e "$from" ]] || stop "no model in $from: run pretrain.sh first, set MODEL, or give --model_name_or_path"
    flags+=(--model_name_or_path "$from")
  fi
  export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
  read -ra command <<<"${PARSIT:-parsit}"
  exec "${command[@]}" train "$preset/$stage" ${flags[@]+"${flags[@]}"} "$@"
}
