"""How fast data files are checked and converted, and how much memory that takes.

    python benchmarks/convert.py [--samples 1,10000,1000000] [--big_mb 1000] [--folder DIR] [--output FILE]

Makes JSON and JSONL files of records with about 300 characters of text in each input format. Every measurement is a
process of its own: `scripts/data_converter.py`, with one worker, as a user starts it. Seconds are wall-clock time
with the start of Python, which is nearly all of it for one sample; memory is the process's peak (VmHWM). Images are
named and do not exist: without --image_folder none is opened. The big run converts a JSONL file of --big_mb megabytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "data_converter.py"
WORDS = [
    "invoice",
    "total",
    "amount",
    "due",
    "date",
    "page",
    "the",
    "of",
    "account",
    "Straße",
    "with",
    "1,204.50",
    "EUR",
]
MEMORY_LIMIT_MB = 500
# Runs the script in this process and writes the peak into the file that is named first.
PEAK = """
import atexit, runpy, sys
def tell(path=sys.argv.pop(1)):
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    open(path, "w").write(line.split()[1])
atexit.register(tell)
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def native(number: int, answer: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nRead this page."}, {"from": "gpt", "value": answer}]
    return {"id": f"page-{number}", "image": f"pages/{number}.png", "conversations": turns}


def sharegpt(number: int, answer: str) -> dict[str, Any]:
    record = native(number, answer)
    return {"id": record["id"], "images": [record["image"]], "conversations": record["conversations"]}


def openai(number: int, answer: str) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": f"pages/{number}.png"}}
    return _messages(number, answer, image)


def huggingface(number: int, answer: str) -> dict[str, Any]:
    return _messages(number, answer, {"type": "image"}) | {"images": [f"pages/{number}.png"]}


def _messages(number: int, answer: str, image: dict[str, Any]) -> dict[str, Any]:
    question = {"role": "user", "content": [image, {"type": "text", "text": "Read this page."}]}
    return {"id": f"page-{number}", "messages": [question, {"role": "assistant", "content": answer}]}


FORMATS: dict[str, Callable[[int, str], dict[str, Any]]] = {
    "parsit": native,
    "sharegpt": sharegpt,
    "openai": openai,
    "huggingface": huggingface,
}


@dataclass(frozen=True)
class Measurement:
    """One run. `megabytes`: the input's size; `peak_mb`: of memory."""

    format: str
    kind: str
    task: str
    samples: int
    megabytes: float
    seconds: float
    samples_per_second: float
    peak_mb: float


def answers(seed: int = 0) -> Iterator[str]:
    """Texts of about 300 characters, of which a thousand differ."""
    chosen = random.Random(seed)
    texts = [" ".join(chosen.choices(WORDS, k=60)) for _ in range(1000)]
    while True:
        yield from texts


def write_input(path: Path, make: Callable[[int, str], dict[str, Any]], samples: int, at_least: int = 0) -> int:
    """Write records until there are so many, or so many bytes, and return their number."""
    before, between, after = ("[", ",\n", "]\n") if path.suffix == ".json" else ("", "\n", "\n")
    number = 0
    with path.open("w", encoding="utf-8") as file:
        for answer in answers():
            if number >= samples and (not at_least or file.tell() >= at_least):
                break
            file.write((between if number else before) + json.dumps(make(number, answer), ensure_ascii=False))
            number += 1
        file.write(after)
    return number


def measure(task: str, source: Path, format: str, samples: int) -> Measurement:
    """Check or convert one file in a process of its own."""
    output, peak = source.parent / "out.jsonl", source.parent / "peak"
    options = ["--validate-only", "--workers", "1"] if task == "validate" else ["--output", str(output)]
    command = [sys.executable, "-c", PEAK, str(peak), str(SCRIPT), "--input", str(source), *options]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment())
    seconds = time.perf_counter() - started
    output.unlink(missing_ok=True)
    return Measurement(
        format=format,
        kind=source.suffix[1:],
        task=task,
        samples=samples,
        megabytes=round(source.stat().st_size / 1e6, 3),
        seconds=round(seconds, 3),
        samples_per_second=round(samples / seconds, 1),
        peak_mb=round(int(peak.read_text()) / 1024, 1),
    )


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def measure_all(sizes: list[int], big_mb: int, folder: Path) -> Iterator[Measurement]:
    """Every size in every format and kind, then the big file."""
    for samples in sizes:
        for format, make in FORMATS.items():
            for kind in (".json", ".jsonl"):
                source = folder / f"in{kind}"
                write_input(source, make, samples)
                for task in ("validate", "convert"):
                    yield measure(task, source, format, samples)
                source.unlink()
    if big_mb:
        source = folder / "big.jsonl"
        samples = write_input(source, openai, 1, big_mb * 10**6)
        yield measure("convert", source, "openai", samples)
        source.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", default="1,10000,1000000")
    parser.add_argument("--big_mb", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where inputs are made")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "convert.json")
    options = parser.parse_args()
    sizes = [int(size) for size in options.samples.split(",") if size]
    table = Table("format", "kind", "task", "samples", "MB", "s", "samples/s", "peak MB")
    measured: list[Measurement] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for found in measure_all(sizes, options.big_mb, Path(folder)):
            measured.append(found)
            table.add_row(*(f"{value:,}" if not isinstance(value, str) else value for value in asdict(found).values()))
            print(f"{found.format}.{found.kind} {found.task} {found.samples:,}: {found.seconds} s", file=sys.stderr)
    Console(width=120).print(table)
    result = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[2], 2),
        "measurements": [asdict(found) for found in measured],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    peak = max(found.peak_mb for found in measured)
    print(f"highest peak: {peak} MB of memory, {'under' if peak < MEMORY_LIMIT_MB else 'NOT under'} {MEMORY_LIMIT_MB}")
    return 0 if peak < MEMORY_LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
