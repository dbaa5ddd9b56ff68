"""One reader of benchmarks/quality.py in a process of its own: `quality_worker.py SYSTEM ASKED.json ANSWER.json`.

SYSTEM is `parsit`, `rapidocr` or `ctc` (a file of benchmarks/ctc_peer.py, for lines alone); each is imported only where
it is asked for, so that any environment with that one can run this file.

ASKED is `{"images", "unit", "model", "threads"}`; the answer has a text and a confidence (or null)
for each image, and the seconds, of the clock and of the processor, that reading took once all was loaded.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

# A text and how sure the reader is of it, for each of some images.
Read = Callable[[list[str]], list[tuple[str, float | None]]]


def parsit_reader(unit: str, model: str, threads: int) -> Read:
    """A page as `parsit parse` reads it; a line as the model reads one piece of a page."""
    import torch

    from parsit.parse.engine import load_engine
    from parsit.parse.reader import MAX_NEW_TOKENS, Reader
    from parsit.types import ImageRef, Turn

    torch.set_num_threads(threads)
    engine = load_engine(model)

    def read(images: list[str]) -> list[tuple[str, float | None]]:
        if unit == "page":
            pages = [Reader(engine).parse(image).pages[0] for image in images]
            return [(page.text, page.confidence.mean if page.confidence else None) for page in pages]
        asked = [(Turn("user", (ImageRef(Path(image)), engine.read_prompt)),) for image in images]
        answers = engine.generate(asked, max_new_tokens=MAX_NEW_TOKENS["lines"])
        return [(answer.text, answer.confidence.mean if answer.confidence else None) for answer in answers]

    return read


def rapidocr_reader(unit: str, model: str, threads: int) -> Read:
    """RapidOCR with the models in its wheel; a line goes to its recogniser alone."""
    from rapidocr import RapidOCR

    number = "EngineConfig.onnxruntime.intra_op_num_threads"
    engine = RapidOCR(params={"Global.log_level": "error", number: threads})
    how = {"use_det": False, "use_cls": False, "use_rec": True} if unit == "line" else {}

    def read(images: list[str]) -> list[tuple[str, float | None]]:
        results = [engine(image, **how) for image in images]
        return [("\n".join(result.txts or ()), mean(result.scores or ())) for result in results]

    return read


def ctc_reader(unit: str, model: str, threads: int) -> Read:
    """The classical reader of benchmarks/ctc_peer.py, from the file that it was saved in."""
    import torch
    from ctc_peer import Peer

    assert unit == "line", "it reads lines"
    torch.set_num_threads(threads)
    peer = Peer.load(model)
    return lambda images: [(text, None) for text in peer.read([Path(image) for image in images])]


def mean(scores: tuple[float, ...]) -> float | None:
    return sum(map(float, scores)) / len(scores) if scores else None


READERS = {"parsit": parsit_reader, "rapidocr": rapidocr_reader, "ctc": ctc_reader}


def main(system: str, asked_file: str, answer_file: str) -> None:
    asked = json.loads(Path(asked_file).read_text())
    read = READERS[system](asked["unit"], asked["model"], asked["threads"])
    read(asked["images"][:1])
    wall, processor = time.perf_counter(), time.process_time()
    found = read(asked["images"])
    answer = {
        "texts": [text for text, _ in found],
        "confidences": [confidence for _, confidence in found],
        "wall_s": time.perf_counter() - wall,
        "processor_s": time.process_time() - processor,
    }
    Path(answer_file).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
