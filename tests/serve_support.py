"""What tests of the server share: a running server, small images, messages."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import dataclass

import httpx
import numpy as np
import openai
from PIL import Image

from parsit.parse.engine import ModelEngine
from parsit.serve.batcher import Batcher

HANG_S = 120  # for what hangs; nothing is as slow as this


@dataclass
class Served:
    """A running server."""

    url: str
    port: int
    batcher: Batcher
    model: ModelEngine

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=HANG_S)

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=HANG_S)

    def wait_until_idle(self) -> None:
        """Until nothing is written and nothing waits."""
        deadline = time.monotonic() + HANG_S
        while self.batcher.load() != (0, 0):
            assert time.monotonic() < deadline, f"rows are still held: {self.batcher.load()}"
            time.sleep(0.01)


def noise(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def question(text: str, *images: Image.Image) -> list[dict]:
    parts = [{"type": "image_url", "image_url": {"url": data_url(png(image))}} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
