"""A pile of PDFs, images and broken files through `parsit parse`: pages/s, how busy the engine was, memory over time.

    python benchmarks/pile.py --pdfs FOLDER --model MODEL [--files 500] [--options --ray auto]

The pile is made in build/pile from the PDFs below FOLDER: of twenty files fourteen are PDFs, five are images (first
pages, drawn at 72 dpi) and one is broken (a PDF cut off in its middle). One page of each is read (`--pages 1`). Memory
is what the kernel calls resident, of each process, every two seconds; what processes share counts for each of them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from parsit.parse.pages import PageFile
from parsit.types import InputError

BUILD = Path("build/pile")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pdfs", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--max_new_tokens", type=int, default=8)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="more options of `parsit parse`")
    arguments = parser.parse_args()
    pile = BUILD / f"files-{arguments.files}"
    if not pile.exists():
        make_pile(arguments.pdfs, pile, arguments.files)
    out = BUILD / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "parsit.cli", "parse", str(pile), "--model", arguments.model, "--out", str(out)]
    command += ["--pages", "1", "--dpi", "72", "--max_new_tokens", str(arguments.max_new_tokens), *arguments.options]
    report(*watch(command), out)


def make_pile(pdfs: Path, pile: Path, count: int) -> None:
    """The files, in folders of a hundred."""
    found = sorted(pdfs.rglob("*.pdf"))[: count * 2]
    draft = pile.with_name(f"{pile.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    number = 0
    for source in found:
        if number == count:
            break
        place = draft / f"{number // 100}" / f"{number:04}"
        place.parent.mkdir(parents=True, exist_ok=True)
        kind = number % 20
        try:
            if kind < 14:
                shutil.copyfile(source, place.with_suffix(".pdf"))
            elif kind < 19:
                with PageFile(source, dpi=72) as file:
                    file.page(1).image.save(place.with_suffix(".png"))
            else:
                place.with_suffix(".pdf").write_bytes(source.read_bytes()[: source.stat().st_size // 2])
        except InputError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        number += 1
    draft.rename(pile)


def watch(command: list[str]) -> tuple[dict[str, list[float]], float, int]:
    """Memory over time by kind of process (MB), processor seconds, and the exit code."""
    memory: dict[str, list[float]] = defaultdict(list)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command)
    while process.poll() is None:
        for kind, megabytes in processes(process.pid):
            memory[kind].append(megabytes)
        time.sleep(2)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return memory, seconds, process.returncode


def processes(pid: int) -> list[tuple[str, float]]:
    """The process and those that draw for it, each with its resident memory in MB."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if pid in (parent, int(path.name)):
                resident = int((path / "statm").read_text().split()[1]) * PAGE_BYTES / 1e6
                found.append(("reads" if int(path.name) == pid else "draws", resident))
        except OSError:
            continue
    return found


def report(memory: dict[str, list[float]], seconds: float, code: int, out: Path) -> None:
    """A table, and build/pile/pile.json."""
    (result_set,) = out.iterdir()
    records = [
        json.loads(line)
        for part in (result_set / "readings").glob("part-*.jsonl")
        for line in part.read_text(encoding="utf-8").splitlines()[1:]
    ]
    pages = sum(not record["error"] for record in records)
    failures = len(records) - pages
    print(f"exit code {code}; {len(records)} records, {failures} of them failures; {seconds:.0f} s of processors")
    print(f"{pages / seconds:.2f} pages per processor second")
    for kind, values in memory.items():
        quarter = max(1, len(values) // 4)
        parts = [max(values[start : start + quarter]) for start in range(0, len(values), quarter)]
        print(f"memory of what {kind}, MB, highest in each quarter: {', '.join(f'{part:.0f}' for part in parts[:4])}")
    facts = {"records": len(records), "pages": pages, "processor_s": seconds, "memory_mb": memory}
    (BUILD / "pile.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
