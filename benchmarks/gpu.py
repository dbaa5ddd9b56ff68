"""Everything that needs a GPU, in one command: tests, speed, memory, reading, and a run that is stopped and goes on.

    make gpu-data                      before, where synthetic documents can be made: build/gpu-data, a few megabytes
    make gpu [ARGS="--parts tests,steps --minutes 9"]
    make gpu ARGS=--rehearse           every part in miniature, on a CPU

Parts run one after the other, each in a process of its own with its own time limit; their logs and rows are in
build/gpu/ as they come, and what was finished is kept when the time is up. report.md there holds the tables.
Needs torch, transformers and what Parsit itself needs; no network, no DeepSpeed, no Typst, no PDFium.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DATA = ROOT / "build" / "gpu-data"
# Columns of the report's tables: what a row's value is called there, and how it is written.
COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "steps": {
        "": ("{size} {case}", ""), "step": ("step_s", "{:.2f} s"), "tokens/s": ("tokens_per_s", "{:,.0f}"),
        "MFU": ("mfu", "{:.1%}"), "full attention": ("mfu_full_attention", "{:.1%}"),
        "peak GB": ("peak_gb", "{:.1f}"), "estimate GB": ("estimate_gb", "{:.1f}"), "loss": ("loss", "{:.3f}"),
    },
    "memory": {
        "": ("{case}", ""), "estimate GB": ("estimate_gb", "{:.2f}"), "peak GB": ("peak_gb", "{:.2f}"),
        "error": ("error", "{:+.0%}"), "reserved GB": ("reserved_gb", "{:.2f}"),
    },
    "read": {
        "": ("{size}, {batch} at a time", ""), "prefill tokens/s": ("prefill_tokens_per_s", "{:,.0f}"),
        "decode tokens/s": ("decode_tokens_per_s", "{:,.0f}"), "pages/s": ("pages_per_s", "{:.2f}"),
        "prompt": ("prefill_s", "{:.3f} s"), "a page's tiles (CPU)": ("encode_s_per_page", "{:.3f} s"),
        "peak GB": ("peak_gb", "{:.1f}"),
    },
    "profile": {
        "": ("{size} {case}", ""), "step": ("seconds", "{:.3f} s"), "busy": ("busy", "{:.0%}"),
        "launches": ("launches", "{:,}"), "copies to the host": ("copies to the host", "{}"),
        "synchronisations": ("synchronisations", "{}"),
    },
    "run": {
        "steps": ("steps", "{}"), "samples/s": ("samples_per_s", "{:,.0f}"), "data wait": ("data_wait", "{:.1%}"),
        "loss": ("loss", "{:.3f}"), "glyph loss": ("glyph_loss", "{:.3f}"),
        "apart, resumed": ("apart_resumed", "{:.1e}"), "apart, repeated": ("apart_repeated", "{:.1e}"),
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """A command with a time limit in seconds."""

    name: str
    command: list[str]
    limit_s: float


def parts(out: Path, data: Path, rehearse: bool) -> list[Part]:
    """All parts in the order of their worth: what is wrong is known before what is slow."""
    python, more = sys.executable, ["--rehearse"] if rehearse else []

    def script(file: str, part: str, *flags: str) -> list[str]:
        return [python, str(HERE / file), *flags, "--out", str(out / f"{part}.json"), *more]

    tests = [python, "-m", "pytest", "-m", "gpu", "-v", "-rP", "--durations", "10", "-p", "no:cacheprovider"]
    tests.append(str(ROOT / "tests" / "gpu"))
    if not rehearse and find_spec("xdist"):
        tests += ["-n", "4"]  # one device bears them all, and most of a test is its process's beginning
    short = ["--sizes", "1.7b", "--rounds", "1"] if rehearse else []

    def cases(numbers: str) -> list[str]:
        return ["--cases", numbers] if rehearse else []

    return [
        Part("tests", tests, 150),
        Part(
            "steps",
            script("gpu_step.py", "steps", "--minutes", "4", *cases("0,1,3,5"), *short),
            260,
        ),
        Part("memory", script("gpu_memory.py", "memory", *cases("0,4")), 80),
        Part("read", script("gpu_read.py", "read", *short), 100),
        Part("run", script("gpu_run.py", "run", "--data", str(data)), 120),
        Part("profile", script("gpu_profile.py", "profile", *cases("1,3")), 80),
    ]


def run(part: Part, out: Path, limit_s: float) -> dict[str, Any]:
    """Run a part, its output into its log; how it ended."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    started = time.monotonic()
    with (out / f"{part.name}.log").open("wb") as log:
        process = subprocess.Popen(
            part.command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
            ending = "done" if code == 0 else f"failed with {code}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its workers as well
            process.wait()
            ending = f"stopped after {limit_s:.0f} s"
    return {"part": part.name, "ending": ending, "seconds": time.monotonic() - started}


def tail(path: Path, lines: int) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def table(part: str, rows: Sequence[dict[str, Any]]) -> str:
    """A part's rows as Markdown."""
    columns = COLUMNS[part]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = [
            source.format(**row) if not form else "-" if row.get(source) is None else _cell(form, row[source])
            for source, form in columns.values()
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(form: str, value: Any) -> str:
    """A number as the column has it; a word, such as why there is no number, as it is."""
    return value if isinstance(value, str) else form.format(value)


def report(out: Path, endings: Sequence[dict[str, Any]]) -> str:
    """What was measured, as a page of tables."""
    lines = ["# On this device", "", "| part | seconds | ending |", "| --- | --- | --- |"]
    lines += [f"| {one['part']} | {one['seconds']:.0f} | {one['ending']} |" for one in endings]
    for one in endings:
        path = out / f"{one['part']}.json"
        if path.exists() and one["part"] in COLUMNS:
            found = json.loads(path.read_text(encoding="utf-8"))
            about = ", ".join(f"{name} {value}" for name, value in found.items() if name != "rows")
            lines += ["", f"## {one['part']}", "", about, "", table(one["part"], found["rows"])]
    tests = out / "tests.log"
    if tests.exists():
        lines += ["", "## tests", "", tail(tests, 1)]
    return "\n".join(lines) + "\n"


def main() -> None:
    names = [part.name for part in parts(Path(), Path(), False)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(names), help="which, in which order")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all; what would begin later is left out")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--data", type=Path, default=DATA, help="what `make gpu-data` made")
    parser.add_argument("--rehearse", action="store_true", help="in miniature, on a CPU")
    arguments = parser.parse_args()
    chosen = arguments.parts.split(",")
    for name in chosen:
        if name not in names:
            parser.error(f"--parts: no part is called {name!r}; there are {', '.join(names)}")
    if "run" in chosen and not (arguments.data / "train.jsonl").exists():
        parser.error(f"{arguments.data}: no line crops there; `make gpu-data` makes them, or leave out the part run")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.rehearse:
        os.environ["PARSIT_REHEARSAL"] = "1"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    ends_at = time.monotonic() + 60 * arguments.minutes
    by_name = {part.name: part for part in parts(arguments.out, arguments.data, arguments.rehearse)}
    endings = []
    for part in (by_name[name] for name in chosen):
        (arguments.out / f"{part.name}.json").unlink(missing_ok=True)
        left = ends_at - time.monotonic()
        if left < 10:
            endings.append({"part": part.name, "ending": "left out: the time is up", "seconds": 0.0})
        else:
            endings.append(run(part, arguments.out, left if arguments.rehearse else min(part.limit_s, left)))
        ending = endings[-1]
        print(f"== {part.name}: {ending['ending']}, {ending['seconds']:.0f} s", flush=True)
        if ending["ending"] != "done" and ending["seconds"]:
            print(tail(arguments.out / f"{part.name}.log", 25), flush=True)
        (arguments.out / "report.md").write_text(report(arguments.out, endings), encoding="utf-8")
    print(report(arguments.out, endings))
    sys.exit(0 if all(one["ending"] == "done" for one in endings) else 1)


if __name__ == "__main__":
    main()
