"""What making a page's tiles costs a loader's worker, as bytes and as the tower's numbers.

    python benchmarks/tiles.py

An A4 page of noise at 150 dpi in the tiles of qwen3-1.7b, one thread, medians of 9 in one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from parsit import hf
from parsit.config import load_architecture


def median_s(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(9):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    torch.set_num_threads(1)
    images = hf.new_processor(replace(load_architecture("qwen3-1.7b"), tokenizer="tiny")).image_processor
    page = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1754, 1240, 3), dtype=np.uint8))
    pixels = images.pixels(page)
    for name, work, size in (
        ("bytes", lambda: images.pixels(page), pixels.nbytes),
        ("the tower's numbers", lambda: images.tiles(page), images.tiles(page).nbytes),
    ):
        print(f"{name.ljust(24)}{median_s(work):.3f} s a page   {size / 1e6:.1f} MB through workers and bus")


if __name__ == "__main__":
    main()
