"""`parsit serve` as a process: what it refuses before the model is loaded, what it serves, how it leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from parsit import hf
from parsit.cli.serve import main
from parsit.types import InputError, UsageError
from serve_support import HANG_S, question


@pytest.fixture(scope="module")
def folder(mini, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "mini"
    processor = hf.new_processor(mini)
    processor.save_pretrained(folder)
    hf.new_model(mini, processor, seed=2).save_pretrained(folder)
    return folder


def refused(*words, **environment) -> tuple[int, str]:
    command = [sys.executable, "-m", "parsit.cli", "serve", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=HANG_S, env=os.environ | environment, check=False
    )
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr.removeprefix("parsit: ").strip()


def test_an_address_that_others_reach_needs_a_token(folder, tmp_path):
    code, said = refused(str(folder), "--host", "0.0.0.0")
    assert code == 2
    assert said == "--host 0.0.0.0 can be reached by others: give --token_file FILE or set PARSIT_TOKEN"
    (tmp_path / "empty").write_text("\n")
    code, said = refused(str(folder), "--host", "0.0.0.0", "--token_file", str(tmp_path / "empty"))
    assert (code, "a token of printable ASCII characters" in said) == (1, True)
    with pytest.raises(InputError, match="none: cannot be read: No such file"):
        main([str(folder), "--token_file", str(tmp_path / "none")])


def test_a_port_that_is_taken_is_said_in_a_line(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = refused(str(folder), "--port", str(port))
    assert (code, said) == (1, f"cannot listen on 127.0.0.1, port {port}: Address already in use")


def test_numbers_that_let_nothing_through_are_refused(folder):
    for flag in ("--batch_size", "--max_body_mb", "--max_pages", "--max_tokens", "--max_seconds", "--max_parses"):
        with pytest.raises(UsageError, match=f"^{flag} 0.* lets nothing through"):
            main([str(folder), flag, "0"])
    for flag, value in (("--max_queue", "-1"), ("--port", "70000")):
        with pytest.raises(UsageError, match=f"^{flag} {value} "):
            main([str(folder), flag, value])


def start(*words) -> tuple[subprocess.Popen, str]:
    """A server and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "parsit.cli", "serve", *words, "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    line = process.stderr.readline()
    assert " is served at http://" in line, line + process.stderr.read()
    return process, line.split(" is served at ")[1].split()[0]


@pytest.mark.slow
def test_it_serves_and_ctrl_c_ends_running_answers(folder):
    process, url = start(str(folder), "--model_name", "reader", "--dtype", "bfloat16", "--max_tokens", "900")
    try:
        with httpx.Client(base_url=url, timeout=HANG_S) as http:
            assert http.get("/v1/models").json()["data"][0]["id"] == "reader"
            asked = {"messages": question("Read."), "stream": True, "temperature": 1.0}
            with http.stream("POST", "/v1/chat/completions", json=asked) as stream:
                lines = stream.iter_lines()
                assert json.loads(next(lines).removeprefix("data: "))["choices"]
                process.send_signal(signal.SIGINT)
                last = [line for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the server ends"
        assert process.wait(HANG_S) == 130
        assert process.stderr.read() == "parsit: interrupted\n"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_the_limits_of_the_command_line_hold(folder, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    limits = {"max_body_mb": 1, "max_pages": 1, "max_tokens": 2, "max_seconds": 60, "max_queue": 0, "max_parses": 1}
    words = [f"--{name}={value}" for name, value in limits.items()]
    words += ["--token_file", str(tmp_path / "token"), "--batch_size", "1", "--image_hosts", "localhost"]
    process, url = start(str(folder), "--device", "cpu", "--host", "0.0.0.0", *words)
    try:
        headers = {"Authorization": "Bearer secret"}
        with httpx.Client(base_url=url.replace("0.0.0.0", "127.0.0.1"), timeout=HANG_S, headers=headers) as http:
            answer = http.post("/v1/chat/completions", json={"messages": question("Read.")}).json()
            assert answer["usage"]["completion_tokens"] == 2
            assert http.post("/v1/files", files={"file": b"x" * (1 << 20)}).status_code == 413
            part = {"type": "image_url", "image_url": {"url": "http://localhost/a.png"}}
            asked = {"messages": [{"role": "user", "content": [part]}]}
            assert "internal address" in http.post("/v1/chat/completions", json=asked).text
            pages = http.post("/v1/parse", files={"file": b"x"}, data={"pages": "1-2"})
            assert "at most 1 at a time" in pages.text
            assert http.get("/v1/models", headers={"Authorization": "Bearer other"}).status_code == 401
        process.terminate()
        assert process.wait(HANG_S) == 130
    finally:
        process.kill()
        process.wait()
