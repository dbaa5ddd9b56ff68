"""A real run on one GPU with the project's own commands: it trains, is stopped, goes on, is scored, reads a page.

    python benchmarks/gpu_run.py --data FOLDER [--steps 300] [--out FILE.json]     (make gpu has it)

FOLDER is `make gpu-data`'s: line crops with glyph boxes. `tiny/scratch` is trained twice with one seed: once through,
and once stopped by SIGTERM after a third, and started again with the same command. On a GPU some sums come in another
order each time (atomic additions in backward passes), so that the two need not be equal to the bit; how far they are
apart is said, beside how far two runs are that were not stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_step import arguments_of, device_here, write

STOPPED = 130


def command(data: Path, output_dir: Path, steps: int, extra: list[str]) -> list[str]:
    """`parsit train` with what the run needs."""
    files = ["--data", str(data / "train.jsonl"), "--eval_data", str(data / "validation.jsonl")]
    flags = {"output_dir": output_dir, "max_steps": steps, "save_steps": 10 * steps, "eval_steps": steps // 2}
    flags |= {"logging_steps": max(steps // 6, 1), "report_to": "none"}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "parsit.cli", "train", "tiny/scratch", *files, *words, *extra]


def metrics(output_dir: Path) -> list[dict[str, Any]]:
    """The steps that a run has written down whole."""
    path = output_dir / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def run(words: list[str], output_dir: Path, stop_after: int = 0) -> tuple[int, float]:
    """Exit code and seconds; with `stop_after`, SIGTERM once so many steps are done."""
    started = time.monotonic()
    process = subprocess.Popen(words)
    while stop_after and process.poll() is None:
        if len(metrics(output_dir)) >= stop_after:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    return process.wait(), time.monotonic() - started


def apart(one: Path, other: Path) -> float:
    """The largest difference of two runs' losses, in shares of the first one's."""
    pairs = zip(metrics(one), metrics(other), strict=True)
    return max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in pairs)


def speed(output_dir: Path) -> dict[str, float]:
    """Medians over the second half of a run's steps."""
    half = metrics(output_dir)[-max(len(metrics(output_dir)) // 2, 1) :]
    names = ("samples_per_s", "tokens_per_s", "data_wait")
    return {name: statistics.median(entry[name] for entry in half) for name in names}


def scored(data: Path, output_dir: Path) -> dict[str, Any]:
    """What `parsit eval` says of the run on crops that it has not seen."""
    out = output_dir / "eval"
    words = ["eval", str(output_dir), "--data", str(data / "test.jsonl"), "--out", str(out)]
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "parsit.cli", *words], check=False)
    if done.returncode:
        return {"eval_error": f"exit code {done.returncode}"}
    scores = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return {"eval_s": time.monotonic() - started, "scores": scores}


def measure(data: Path, folder: Path, steps: int, extra: list[str], repeat: bool) -> dict[str, Any]:
    """All of it, as one row; `repeat`: also how far two runs that were not stopped are apart."""
    whole, again, cut = (folder / name for name in ("whole", "again", "cut"))
    row: dict[str, Any] = {"steps": steps}
    code, row["seconds"] = run(command(data, whole, steps, extra), whole)
    assert code == 0, f"the run ended with {code}"
    row |= speed(whole)
    row["loss"], row["glyph_loss"] = metrics(whole)[-1]["loss"], metrics(whole)[-1]["glyph_loss"]
    code, _ = run(command(data, cut, steps, extra), cut, stop_after=steps // 3)
    assert code == STOPPED, f"SIGTERM ended the run with {code}, not {STOPPED}"
    row["stopped_after"] = len(metrics(cut))
    assert row["stopped_after"] < steps, "the run was over before it could be stopped"
    code, row["rest_seconds"] = run(command(data, cut, steps, extra), cut)
    assert code == 0, f"the resumed run ended with {code}"
    row["apart_resumed"] = apart(whole, cut)
    if repeat:
        code, _ = run(command(data, again, steps, extra), again)
        assert code == 0, f"the repeated run ended with {code}"
        row["apart_repeated"] = apart(whole, again)
    return row | scored(data, whole)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="the folder that `make gpu-data` makes")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)


def main() -> None:
    arguments = arguments_of(__doc__, add_flags)
    folder = Path(tempfile.mkdtemp(prefix="parsit-gpu-run-"))
    os.environ["PARSIT_CACHE"] = str(folder / "cache")
    workers = 0 if arguments.rehearse else max(min((os.cpu_count() or 2) - 2, 12), 1)
    extra = ["--per_device_train_batch_size", str(arguments.batch), "--dataloader_num_workers", str(workers)]
    extra += ["--bf16", "false" if arguments.rehearse else "true"]
    try:
        steps = 6 if arguments.rehearse else arguments.steps
        row = measure(arguments.data, folder, steps, extra, repeat=not arguments.rehearse)
        print(json.dumps(row, indent=2))
        write(arguments.out, device_here(), [row])
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
