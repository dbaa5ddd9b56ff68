"""`/v1/chat/completions` with the real `openai` client: the model's own answers, whole, streamed, many at a time."""

from __future__ import annotations

import json
import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from parsit.types import ImageRef, Turn
from serve_support import HANG_S, data_url, noise, png, question


def ask(served, messages, **options):
    return served.client.chat.completions.create(model="mini", messages=messages, **options)


def expected(served, text, *images, max_new_tokens):
    """What the model answers when nobody else asks, by transformers' own `generate`."""
    model = served.model
    turns = (Turn("user", (*map(ImageRef, images), text)),)
    features = model.processor.encode(turns, add_generation_prompt=True)
    ids = model.model.generate(
        features.input_ids[None],
        pixel_values=features.pixel_values,
        image_sizes=features.image_sizes if images else None,
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )[0, len(features.input_ids) :]
    return model.processor.tokenizer.decode(ids, skip_special_tokens=True), len(features.input_ids)


@pytest.mark.parametrize("num_images", [0, 1, 2])
def test_an_answer_is_the_models_own(served, num_images):
    images = [noise(seed) for seed in range(num_images)]
    answer = ask(served, question("What is this?", *images), max_tokens=9)
    text, num_prompt = expected(served, "What is this?", *images, max_new_tokens=9)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].parsit["flags"] == ["truncated"]
    assert 0 < answer.choices[0].parsit["confidence"]["lowest"] <= answer.choices[0].parsit["confidence"]["mean"] <= 1
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (num_prompt, 9)


def test_a_stream_gives_the_same_text_piece_by_piece(served):
    messages = question("Read.", noise(5))
    whole = ask(served, messages, max_tokens=20)
    chunks = list(ask(served, messages, max_tokens=20, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 10


def test_many_at_a_time_get_what_each_gets_alone(served):
    asked = [(f"Question {seed}", noise(seed, 30 + 9 * seed, 80 - 5 * seed), 3 + 4 * (seed % 5)) for seed in range(12)]

    def one(case):
        text, image, count = case
        return ask(served, question(text, image), max_tokens=count).choices[0].message.content

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(one, asked))
    assert answers == [expected(served, text, image, max_new_tokens=count)[0] for text, image, count in asked]


def test_logprobs_are_those_of_the_tokens(served):
    answer = ask(served, question("Read."), max_tokens=4, logprobs=True, top_logprobs=2).choices[0]
    content = answer.logprobs.content
    assert len(content) == 4
    assert b"".join(bytes(one.bytes) for one in content).decode() == answer.message.content
    assert all(one.logprob == pytest.approx(one.top_logprobs[0].logprob, abs=1e-4) for one in content)
    mean = sum(math.exp(one.logprob) for one in content) / 4
    assert answer.parsit["confidence"]["mean"] == pytest.approx(mean)
    assert ask(served, question("Read."), max_tokens=4).choices[0].logprobs is None


def test_temperature_seed_and_stop(served):
    warm = {"max_tokens": 12, "temperature": 1.0}
    first, second, other = (
        ask(served, question("Read."), seed=seed, **warm).choices[0].message.content for seed in (1, 1, 2)
    )
    assert first == second != other
    stopped = ask(served, question("Read."), seed=1, stop=first[4:7], **warm).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (first[: first.index(first[4:7])], "stop")


SCHEMA = {
    "type": "object",
    "properties": {"total": {"type": "integer"}, "paid": {"type": "boolean"}},
    "required": ["total", "paid"],
    "additionalProperties": False,
}


@pytest.mark.slow
def test_an_answer_under_a_schema_parses_or_the_cut_is_said(served):
    form = {"type": "json_schema", "json_schema": {"name": "bill", "schema": SCHEMA, "strict": True}}
    for seed in range(4):
        how = {"response_format": form, "temperature": 1.0, "seed": seed}
        choice = ask(served, question("Read.", noise(1)), max_tokens=200, **how).choices[0]
        if choice.finish_reason == "stop":
            value = json.loads(choice.message.content)
            assert (set(value), type(value["paid"])) == ({"total", "paid"}, bool)
        else:
            assert choice.parsit["flags"] in (["truncated"], ["looping"])
    cut = ask(served, question("Read."), max_tokens=3, response_format=form).choices[0]
    assert (cut.finish_reason, cut.parsit["flags"]) == ("length", ["truncated"])
    whole = ask(served, question("Read."), max_tokens=60, response_format={"type": "json_object"}).choices[0]
    assert whole.message.content.startswith("{")
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    with pytest.raises(openai.BadRequestError, match="JSON schema"):
        ask(served, question("Read."), response_format=bad)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 2}, "n is not supported"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty is not supported"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"stop": [""]}, "stop: at most 8 texts"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the last message must be the user's"),
        ({"response_format": {"type": "json_schema"}}, "json_schema is missing"),
        ({"messages": question("?", *[noise(1)] * 4)}, "at most 3 images"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(served, changes, said):
    asked = {"model": "mini", "messages": question("Read.")} | changes
    answer = served.http.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert said in error["message"]
    assert "\n" not in error["message"]


def test_fields_that_ask_for_nothing_are_taken(served):
    idle = {"n": 1, "tools": [], "frequency_penalty": 0, "logit_bias": None, "user": "me", "top_p": None, "stop": None}
    assert served.http.post(
        "/v1/chat/completions", json={"messages": question("Read."), "max_tokens": 2} | idle
    ).is_success


def test_another_model_is_not_found(served):
    with pytest.raises(openai.NotFoundError, match="this server has 'mini'"):
        served.client.chat.completions.create(model="gpt-4o", messages=question("Read."))
    assert [model.id for model in served.client.models.list()] == ["mini"]


def test_an_uploaded_file_is_shown_until_it_is_deleted(served, pdf):
    image = noise(8)
    stored = served.client.files.create(file=("scan.png", png(image)), purpose="vision")
    part = {"type": "file", "file": {"file_id": stored.id}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "Read."}]}]
    answer = ask(served, messages, max_tokens=5)
    assert answer.choices[0].message.content == expected(served, "Read.", image, max_new_tokens=5)[0]
    served.client.files.delete(stored.id)
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        ask(served, messages, max_tokens=5)
    enclosed = {"type": "file", "file": {"file_data": data_url(pdf.read_bytes(), "application/pdf"), "filename": "r"}}
    answer = ask(served, [{"role": "user", "content": [enclosed, {"type": "text", "text": "?"}]}], max_tokens=2)
    assert answer.usage.prompt_tokens > 3 * 50  # three pages were shown


