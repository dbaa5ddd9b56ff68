"""`parsit serve` under load: throughput, waiting, memory, overload.

    python benchmarks/serve_load.py                       # tiny, random weights
    python benchmarks/serve_load.py --model runs/tiny
    python benchmarks/serve_load.py --shapes 0.6b --requests 0 --parses 0 --overload 0 --dtype bfloat16

A server is started as a process on this machine; the clients run beside it. Memory is the server's resident set, as it
says itself in /metrics, after a warm-up; its slope is that of a straight line through all samples. Seconds are of the
clock, and with `_cpu` of the server's processor time meanwhile (Linux): what a machine with nothing else to do would
take with one thread, as an upper bound, since the server's own threads are added up.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
from PIL import Image, ImageDraw

TIMEOUT_S = 3600
TEXT_0_6B = {  # Qwen3-0.6B
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One answer: its status, and seconds to its first token (the server's processor's as well) and to its end."""

    number: int
    status: int
    first_s: float
    first_cpu_s: float
    total_s: float
    tokens: int


@dataclass(frozen=True)
class Server:
    """The server as its clients see it: where it is, and its process."""

    http: httpx.AsyncClient
    pid: int

    def cpu_s(self) -> float:
        """Processor time of all its threads so far; Linux names a process's clock by its id."""
        return time.clock_gettime((~self.pid << 3) | 2)


def random_model(folder: Path, shapes: str) -> None:
    """A model with random weights: `tiny`, or `tiny`'s tower with a language model of Qwen3-0.6B's shapes."""
    import torch

    from parsit import hf
    from parsit.config import load_architecture

    architecture = load_architecture("tiny")
    if shapes == "0.6b":
        architecture = replace(architecture, text_config=architecture.text_config | TEXT_0_6B)
    processor = hf.new_processor(architecture)
    processor.save_pretrained(folder)
    if shapes == "0.6b":
        torch.set_default_dtype(torch.bfloat16)  # so that a third of the memory is needed
    hf.new_model(architecture, processor, seed=1).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)


def crop(number: int) -> str:
    """A line crop as a `data:` URL."""
    image = Image.new("RGB", (260 + number % 60, 36), "white")
    ImageDraw.Draw(image).text((6, 10), f"Invoice {number * 7919 % 100_000}  total {number % 977}.20", fill="black")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


async def ask(server: Server, number: int, max_tokens: int) -> Measured:
    """One streamed answer. Drawn, as a random model repeats itself otherwise and is stopped."""
    parts = [{"type": "image_url", "image_url": {"url": crop(number)}}, {"type": "text", "text": "Read."}]
    asked = {"messages": [{"role": "user", "content": parts}], "stream": True, "max_tokens": max_tokens}
    asked |= {"temperature": 1.0, "seed": number, "logprobs": True}
    started, started_cpu, first, first_cpu, tokens, ended = time.perf_counter(), server.cpu_s(), 0.0, 0.0, 0, False
    async with server.http.stream("POST", "/v1/chat/completions", json=asked) as answer:
        if answer.status_code != 200:
            await answer.aread()
            return Measured(number, answer.status_code, 0.0, 0.0, time.perf_counter() - started, 0)
        async for line in answer.aiter_lines():
            if '"top_logprobs"' in line:
                tokens += 1
                if tokens == 1:
                    first, first_cpu = time.perf_counter() - started, server.cpu_s() - started_cpu
            ended = ended or line == "data: [DONE]"
    return Measured(number, 200 if ended else 0, first, first_cpu, time.perf_counter() - started, tokens)


async def many(server: Server, count: int, concurrent: int, max_tokens: int, rss: list[float]) -> dict[str, float]:
    """`count` answers, `concurrent` at a time, summed up; the server's memory after every 50."""
    numbers = iter(range(count))
    found: list[Measured] = []

    async def worker() -> None:
        for number in numbers:
            found.append(await ask(server, number, max_tokens))
            if len(found) % 50 == 0:
                rss.append(await resident_mib(server))

    started, started_cpu = time.perf_counter(), server.cpu_s()
    await asyncio.gather(*(worker() for _ in range(concurrent)))
    return summary(found, concurrent, time.perf_counter() - started, server.cpu_s() - started_cpu)


async def resident_mib(server: Server) -> float:
    text = (await server.http.get("/metrics")).text
    [line] = [line for line in text.splitlines() if line.startswith("process_resident_memory_bytes ")]
    return float(line.split()[1]) / 2**20


