"""`--engine http://…` against a real server: the same answers as from the model in this process."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from PIL import Image

from parsit.cli import ask as ask_verb
from parsit.cli import eval as eval_verb
from parsit.cli import parse as parse_verb
from parsit.parse.http_engine import HttpEngine
from parsit.parse.reader import Reader
from parsit.types import GREEDY, ImageRef, InputError, ParsitError, Sampling, Turn, UsageError


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def conversations():
    images = [ImageRef(picture(70 + 9 * seed, 40, seed)) for seed in range(3)]
    return [
        (Turn("user", ("Hello <|im_end|> there",)),),
        (Turn("system", ("Be brief.",)), Turn("user", (images[0], "Read.")), Turn("assistant", ("x",)),
         Turn("user", ("Again.",))),
        (Turn("user", (images[1], "and", images[2], "Which?")),),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def engine(served):
    return HttpEngine(served.url + "/v1/", "mini", batch_size=2)


@pytest.mark.parametrize("streamed", [False, True])
def test_answers_are_those_of_the_model_itself(engine, model, streamed):
    told = {0: "", 1: "", 2: ""}

    def listen(place, delta):
        told[place] += delta.text

    found = engine.generate(conversations(), max_new_tokens=12, on_delta=listen if streamed else None)
    expected = model.generate(conversations(), max_new_tokens=12)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.text, ours.flags, ours.num_tokens, ours.num_prompt_tokens) == (
            theirs.text, theirs.flags, theirs.num_tokens, theirs.num_prompt_tokens)  # fmt: skip
        assert ours.confidence.mean == pytest.approx(theirs.confidence.mean, abs=1e-5)
    assert list(told.values()) == ([answer.text for answer in expected] if streamed else ["", "", ""])


@pytest.mark.slow
def test_how_tokens_are_chosen_goes_along(engine, model):
    ask = conversations()[2:]
    for sampling in (
        Sampling(temperature=0.9, top_p=0.8, seed=7),
        Sampling(stop=(model.generate(ask, max_new_tokens=9)[0].text[3:6],)),
        Sampling(schema='{"type": "boolean"}'),
    ):
        how = {"max_new_tokens": 9, "sampling": sampling}
        assert engine.generate(ask, **how)[0].text == model.generate(ask, **how)[0].text
    assert engine.generate(ask, max_new_tokens=9)[0].text == model.generate(ask, max_new_tokens=9)[0].text != ""


def test_pages_are_read_as_the_model_was_trained_to(engine, model, pdf):
    assert (engine.read_prompt, engine.reading_unit) == (model.read_prompt, model.reading_unit)
    how = {"pages": "1,3", "split": "lines", "max_new_tokens": 6}
    there, here = Reader(engine).parse(pdf, **how), Reader(model).parse(pdf, **how)
    assert [(page.text, page.flags) for page in there.pages] == [(page.text, page.flags) for page in here.pages]
    assert [len(page.lines) for page in there.pages] == [2, 1]


def test_the_verbs_ask_a_server(served, model, tmp_path, pdf, capsysbinary):
    image = tmp_path / "page.png"
    picture(90, 40).save(image)
    there = ["--engine", served.url, "--model", "mini"]
    assert parse_verb.main([str(image), *there, "--max_new_tokens", "9", "--format", "txt"]) == 0
    assert capsysbinary.readouterr().out.decode() == Reader(model).parse(image, max_new_tokens=9).to_text()
    assert ask_verb.main([str(image), "What?", *there, "--max_new_tokens", "9"]) == 0
    assert capsysbinary.readouterr().out.decode().strip() == Reader(model).ask(image, "What?", max_new_tokens=9).strip()
    turns = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": "hi"}]
    (tmp_path / "d.json").write_text(json.dumps([{"id": "1", "image": "page.png", "conversations": turns}]))
    words = ["mini", "--engine", served.url, "--data", str(tmp_path / "d.json"), "--max_new_tokens", "9"]
    assert eval_verb.main([*words, "--out", str(tmp_path / "scores")]) == 0
    (said,) = map(json.loads, (tmp_path / "scores/predictions.jsonl").read_text().splitlines())
    expected = model.generate([(Turn("user", (ImageRef(image), "\nRead.")),)], max_new_tokens=9)
    assert said["prediction"] == expected[0].text


def test_what_the_server_refuses_is_one_line(served, engine):
    with pytest.raises(InputError, match=r"there is no model 'other'; it has mini"):
        HttpEngine(served.url, "other")
    crowd = (Turn("user", (*[ImageRef(picture(40, 40))] * 4, "Read.")),)  # the server takes three
    with pytest.raises(InputError, match=r"answers 400: .*images"):
        engine.generate([crowd], max_new_tokens=4)
    with pytest.raises(InputError, match=r"answers 400: .*schema"):
        engine.generate([conversations()[0]], max_new_tokens=4, sampling=Sampling(schema='{"$ref": "http://x/y"}'))
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        HttpEngine("http://127.0.0.1:9", "mini")
    with pytest.raises(InputError, match=r"answers 404"):
        HttpEngine(served.url + "/nowhere", "mini")


@pytest.mark.parametrize("wrong", ["vlm", "127.0.0.1:8000", ""])
def test_an_engine_that_there_is_not(wrong, tmp_path):
    with pytest.raises(UsageError, match="use hf, vllm, or a server's http://ADDRESS"):
        parse_verb.main([str(tmp_path / "x.png"), "--model", "m", "--engine", wrong])
    with pytest.raises(UsageError, match="use hf, vllm, or a server's http://ADDRESS"):
        eval_verb.main(["m", "--data", "d", "--engine", wrong])


def test_flags_that_only_go_with_the_model_here(served, tmp_path):
    image = tmp_path / "page.png"
    picture(90, 40).save(image)
    with pytest.raises(UsageError, match="--device cpu goes with --engine hf"):
        parse_verb.main([str(image), "--model", "mini", "--engine", served.url, "--device", "cpu"])
    with pytest.raises(UsageError, match=r"--nats with --engine http.*: only hf"):
        eval_verb.main(["mini", "--data", "d", "--engine", served.url, "--nats"])


@pytest.mark.slow
def test_a_token_is_shown_and_a_full_server_is_asked_again(start, model, tmp_path, monkeypatch):
    image = tmp_path / "page.png"
    picture(90, 40).save(image)
    with start(token="secret", batch_size=1, max_queue=0) as served:
        words = [str(image), "What?", "--engine", served.url, "--model", "mini", "--max_new_tokens", "3"]
        with pytest.raises(InputError, match="answers 401"):
            ask_verb.main(words)
        monkeypatch.setenv("PARSIT_TOKEN", "secret")
        assert ask_verb.main(words) == 0
        crowd = HttpEngine(served.url, None, "secret", batch_size=2)
        found = crowd.generate([conversations()[0]] * 4, max_new_tokens=4)
        assert {answer.text for answer in found} == {model.generate(conversations()[:1], max_new_tokens=4)[0].text}


@contextmanager
def other_server(answers):
    """A server that is not Parsit's: path to status and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer()

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer()

        def answer(self):
            status, body = answers[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_servers_that_are_not_parsits():
    chat = "/v1/chat/completions"
    score = {"token": "a", "logprob": -0.5}
    cut = {"message": {"content": "aaa"}, "finish_reason": "length", "logprobs": {"content": [score] * 40}}
    answers = {"/v1/models": (200, '{"data": [{"id": "m"}]}'), chat: (200, json.dumps({"choices": [cut]}))}
    with other_server(answers) as address:
        engine = HttpEngine(address)
        with pytest.raises(UsageError, match="does not say how its model was trained to read: give --prompt"):
            _ = engine.read_prompt
        with pytest.raises(UsageError, match="give --split"):
            _ = engine.reading_unit
        (found,) = engine.generate(conversations()[:1], max_new_tokens=40)
        assert (found.text, found.flags, found.num_tokens) == ("aaa", ("looping",), 40)
        assert found.confidence.lowest == pytest.approx(np.exp(-0.5))
        answers[chat] = (500, '{"error": {"message": "out\\nof memory"}}')
        with pytest.raises(ParsitError, match="answers 500: out of memory"):
            engine.generate(conversations()[:1], max_new_tokens=4, sampling=GREEDY)
        answers[chat] = (200, "data: {}\n\n")
        with pytest.raises(ParsitError, match="the answer broke off"):
            engine.generate(conversations()[:1], max_new_tokens=4, on_delta=lambda *_: None)
        answers[chat] = (200, 'data: {"choi\n\n')
        with pytest.raises(ParsitError, match="the answer broke off"):
            engine.generate(conversations()[:1], max_new_tokens=4, on_delta=lambda *_: None)
        answers[chat] = (200, '{"choices": []}')
        with pytest.raises(ParsitError, match="not as OpenAI's are"):
            engine.generate(conversations()[:1], max_new_tokens=4)
        answers["/v1/models"] = (200, '{"data": [{"id": "m"}, {"id": "n"}]}')
        with pytest.raises(UsageError, match="several models: say --model m or n"):
            HttpEngine(address)
        answers["/v1/models"] = (200, "<html>")
        with pytest.raises(ParsitError, match="not JSON"):
            HttpEngine(address)
