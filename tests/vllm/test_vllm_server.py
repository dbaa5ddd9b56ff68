"""One client script, the real `openai` client, gets the same answers from vLLM's server and from `parsit serve`."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress

import openai
import pytest
from vllm_support import SCHEMA, model_of, picture

pytestmark = pytest.mark.vllm
HANG_S = 1100
HOW = {"model": "tiny", "temperature": 0, "max_tokens": 24}


def shown(*sizes):
    """Parts of a message with images of these sizes."""
    parts = []
    for seed, size in enumerate(sizes):
        buffer = io.BytesIO()
        picture(*size, seed).save(buffer, format="PNG")
        url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def said(*parts):
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What is the total?"}]}]


def script(client):
    """What a program might ask, and what comes back."""
    ask = client.chat.completions.create
    found = {}
    for name, messages in {
        "text": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        "one image": said(*shown((150, 90))),
        "a line": said(*shown((300, 24))),
        "two images": said(*shown((64, 64), (70, 120))),
        "several turns": [*said(*shown((40, 40))), {"role": "assistant", "content": "7"},
                          {"role": "user", "content": "Really?"}],
    }.items():  # fmt: skip
        answer = ask(messages=messages, logprobs=True, top_logprobs=3, **HOW)
        choice = answer.choices[0]
        scores = [round(score.logprob, 3) for score in choice.logprobs.content][: answer.usage.completion_tokens]
        found[name] = [choice.message.content, choice.finish_reason, answer.usage.prompt_tokens, scores]
    pieces = ask(messages=said(*shown((150, 90))), stream=True, **HOW)
    found["streamed"] = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    ruled = ask(messages=said(*shown((150, 90))), response_format=form, **HOW | {"max_tokens": 40}).choices[0]
    found["schema"] = [json.loads(ruled.message.content), ruled.finish_reason]
    stop = found["one image"][0][4:7]
    found["stop"] = ask(messages=said(*shown((150, 90))), stop=[stop], **HOW).choices[0].message.content
    return found


@contextmanager
def running(words, log):
    """A server at a free port of this machine, until it answers; its log is shown if it ends instead."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, *words, "--port", str(port)], stdout=out, stderr=out, env=environment
        )
        try:
            deadline = time.monotonic() + HANG_S
            while True:
                assert server.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
                time.sleep(0.5)
            yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=HANG_S, max_retries=0)
        finally:
            server.terminate()
            server.wait(120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    model, processor = model_of("tiles")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def parsit_serve(folder, *more):
    return [
        "-c",
        "from parsit.cli.main import main; main()",
        "serve",
        str(folder),
        "--model_name",
        "tiny",
        "--dtype",
        "float32",
        *more,
    ]


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    with running(parsit_serve(folder), tmp_path_factory.mktemp("log") / "log") as client:
        return script(client)


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, theirs in expected.items():
        if isinstance(theirs, list) and len(theirs) == 4:
            assert found[name][:3] == theirs[:3], name
            assert found[name][3] == pytest.approx(theirs[3], abs=2e-3), name
        else:
            assert found[name] == theirs, name
    assert len({str(answer) for answer in found.values()}) >= 6, "all is answered alike"


def test_vllms_own_server(folder, expected, tmp_path):
    words = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "tiny"]
    words += ["--dtype", "float32", "--max-num-seqs", "4", "--enforce-eager", "--generation-config", "vllm"]
    words += ["--no-enable-prefix-caching", "--mm-processor-cache-gb", "0"]
    words += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    with running(words, tmp_path / "log") as client:
        found = script(client)
        # vLLM's own way from a schema has no spaces in JSON, behind which a random model writes something else.
        ruled, why = found.pop("schema")
        assert why == "stop"
        assert ruled.keys() == SCHEMA["properties"].keys()
        assert ruled["kind"] in SCHEMA["properties"]["kind"]["enum"]
        same(found, {name: answer for name, answer in expected.items() if name != "schema"})
        for token in ("<|im_end|>", "<|image_pad|>"):
            with pytest.raises(openai.BadRequestError, match="taken for structure"):
                client.chat.completions.create(messages=[{"role": "user", "content": f"a{token}b"}], **HOW)


def test_parsit_serve_with_vllm_behind_it(folder, expected, tmp_path):
    with running(parsit_serve(folder, "--engine", "vllm", "--batch_size", "4"), tmp_path / "log") as client:
        same(script(client), expected)