def open_stream(served, **options):
    """A stream that has begun, as a socket of one's own."""
    asked = {"messages": question("Read."), "stream": True, "temperature": 1.0, "max_tokens": 900} | options
    body = json.dumps(asked).encode()
    connection = socket.create_connection(("127.0.0.1", served.port))
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.slow
def test_a_client_that_hangs_up_frees_its_row(served):
    streams = [open_stream(served, seed=seed) for seed in range(3)]
    for stream in streams:
        assert b"200 OK" in stream.recv(4096)
    waiting = open_stream(served, stream=False, seed=4)
    while served.batcher.load()[0] < 4:
        pass
    for connection in (*streams, waiting):
        connection.close()
    served.wait_until_idle()
    assert ask(served, question("Read."), max_tokens=2).choices[0].message.content


def test_who_comes_when_the_queue_is_full_is_told_to_come_again(start):
    with start(batch_size=1, max_queue=1) as served:
        first = open_stream(served)
        assert b"200 OK" in first.recv(4096)
        second = open_stream(served)
        assert b"200 OK" in second.recv(4096)
        answer = served.http.post("/v1/chat/completions", json={"messages": question("Read.")})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"
        first.close()
        second.close()
        served.wait_until_idle()
        deadline = time.monotonic() + HANG_S
        asked = {"messages": question("?"), "max_tokens": 1}
        while served.http.post("/v1/chat/completions", json=asked).status_code != 200:
            assert time.monotonic() < deadline


def test_an_answer_whose_time_is_up_ends_and_says_so(start):
    with start(max_seconds=0.05) as served:
        choice = ask(served, question("Read."), temperature=1.0, max_tokens=900).choices[0]
        assert (choice.finish_reason, choice.parsit["flags"]) == ("length", ["stopped"])


def test_metrics_count_what_was_done(start):
    with start() as served:
        ask(served, question("Read."), max_tokens=5)
        served.http.get("/nowhere")
        text = served.http.get("/metrics").text
        assert 'parsit_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
        assert 'parsit_tokens_total{kind="answer"} 5.0' in text
        assert 'parsit_answers_total{end="truncated"} 1.0' in text
        assert "parsit_first_token_seconds_count 1.0" in text
        assert 'parsit_rows{state="written"} 0.0' in text
        assert "process_resident_memory_bytes" in text


def test_a_model_that_only_reads_is_asked_for_nothing_else(start, pdf):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    with start(tasks=("read",)) as served:
        prompt = served.model.read_prompt
        assert ask(served, question(prompt, noise(1)), max_tokens=2).choices[0].finish_reason == "length"
        refusals = (
            (question("What is the total?", noise(1)), {}, "a prompt other than 'Read this page as Markdown.'"),
            (question(prompt, noise(1)), {"response_format": schema}, "response_format is not for this model"),
        )
        for messages, options, message in refusals:
            with pytest.raises(openai.BadRequestError, match=message):
                ask(served, messages, **options)
        told = served.http.post("/v1/parse", files={"file": pdf.read_bytes()}, data={"prompt": "Translate."})
        assert (told.status_code, "which only reads pages" in told.text) == (400, True)
