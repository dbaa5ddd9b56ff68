#!/usr/bin/env bash
# parsit-tiny from nothing, one stage a call: recipes/tiny/run.sh pdfs | fonts | crops | precision | tower | reader | wider | manuals | scores
# What each does and costs: README.md beside this file. A stage of training goes on where it was stopped.
set -euo pipefail

DIR=${DIR:-runs/recipe} # where everything is kept
PARSIT=${PARSIT:-parsit}
PYTHON=${PYTHON:-python}
HERE=$(cd "$(dirname "$0")" && pwd)
# Threads that sleep instead of spinning: beside other programs a step is several times as quick.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0

named() { # LIST: the packages in it
  grep -v '^#' "$HERE/$1"
}

unpack() { # PACKAGE: into $DIR/packages/PACKAGE
  mkdir -p "$DIR/packages"
  compgen -G "$DIR/packages/$1_*.deb" > /dev/null || (cd "$DIR/packages" && apt-get download -q "$1")
  for file in "$DIR/packages/$1"_*.deb; do
    dpkg -x "$file" "$DIR/packages/$1"
  done
}

fetch() { # PACKAGE FOLDER: its PDFs
  mkdir -p "$2/$1"
  unpack "$1"
  find "$DIR/packages/$1" -type f -iname '*.pdf' -exec cp {} "$2/$1/" \;
  find "$DIR/packages/$1" -type f -iname '*.pdf.gz' -exec cp {} "$2/$1/" \;
  find "$2/$1" -name '*.gz' -exec gunzip -f {} \;
}

pdfs() {
  if named held-out-packages.txt | grep -qxFf <(named train-packages.txt); then
    echo "recipes/tiny: a package is in both lists" >&2
    return 1
  fi
  for name in $(named train-packages.txt); do fetch "$name" "$DIR/pdfs/train"; done
  for name in $(named held-out-packages.txt); do fetch "$name" "$DIR/pdfs/held-out"; done
}

fonts() {
  local name left_out pattern
  while read -r name left_out; do
    unpack "$name"
    mkdir -p "$DIR/fonts/$name"
    find "$DIR/packages/$name" -type f \( -name '*.ttf' -o -name '*.otf' \) -exec cp {} "$DIR/fonts/$name/" \;
    set -f
    for pattern in $left_out; do find "$DIR/fonts/$name" -name "$pattern" -delete; done
    set +f
  done < <(named font-packages.txt)
}

crops() {
  local lines=(--unit line --workers "${WORKERS:-1}" --overwrite)
  "$PARSIT" data synth --out "$DIR/data/synth" --pages "${PAGES:-2500}" --cut reader --seed 11 "${lines[@]}"
  "$PARSIT" data synth --out "$DIR/data/fonts" --pages "${PAGES:-2500}" --cut reader --seed 31 --fonts "$DIR/fonts" "${lines[@]}"
  "$PARSIT" data synth --out "$DIR/data/more" --pages "${MORE_PAGES:-1500}" --cut reader --seed 41 --fonts "$DIR/fonts" "${lines[@]}"
  "$PARSIT" data synth --out "$DIR/data/manuals" --kinds manual --pages "${MANUAL_PAGES:-1800}" --cut reader --seed 51 \
    --fonts "$DIR/fonts" "${lines[@]}"
  "$PARSIT" data from-pdf "$DIR/pdfs/train" --out "$DIR/data/pdf" --degrade light --pages_per_pdf "${PER_PDF:-14}" \
    --seed 5 --validation_fraction 0.03 --test_fraction 0 "${lines[@]}"
  "$PARSIT" data from-pdf "$DIR/pdfs/held-out" --out "$DIR/data/held-out" --dpi 150 --pages_per_pdf 2 \
    --seed 5 --validation_fraction 0 --test_fraction 0 "${lines[@]}"
}

precision() {
  "$PYTHON" "$HERE/choose_precision.py" --data "$DIR/data/synth/train.jsonl" > "$DIR/bf16"
}

train() { # "SETS" PRESET FLAGS: on these sets of crops and those of PDFs, in the precision that was chosen
  local set train=() validation=()
  for set in $1 pdf; do
    train+=("$DIR/data/$set/train.jsonl")
    validation+=("$DIR/data/$set/validation.jsonl")
  done
  shift
  "$PARSIT" train "$@" --data "${train[@]}" --eval_data "${validation[@]}" --max_eval_samples 256 \
    --bf16 "$(cat "$DIR/bf16")" --save_steps 250 --eval_steps 500
}

tower() {
  train synth tiny/tower --output_dir "$DIR/tower" --max_steps "${TOWER_STEPS:-6000}"
}

reader() {
  train synth tiny/scratch --model_name_or_path "$DIR/tower" --output_dir "$DIR/reader" \
    --max_steps "${READER_STEPS:-10000}" --mm_vision_tower_lr 1.5e-3 --warmup_steps 300 --sample_steps 500
}

wider() {
  train fonts tiny/scratch --model_name_or_path "$DIR/reader" --output_dir "$DIR/wider" --learning_rate 2e-3 \
    --max_steps "${WIDER_STEPS:-7000}" --mm_vision_tower_lr 1.5e-3 --warmup_steps 300
}

manuals() {
  train "fonts more manuals" tiny/scratch --model_name_or_path "$DIR/wider" --output_dir "$DIR/manuals" --learning_rate 2e-3 \
    --max_steps "${MANUALS_STEPS:-7000}" --mm_vision_tower_lr 1.5e-3 --warmup_steps 300
}

scores() {
  for lines in synth/test held-out/train; do
    "$PARSIT" eval "${MODEL:-$DIR/manuals}" --data "$DIR/data/$lines.jsonl" --max_new_tokens 96 \
      --out "$DIR/scores/${lines%/*}"
  done
}

case ${1:-} in
  pdfs | fonts | crops | precision | tower | reader | wider | manuals | scores) "$1" ;;
  *)
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
    ;;
esac
