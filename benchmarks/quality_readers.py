"""The readers that benchmarks/quality.py sets side by side: a model of ours, tesseract, RapidOCR, a classical one."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Unit = Literal["line", "page"]
WORKER = Path(__file__).with_name("quality_worker.py")
SEGMENTATION = {"page": "3", "line": "7"}  # tesseract's --psm: find everything; one line of text


@dataclass(frozen=True)
class Answers:
    """A text for each image, how sure the reader was (0 to 1; None: it does not say), and how long it took."""

    texts: list[str]
    confidences: list[float | None]
    wall_s: float
    processor_s: float


@dataclass(frozen=True)
class System:
    """A reader: `kind` is parsit, rapidocr, tesseract or ctc; `path` a model's place, or an environment's Python."""

    name: str
    kind: str
    path: str = ""

    def reads(self, unit: Unit) -> bool:
        """Whether it can be asked: the classical reader cannot cut a page."""
        return unit == "line" or self.kind != "ctc"

    def read(self, images: list[Path], unit: Unit, threads: int) -> Answers:
        """Raises `CalledProcessError` where the reader fails."""
        if self.kind == "tesseract":
            return tesseract(images, unit, threads)
        python = self.path if self.kind == "rapidocr" else sys.executable
        asked = {"images": [str(image) for image in images], "unit": unit, "model": self.path, "threads": threads}
        with tempfile.TemporaryDirectory() as temporary:
            files = [Path(temporary, name) for name in ("asked.json", "answer.json")]
            files[0].write_text(json.dumps(asked))
            subprocess.run([python, WORKER, self.kind, *files], check=True, env=environment(threads))
            return Answers(**json.loads(files[1].read_text()))


def tesseract(images: list[Path], unit: Unit, threads: int) -> Answers:
    """All images in one process; its seconds have the reading of its model in them (about 0.1 s in all)."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("".join(f"{image.absolute()}\n" for image in images))
        listed.flush()
        command = ["tesseract", listed.name, "stdout", "-l", "eng", "--psm", SEGMENTATION[unit]]
        wall, processor = time.perf_counter(), children_s()
        run = subprocess.run(command, check=True, capture_output=True, env=environment(threads))
        wall, processor = time.perf_counter() - wall, children_s() - processor
    texts = run.stdout.decode(errors="replace").split("\f")[: len(images)]
    assert len(texts) == len(images), f"tesseract gave {len(texts)} texts for {len(images)} images"
    return Answers(texts, [None] * len(texts), wall, processor)


def children_s() -> float:
    """Seconds of the processor that ended child processes have taken."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def environment(threads: int) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_THREAD_LIMIT": str(threads)}
