"""What distributed tests share: their data and strategies; starting processes, and stopping them where one hangs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from parsit import hf
from parsit.config import Architecture

# A job has as many as thirty runs, and other programs may have the processors.
HANG_S = 3600
WORKER = Path(__file__).with_name("dist_worker.py")
STRATEGIES = {"ddp": {}, "fsdp": {"fsdp": True}, "tp": {"tp": 2}, "zero2": {"deepspeed": "zero2.json"},
              "zero3": {"deepspeed": "zero3.json"}}  # fmt: skip
DATA_PARALLEL = [name for name in STRATEGIES if name != "tp"]
NAMES = {"ddp": "DDP", "fsdp": "FSDP2", "tp": "TP", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}
# Share of the weights and of the optimizer's state that each of two processes holds; TP leaves tower and norms whole.
SHARES = {"ddp": (1, 1), "fsdp": (0.5, 0.5), "tp": (0.56, 0.56), "zero2": (1, 0.5), "zero3": (0.5, 0.5)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_job(job: dict, folder: Path, world_size: int) -> dict[str, list[dict]]:
    """What each run's ranks saw, by run name. Fails with the processes' output where one fails or hangs.

    Whoever calls this needs no time limit of its own: pytest's would not say what the processes did.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"job-{world_size}.json"
    path.write_text(json.dumps(job))
    port = str(free_port())
    processes = []
    for rank in range(world_size):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        if world_size > 1:
            environment |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank),
                            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
        log = (folder / f"log-{world_size}-{rank}.txt").open("wb")
        command = [sys.executable, str(WORKER), str(path)]
        processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    deadline = time.monotonic() + HANG_S
    try:
        while any(process.poll() is None for process in processes):
            failed = [process for process in processes if process.poll() not in (None, 0)]
            if failed or time.monotonic() > deadline:
                break
            time.sleep(0.1)
    finally:
        codes = [process.poll() for process in processes]
        for process in processes:
            process.kill()
            process.wait()
    logs = "\n".join((folder / f"log-{world_size}-{rank}.txt").read_text()[-3000:] for rank in range(world_size))
    assert codes == [0] * world_size, f"codes {codes} (None: hung for {HANG_S} s)\n{logs}"
    out = Path(job["out"])
    return {
        run["name"]: [json.loads((out / f"{run['name']}-{rank}.json").read_text()) for rank in range(world_size)]
        for run in job["runs"]
    }


def metrics(folder: Path) -> list[dict]:
    """A run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def make_data(folder: Path, glyphs: bool = False) -> None:
    """Fourteen samples: pictures of numbers (their digits' places: `glyphs`), text alone, one with two pictures."""
    records = []
    for number in range(14):
        image = Image.new("RGB", (40 + 8 * (number % 3), 24), "white")
        ImageDraw.Draw(image).text((2, 6), str(number * 37), fill="black")
        image.save(folder / f"{number}.png")
        if number % 4 == 3:
            talk, images = (f"What is {number}?", f"a number, {number}"), []
        elif number == 6:
            talk, images = ("<image> and <image>", "two"), ["5.png", "6.png"]
        else:
            talk, images = ("<image>\nRead.", str(number * 37)), [f"{number}.png"]
        turns = [{"from": "human", "value": talk[0]}, {"from": "gpt", "value": talk[1]}]
        record = {"id": str(number), "conversations": turns} | ({"image": images} if images else {})
        if glyphs and len(images) == 1:
            digits = enumerate(str(number * 37))
            record["glyphs"] = [[[digit, 2 + 6 * place, 6, 8 + 6 * place, 17] for place, digit in digits]]
        records.append(record)
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, records)))


def make_deepspeed(folder: Path) -> None:
    """The configurations that are shipped; everything is sharded, where small tensors would stay whole."""
    scripts = Path(__file__).parents[2] / "scripts"
    shutil.copy(scripts / "zero2.json", folder)
    for name in ("zero3.json", "zero3_4b.json"):
        values = json.loads((scripts / name).read_text())
        values["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        (folder / name).write_text(json.dumps(values))


def make_start(
    folder: Path, architecture: Architecture, name: str = "start", dtype: torch.dtype = torch.float32
) -> None:
    """The model and processor that runs begin with."""
    processor = hf.new_processor(architecture)
    hf.new_model(architecture, processor, seed=0).to(dtype).save_pretrained(folder / name)
    processor.save_pretrained(folder / name)
