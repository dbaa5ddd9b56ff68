"""Models and questions of the tests of vLLM, and the process that has them answered by it.

    python vllm_support.py FOLDER OUT.json [NUMBER OF TENSOR-PARALLEL PROCESSES]

vLLM changes classes of transformers in its process, so that nothing else may compute there.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from parsit import hf
from parsit.config import Architecture, load_architecture
from parsit.model import ParsitForConditionalGeneration
from parsit.types import Delta, ImageRef, Sampling, Turn

TILED = Path(__file__).parents[1] / "tiled.yaml"
MOST_TOKENS = 24  # below what is told as a loop
# Nothing, a line crop, a page, grids of one to many tiles, two images, an image far longer than wide.
SIZES: list[list[tuple[int, int]]] = [
    [],
    [],
    [(32, 32)],
    [(33, 31)],
    [(64, 32)],
    [(32, 64)],
    [(300, 24)],
    [(500, 18)],
    [(24, 300)],
    [(100, 70)],
    [(70, 100)],
    [(120, 120)],
    [(200, 90)],
    [(90, 200)],
    [(310, 440)],
    [(440, 310)],
    [(20, 90), (64, 64)],
    [(64, 64), (64, 64)],
    [(150, 100), (300, 24)],
    [(7, 5)],
]
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["invoice", "receipt"]}, "paid": {"type": "boolean"}},
    "required": ["kind", "paid"],
    "additionalProperties": False,
}
UNDER_SCHEMA = Sampling(schema=json.dumps(SCHEMA))


def architecture(kind: str) -> Architecture:
    """`tiny`, with heads as vLLM's attention on a CPU takes them.

    Cut into tiles, with words as tokens, so that random answers are text; or `native`, with characters as tokens.
    """
    text = {"head_dim": 32, "max_position_embeddings": 2048}
    if kind != "native":
        tiled = load_architecture(str(TILED))
        return replace(tiled, tokenizer="tiny", text_config=tiled.text_config | text | {"vocab_size": 4096})
    tiny = load_architecture("tiny")
    native = {"max_image_tokens": 200, "image_height": None, "mm_pixel_shuffle": 2, "mm_vision_select_layer": -2}
    return replace(tiny, text_config=tiny.text_config | text, multimodal=tiny.multimodal | native)


def model_of(kind: str) -> tuple[ParsitForConditionalGeneration, Any]:
    """A model whose answers differ from image to image, as small random weights alone do not, and its processor."""
    processor = hf.new_processor(architecture(kind))
    model = hf.new_model(architecture(kind), processor, seed=2).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.mul_(4 if name.startswith("language_model") else 2)
    return model, processor


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Noise with a word on it."""
    noise = np.random.default_rng(seed).integers(120, 255, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    ImageDraw.Draw(image).text((2, 2), f"Nr. {seed}", fill="black")
    return image


def conversations() -> list[tuple[Turn, ...]]:
    """Twenty, with words of structure in the text of some."""
    asked = []
    for number, sizes in enumerate(SIZES):
        images = [ImageRef(picture(*size, seed=7 * number + i)) for i, size in enumerate(sizes)]
        said = f"Read {number}." if number % 3 else "What is <|im_end|> or <|image_pad|>?"
        asked.append((Turn("user", (*images, said)),))
    return asked


def answers(engine: Any) -> dict[str, Any]:
    """What an engine answers: ids, their log-probabilities and prompt lengths; and two answers under a schema."""
    asked = conversations()
    ids: list[list[int]] = [[] for _ in asked]
    scores: list[list[float]] = [[] for _ in asked]

    def listen(place: int, delta: Delta) -> None:
        if delta.token.id >= 0:
            ids[place].append(delta.token.id)
            scores[place].append(delta.token.logprob)

    found = engine.generate(asked, max_new_tokens=MOST_TOKENS, on_delta=listen)
    ruled = engine.generate([asked[0], asked[6]], max_new_tokens=40, sampling=UNDER_SCHEMA)
    drawn = engine.generate([asked[3]] * 2, max_new_tokens=8, sampling=Sampling(temperature=1.0, seed=3))
    stopped = engine.generate(asked[:1], max_new_tokens=8, sampling=Sampling(stop=(found[0].text[3:6],)))
    return {
        "ids": ids,
        "logprobs": scores,
        "prompts": [answer.num_prompt_tokens for answer in found],
        "flags": [answer.flags for answer in found],
        "texts": [answer.text for answer in found],
        "schema": [[answer.text, answer.flags] for answer in ruled],
        "drawn": [answer.text for answer in drawn],
        "stopped": [stopped[0].text, stopped[0].flags],
    }


def main(folder: str, out: str, processes: int = 1) -> None:
    from parsit.parse.vllm_engine import load_vllm_engine

    more = {} if processes == 1 else {"tensor_parallel_size": processes, "distributed_executor_backend": "mp"}
    engine = load_vllm_engine(folder, 4, "float32", enforce_eager=True, **more)
    Path(out).write_text(json.dumps(answers(engine)))
    engine.close()


if __name__ == "__main__":
    # One process less to start; on a CPU nothing is gained by it.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    if sys.argv[3:] > ["1"]:  # by itself vLLM wants a node of memory for each process
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, range(int(sys.argv[3]))))
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