def summary(found: list[Measured], wave: int, seconds: float, cpu_s: float) -> dict[str, float]:
    """Of first tokens those that did not begin together with all others: that happens once, at the start."""
    done = [one for one in found if one.status == 200]
    later = [one for one in done if one.number >= wave] or done
    firsts, firsts_cpu = [one.first_s for one in later], [one.first_cpu_s for one in later]
    totals, tokens = [one.total_s for one in done], sum(one.tokens for one in done)
    return {
        "requests": len(found),
        "answered": len(done),
        "refused": sum(one.status == 429 for one in found),
        "seconds": round(seconds, 2),
        "tokens_per_s": round(tokens / seconds, 1),
        "tokens_per_s_cpu": round(tokens / cpu_s, 1),
        "first_p50_s": round(float(np.percentile(firsts, 50)), 3),
        "first_p95_s": round(float(np.percentile(firsts, 95)), 3),
        "first_p50_s_cpu": round(float(np.percentile(firsts_cpu, 50)), 4),
        "first_p95_s_cpu": round(float(np.percentile(firsts_cpu, 95)), 4),
        "total_p50_s": round(float(np.percentile(totals, 50)), 3),
        "total_p95_s": round(float(np.percentile(totals, 95)), 3),
    }


def growth(rss: list[float], step: int) -> dict[str, float]:
    """The last memory, and its slope for each 100 requests, by least squares; samples are `step` requests apart."""
    slope = float(np.polyfit(np.arange(len(rss)) * step / 100, rss, 1)[0]) if len(rss) > 2 else float("nan")
    return {"rss_mib": round(rss[-1], 1), "rss_slope_mib_per_100": round(slope, 3)}


def sample_pdf(folder: Path) -> bytes:
    import typst

    lines = " \\ ".join(f"Line {n} of the invoice, total {n}.20" for n in range(1, 5))
    (folder / "page.typ").write_text(f"#set page(width: 10cm, height: 8cm)\n{lines}\n#pagebreak()\n{lines}")
    return typst.compile(folder / "page.typ")


async def parses(server: Server, pdf: bytes, count: int, rss: list[float]) -> dict[str, float]:
    """`count` PDFs, three at a time."""
    numbers, statuses = iter(range(count)), []

    async def worker() -> None:
        for _ in numbers:
            form = {"file": ("page.pdf", pdf, "application/pdf")}
            answer = await server.http.post("/v1/parse", files=form, data={"max_tokens": "4"})
            statuses.append(answer.status_code)
            if len(statuses) % 10 == 0:
                rss.append(await resident_mib(server))

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(3)))
    return {"parses": count, "read": statuses.count(200), "seconds": round(time.perf_counter() - started, 2)}


async def measure(url: str, pid: int, options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as client:
        server = Server(client, pid)
        await many(server, options.batch_size, options.batch_size, options.max_tokens, [])
        for concurrent in (1, options.batch_size):
            count = max(options.few, concurrent) + concurrent
            table[f"{concurrent} at a time"] = await many(server, count, concurrent, options.max_tokens, [])
        if options.requests:
            rss: list[float] = []
            await many(server, 200, options.concurrent, options.max_tokens, [])
            row = await many(server, options.requests, options.concurrent, options.max_tokens, rss)
            table[f"{options.concurrent} at a time"] = row | growth(rss, 50)
        if options.parses:
            pdf, rss = sample_pdf(folder), []
            await parses(server, pdf, 20, [])
            table["PDFs"] = await parses(server, pdf, options.parses, rss) | growth(rss, 10)
        if options.overload:
            room = options.overload * (options.batch_size + 64)
            table["overload"] = await many(server, room, room, 8, [])
            assert (await client.get("/health")).status_code == 200
        table["server"] = {"rss_mib": round(await resident_mib(server), 1)}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", help="a model's folder; without it one with random weights")
    parser.add_argument("--shapes", choices=["tiny", "0.6b"], default="tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--max_tokens", type=int, default=32)
    parser.add_argument("--few", type=int, default=32, help="answers of the comparison one at a time / many")
    parser.add_argument("--parses", type=int, default=200)
    parser.add_argument("--overload", type=int, default=10, help="times as many at once as there is room")
    parser.add_argument("--out", type=Path, help="JSON file for the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.model is None:
            random_model(folder / "model", options.shapes)
        words = [options.model or str(folder / "model"), "--port", "0", "--dtype", options.dtype]
        words += ["--batch_size", str(options.batch_size)]
        server = subprocess.Popen(
            [sys.executable, "-m", "parsit.cli", "serve", *words], stderr=subprocess.PIPE, text=True
        )
        assert server.stderr is not None
        try:
            url = server.stderr.readline().split(" is served at ")[1].split()[0]
            table = asyncio.run(measure(url, server.pid, options, folder))
        finally:
            server.terminate()
            server.wait()
    for name, values in table.items():
        print(f"{name:>14}: " + "  ".join(f"{key} {value}" for key, value in values.items()))
    if options.out:
        options.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
