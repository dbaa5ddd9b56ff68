#!/usr/bin/env bash
# Fetches the data of LLaVA's pretraining stage, checks it and validates it. An interrupted run goes on where it was.
set -euo pipefail

REPO="${PRETRAIN_REPO:-liuhaotian/LLaVA-Pretrain}"
DIR="${PRETRAIN_DIR:-data/LLaVA-Pretrain}"
DATA="${PRETRAIN_DATA:-blip_laion_cc_sbu_558k.json}"
ENDPOINT="${HF_ENDPOINT:-https://huggingface.co}"
PYTHON="${PYTHON:-python3}"
URL=""
REQUIRED_BYTES=0
VERIFY=no
YES=no
VALIDATE=yes

usage() {
  cat <<END
usage: $0 [options]

Fetch a data set from the Hugging Face Hub with git and git-lfs, check every file against its size,
unzip its images and run \`parsit data validate\` on it. Needs no sudo. Run it again after an
interruption: it goes on with the same commit, and fetches only what is missing.

options (and the environment variables that set their defaults):
  --repo ID            the data set on the Hub (PRETRAIN_REPO, now $REPO)
  --dir DIR            where it goes (PRETRAIN_DIR, now $DIR)
  --data FILE          the file in it that is validated (PRETRAIN_DATA, now $DATA)
  --url URL            fetch from this git address instead of the Hub
  --verify             compare the SHA-256 of every large file too: some minutes
  --required_bytes N   refuse if the disk has less room than this, whatever the files need
  --no_validate        do not run parsit at the end
  --yes                put files into a folder that holds something else without asking
  --help               show this
Also read: HF_ENDPOINT (now $ENDPOINT), PYTHON (now $PYTHON).

Exit codes: 0 fetched and without faults, 1 failed or with faults, 2 wrong usage.
END
}

say() { printf '%s\n' "$*" >&2; }
fail() { say "download: $*"; exit 1; }
wrong_usage() { say "download: $* (see $0 --help)"; exit 2; }

parse_options() {
  while (($#)); do
    case "$1" in
      --help | -h) usage; exit 0 ;;
      --verify) VERIFY=yes ;;
      --yes) YES=yes ;;
      --no_validate) VALIDATE=no ;;
      --repo | --dir | --data | --url | --required_bytes)
        [[ -n "${2:-}" ]] || wrong_usage "$1 needs a value"
        case "$1" in
          --repo) REPO="$2" ;;
          --dir) DIR="$2" ;;
          --data) DATA="$2" ;;
          --url) URL="$2" ;;
          --required_bytes) REQUIRED_BYTES="$2" ;;
        esac
        shift ;;
      *) wrong_usage "unknown option $1" ;;
    esac
    shift
  done
  [[ "$REQUIRED_BYTES" =~ ^[0-9]+$ ]] || wrong_usage "--required_bytes must be a number, not $REQUIRED_BYTES"
  URL="${URL:-${ENDPOINT%/}/datasets/$REPO}"
}

# git in the target's own repository, never in one that it happens to lie in, and never asking for a password.
in_target() { GIT_TERMINAL_PROMPT=0 git -C "$DIR" --git-dir=.git --work-tree=. "$@"; }

is_ours() { [[ -d "$DIR/.git" && "$(in_target config remote.origin.url 2>/dev/null)" == "$URL" ]]; }

check_target() {
  [[ ! -e "$DIR" || -d "$DIR" ]] || fail "$DIR is a file: choose another --dir"
  if [[ ! -d "$DIR" || -z "$(ls -A "$DIR")" ]] || is_ours; then
    return
  fi
  [[ ! -e "$DIR/.git" ]] || fail "$DIR is a clone of something else than $URL: choose another --dir"
  [[ "$YES" == yes ]] && return
  [[ -t 0 ]] || fail "$DIR holds other files, which the download may overwrite: choose another --dir, or add --yes"
  local answer
  read -r -p "$DIR holds other files. Overwrite those that have the same names? [y/N] " answer
  [[ "$answer" == [yY]* ]] || fail "nothing was changed"
}

# The nearest folder above the target that exists, for df.
existing_folder() {
  local folder="$DIR"
  while [[ ! -d "$folder" ]]; do folder="$(dirname -- "$folder")"; done
  printf '%s' "$folder"
}

check_room() { # bytes
  local free_kib
  free_kib="$(df -Pk -- "$(existing_folder)" | awk 'NR == 2 { print $4 }')"
  if (($1 > free_kib * 1024)); then
    fail "not enough room in $DIR: $(($1 / 1048576 + 1)) MiB are needed, $((free_kib / 1024)) MiB are free;" \
      "choose another --dir, or make room"
  fi
}

check_tools() {
  command -v git >/dev/null || fail "git is missing: install it from your system's packages, or with conda install git"
  git lfs version >/dev/null 2>&1 || fail "git-lfs is missing. Without sudo: conda install -c conda-forge git-lfs," \
    "or unpack a release from https://github.com/git-lfs/git-lfs/releases and put its git-lfs into a folder on your" \
    "PATH, such as ~/.local/bin. With sudo: apt-get install git-lfs (dnf, brew)"
  command -v "$PYTHON" >/dev/null || fail "$PYTHON is missing: set PYTHON to a Python 3"
}

# The commit, with pointers in the place of the large files. A second run stays with the first run's commit.
fetch_commit() {
  mkdir -p -- "$DIR"
  if ! is_ours; then
    git init --quiet -- "$DIR"
    in_target remote add origin "$URL"
  fi
  in_target lfs install --local --skip-smudge >/dev/null
  if in_target rev-parse --quiet --verify HEAD >/dev/null; then
    say "going on with commit $(in_target rev-parse --short HEAD) in $DIR"
    return
  fi
  say "fetching $URL into $DIR"
  in_target fetch --quiet --depth 1 origin HEAD || fail "$URL cannot be fetched: check the address and the network"
  GIT_LFS_SKIP_SMUDGE=1 in_target checkout --quiet --force --detach FETCH_HEAD
}

# For each large file a line: SHA-256, size in bytes, name.
LARGE_FILES=""
list_large_files() {
  local name
  in_target lfs ls-files --name-only | while IFS= read -r name; do
    in_target cat-file blob "HEAD:$name" | awk -v name="$name" '
      $1 == "oid" { sub("sha256:", "", $2); oid = $2 }
      $1 == "size" { size = $2 }
      END { printf "%s %s %s\n", oid, size, name }'
  done
}

size_of() { if [[ -f "$1" ]]; then wc -c <"$1" | tr -d ' '; else echo 0; fi; }

# What is still to come: each file is kept twice (by git-lfs, and where it is used), and a zip is unpacked beside it.
missing_bytes() {
  local oid size name total=0
  while read -r oid size name; do
    [[ -n "$name" ]] || continue
    [[ -f "$DIR/.git/lfs/objects/${oid:0:2}/${oid:2:2}/$oid" ]] || total=$((total + size))
    [[ "$(size_of "$DIR/$name")" == "$size" ]] || total=$((total + size))
    [[ "$name" != *.zip || -e "$(unpacked_mark "$name")" ]] || total=$((total + size))
  done <<<"$LARGE_FILES"
  printf '%s' "$total"
}

fetch_large_files() {
  local attempt
  for attempt in 1 2 3; do
    in_target lfs pull && return
    say "attempt $attempt of 3 was interrupted"
  done
  fail "the large files did not arrive: run this again, and it goes on where it was"
}

# A name for each file that is not what its pointer says.
wrong_files() {
  local oid size name
  while read -r oid size name; do
    [[ -n "$name" ]] || continue
    if [[ "$(size_of "$DIR/$name")" != "$size" ]]; then
      printf '%s\n' "$name"
    elif [[ "$VERIFY" == yes && "$(sha256 "$DIR/$name")" != "$oid" ]]; then
      printf '%s\n' "$name"
    fi
  done <<<"$LARGE_FILES"
}

sha256() {
  "$PYTHON" - "$1" <<'END'
import hashlib, sys
digest = hashlib.sha256()
with open(sys.argv[1], "rb") as file:
    while piece := file.read(2**20):
        digest.update(piece)
print(digest.hexdigest())
END
}

# A file whose writing was interrupted, or that was changed since, is written again from what git-lfs keeps.
check_files() {
  if [[ "$VERIFY" == yes ]] && ! in_target lfs fsck; then
    say "git-lfs has put damaged files aside; they are fetched again"
    fetch_large_files
  fi
  local name wrong
  wrong="$(wrong_files)"
  [[ -n "$wrong" ]] || return 0
  while IFS= read -r name; do
    say "$name is not what it should be; it is written again"
    rm -f -- "$DIR/$name"
    in_target lfs checkout -- "$name" >/dev/null
  done <<<"$wrong"
  wrong="$(wrong_files | tr '\n' ' ')"
  [[ -z "$wrong" ]] || fail "these files are still not what they should be: $wrong(remove $DIR and start again)"
}

unpacked_mark() { printf '%s' "$DIR/.git/parsit-unpacked-${1//\//_}"; }

# Files that are there with their whole size stay; each one is written beside its place and renamed.
unpack() { # zip file, folder
  "$PYTHON" - "$1" "$2" <<'END'
import pathlib, shutil, sys, zipfile
archive, folder = zipfile.ZipFile(sys.argv[1]), pathlib.Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
members = [m for m in archive.infolist() if not m.is_dir()]
def place(member):
    path = folder / member.filename
    if not path.resolve().is_relative_to(folder.resolve()):
        sys.exit(f"download: {sys.argv[1]} holds {member.filename!r}, which leads out of its folder")
    return path
todo = [(m, p) for m in members if not ((p := place(m)).is_file() and p.stat().st_size == m.file_size)]
free, needed = shutil.disk_usage(folder).free, sum(m.file_size for m, _ in todo)
if needed > free:
    sys.exit(f"download: {sys.argv[1]} needs {needed:,} bytes to unpack, {free:,} are free: make room")
for number, (member, path) in enumerate(todo):
    if number % 10000 == 0:
        print(f"unpacking {sys.argv[1]}: {number:,} of {len(todo):,} files", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with archive.open(member) as source, beside.open("wb") as target:
        shutil.copyfileobj(source, target)
    beside.replace(path)
END
}

unpack_all() {
  local zip
  in_target ls-files -- '*.zip' | while IFS= read -r zip; do
    [[ -e "$(unpacked_mark "$zip")" ]] && continue
    unpack "$DIR/$zip" "$DIR/${zip%.zip}" || fail "$zip was not unpacked: run this again, and it goes on where it was"
    touch -- "$(unpacked_mark "$zip")"
  done
}

validate() {
  local images="$DIR"
  [[ ! -d "$DIR/images" ]] || images="$DIR/images"
  local command=("$PYTHON" -m parsit.cli)
  if command -v parsit >/dev/null; then command=(parsit); fi
  command+=(data validate "$DIR/$DATA" --image_folder "$images")
  if [[ "$VALIDATE" == no ]]; then
    say "not validated; to do it: ${command[*]}"
    return
  fi
  [[ -f "$DIR/$DATA" ]] || fail "$DIR has no $DATA: name the data file with --data"
  "${command[@]}"
}

main() {
  parse_options "$@"
  check_target
  check_room "$REQUIRED_BYTES"
  check_tools
  fetch_commit
  LARGE_FILES="$(list_large_files)"
  check_room "$(missing_bytes)"
  fetch_large_files
  check_files
  unpack_all
  say "all files are in $DIR"
  validate
}

main "$@"
