"""How long training stands still for a checkpoint, saved behind it and in front of it; and how soon a resume steps.

    python benchmarks/saves.py [--shapes tiny smol] [--saves 3] [--steps_between 3] [--out FILE.json]

A run of the shapes of `tiny` and `smol` (random weights, drawn lines, the stage's optimizer) saves again and again, in
both ways in turn, with steps between. Printed of each way: the seconds that training waits for a save (gathering, and
copies; or all of it), the processor seconds of all that a save does, and which share of the time that is at the
preset's --save_steps, with the median step of this machine. Then: the seconds from `prepare` to the end of the first
step, for a checkpoint of step 10 and the same as that of step 1,000,000. Times are of this machine as it is; ratios
within a row are of one run.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from parsit import hf
from parsit.config import TrainConfig, load_architecture, load_preset
from parsit.files.manifest import STATE_FILE, write_manifest
from parsit.train.checkpoint import TrainState
from parsit.train.loop import Run
from parsit.train.prepare import Prepared, prepare
from parsit.train.requests import Asked
from parsit.train.saving import Saver
from parsit.train.world import World

STAGES = {"tiny": "tiny/scratch", "smol": "smol/finetune"}
FAR = 1_000_000


def start_of(shape: str, folder: Path) -> Path:
    """A model's folder with random weights of a preset's shapes."""
    preset = load_architecture(shape)
    own = preset.tokenizer or "tiny"  # smol's lies on the Hub
    architecture = replace(preset, tokenizer=own, vision_tower=None, model_name_or_path=None)
    processor = hf.new_processor(architecture)
    hf.new_model(architecture, processor, 0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def crops(folder: Path) -> Path:
    """Eight lines of digits to train on."""
    folder.mkdir()
    records = []
    for number in range(8):
        image = Image.new("RGB", (64, 24), "white")
        ImageDraw.Draw(image).text((2, 6), str(number * 1234), fill="black")
        image.save(folder / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": str(number * 1234)}]
        records.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder / "train.jsonl"


def config_of(shape: str, data: Path, start: Path, output_dir: Path, **flags: Any) -> TrainConfig:
    """The preset's settings with few samples in a step: what is saved does not depend on them."""
    values = load_preset(STAGES[shape]) | {"from_scratch": False, "packing": False, "model_max_length": 512}
    few = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "dataloader_num_workers": 0}
    place = {"data": [str(data)], "model_name_or_path": str(start), "output_dir": str(output_dir)}
    return TrainConfig(**values | few | place | {"max_steps": FAR + 100, "eval_steps": 0} | flags)


def processor_s() -> float:
    """Processor seconds of this process and its threads so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def stalls(config: TrainConfig, saves: int, steps_between: int) -> dict[str, Any]:
    """What saves of a run cost in both ways, in turn."""
    run = Run(prepared := prepare(config, World()))
    run.left_out.begin(0, print)
    batches = run.training_batches(0)
    seconds: dict[str, list[float]] = {"step": [], "async": [], "plain": []}
    whole: dict[str, list[float]] = {"async": [], "plain": []}
    step = 0
    with ExitStack() as stack:
        savers = {
            way: stack.enter_context(Saver(_saved(prepared, way == "async"), run.strategy))
            for way in ("async", "plain")
        }
        for number in range(2 * saves + 2):
            for _ in range(steps_between):
                began = time.perf_counter()
                run.step(step, batches, Asked())
                seconds["step"].append(time.perf_counter() - began)
                step += 1
            way = ("async", "plain")[number % 2]
            began, used = time.perf_counter(), processor_s()
            savers[way].begin(TrainState(step, run.fingerprint, content_fingerprint=run.content_fingerprint))
            if way == "plain":
                savers[way].wait()
            stalled = time.perf_counter() - began
            savers[way].wait()  # steps between would be counted as the save's
            if number > 1:  # the first of each makes the files that do not change
                seconds[way].append(stalled)
                whole[way].append(processor_s() - used)
    size = sum(path.stat().st_size for path in (Path(str(config.output_dir)) / f"checkpoint-{step}").rglob("*"))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "bytes": size,
        "step_s": median["step"],
        "async_s": median["async"],
        "plain_s": median["plain"],
        "async_processor_s": statistics.median(whole["async"]),
        "plain_processor_s": statistics.median(whole["plain"]),
    }


def _saved(prepared: Prepared, in_background: bool) -> Prepared:
    return replace(prepared, config=replace(prepared.config, async_save=in_background))


def resume_s(config: TrainConfig, checkpoint: Path) -> float:
    """Seconds from the start to the end of the first step after a checkpoint."""
    began = time.perf_counter()
    prepared = prepare(replace(config, output_dir=str(checkpoint.parent)), World())
    run = Run(prepared)
    state, _ = run.begin(checkpoint)
    run.left_out.begin(state.step, print)
    run.step(state.step, run.training_batches(state.step), Asked())
    return time.perf_counter() - began


def as_step(checkpoint: Path, step: int) -> Path:
    """A copy of a checkpoint that says it is of another step, whole like the first."""
    copy = checkpoint.parent.parent / f"of-step-{step}" / f"checkpoint-{step}"
    shutil.copytree(checkpoint, copy)
    said = json.loads((copy / STATE_FILE).read_text()) | {"step": step}
    (copy / STATE_FILE).write_text(json.dumps(said, indent=2) + "\n")
    (copy / "manifest.json").unlink()
    write_manifest(copy)
    return copy


def measure(shape: str, saves: int, steps_between: int) -> dict[str, Any]:
    """One row."""
    with tempfile.TemporaryDirectory(prefix="parsit-saves-", dir=Path.cwd()) as name:
        folder = Path(name)
        data, start = crops(folder / "data"), start_of(shape, folder / "start")
        config = config_of(shape, data, start, folder / "run", save_total_limit=1)
        row: dict[str, Any] = {"shape": shape, **stalls(config, saves, steps_between)}
        (checkpoint,) = (folder / "run").glob("checkpoint-*")
        for step in (10, FAR):
            row[f"resume_{step}_s"] = resume_s(config, as_step(checkpoint, step))
        interval = row["step_s"] * config.save_steps
        row |= {"save_steps": config.save_steps}
        return row | {f"{way}_share": row[f"{way}_s"] / (interval + row[f"{way}_s"]) for way in ("async", "plain")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--steps_between", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    disable_progress_bar()
    rows = [measure(shape, options.saves, options.steps_between) for shape in options.shapes]
    table = Table("shape", "checkpoint", "step (2 samples)", "stall async", "stall plain", "share async", "share plain",
                  "processor async", "processor plain", "resume at 10", f"at {FAR:,}")  # fmt: skip
    for row in rows:
        table.add_row(
            row["shape"],
            f"{row['bytes'] / 1e6:,.0f} MB",
            *(f"{row[name]:.3f} s" for name in ("step_s", "async_s", "plain_s")),
            *(f"{row[name]:.3%} at {row['save_steps']}" for name in ("async_share", "plain_share")),
            *(f"{row[name]:.2f} s" for name in ("async_processor_s", "plain_processor_s")),
            *(f"{row[f'resume_{step}_s']:.1f} s" for step in (10, FAR)),
        )
    Console(width=160).print(table)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
