"""Continuous batching against transformers' own `generate`: the same tokens, whatever else is in the batch."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from PIL import Image

from parsit import hf
from parsit.parse.answer_text import AnswerText
from parsit.parse.engine import ModelEngine
from parsit.processing.collate import collate
from parsit.types import Delta, ImageRef, InputError, Sampling, Turn


@pytest.fixture(scope="module")
def engine(mini):
    processor = hf.new_processor(mini)
    model = hf.new_model(mini, processor, seed=2)
    return ModelEngine(model, processor, batch_size=3)


def noise(width, height, seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def question(seed, num_images=1):
    images = (ImageRef(noise(20 + 13 * seed % 70, 15 + 7 * seed % 40, seed + n)) for n in range(num_images))
    return (Turn("user", (*images, f"What is {seed}?")),)


def reference(engine, turns, count):
    """Ids and log-probabilities by transformers, one conversation alone."""
    features = engine.processor.encode(turns, add_generation_prompt=True)
    batch = collate([features], engine.processor.chat_tokens.pad, padding_side="left")
    with torch.no_grad():
        out = engine.model.generate(
            **batch.model_inputs(with_labels=False),
            max_new_tokens=count,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
    ids = out.sequences[0, len(features.input_ids) :].tolist()
    scores = [score[0].log_softmax(-1)[token].item() for score, token in zip(out.scores, ids, strict=True)]
    return ids, scores


def test_rows_that_come_and_go_answer_as_each_does_alone(engine):
    prompts = [question(seed, num_images=seed % 3) for seed in range(9)]
    limits = [4, 25, 9, 14, 3, 30, 8, 1, 12]
    batch = engine.new_batch()
    seen: list[list[Delta]] = [[] for _ in prompts]
    rows = []
    most = 0
    for turns, limit, deltas in zip(prompts, limits, seen, strict=True):
        rows.append(engine.new_row(turns, max_new_tokens=limit, on_delta=deltas.append))
        batch.add(rows[-1])
        batch.step()  # each comes while others are being written
        most = max(most, len(batch.active))
    while not all(row.result for row in rows):
        batch.step()
        most = max(most, len(batch.active))
    assert most == 3
    assert (batch.active, list(batch.waiting)) == ([], [])
    for turns, limit, row, deltas in zip(prompts, limits, rows, seen, strict=True):
        ids, scores = reference(engine, turns, limit)
        assert row.ids == ids
        assert row.logprobs == pytest.approx(scores, abs=1e-4)
        assert row.result.text == engine.processor.tokenizer.decode(ids, skip_special_tokens=True)
        assert "".join(delta.text for delta in deltas) == row.result.text
        assert [delta.token.id for delta in deltas if delta.token.id >= 0] == ids
        probabilities = [math.exp(score) for score in scores]
        assert row.result.confidence.mean == pytest.approx(sum(probabilities) / len(ids), rel=1e-3)
        assert row.result.confidence.lowest == pytest.approx(min(probabilities), rel=1e-3)
        assert row.result.num_prompt_tokens > 0
        assert row.cache.length == 0  # its memory is given back


def test_a_row_ends_with_its_turn_and_the_next_takes_its_place(engine):
    ids, _ = reference(engine, question(4), 3)
    end = engine.processor.chat_tokens.im_end
    head = engine.model.get_output_embeddings()
    weight = head.weight.detach().clone()
    try:
        with torch.no_grad():  # the end of the turn is a little likelier than what the model would say third
            head.weight[end] = head.weight[ids[2]] * 1.0001
        (answer,) = engine.generate([question(4)], max_new_tokens=40)
    finally:
        with torch.no_grad():
            head.weight.copy_(weight)
    assert (answer.flags, answer.num_tokens < 40) == ((), True)


def test_the_model_has_its_own_attention_again_afterwards(engine):
    before = engine.model.get_decoder().config._attn_implementation
    engine.generate([question(1)], max_new_tokens=2)
    assert engine.model.get_decoder().config._attn_implementation == before != "parsit_rows"


def test_draws_depend_on_the_seed_and_on_nothing_else(engine):
    warm = Sampling(temperature=1.0, top_p=0.9, seed=7)
    alone = engine.generate([question(1)], max_new_tokens=20, sampling=warm)[0]
    among = engine.generate([question(n) for n in range(4)], max_new_tokens=20, sampling=warm)[1]
    other = engine.generate([question(1)], max_new_tokens=20, sampling=Sampling(temperature=1.0, seed=8))[0]
    greedy = engine.generate([question(1)], max_new_tokens=20)[0]
    assert alone.text == among.text
    assert len({alone.text, other.text, greedy.text}) == 3


def test_a_narrow_top_p_leaves_the_likeliest_token(engine):
    narrow = Sampling(temperature=2.0, top_p=1e-6, seed=3)
    greedy = engine.generate([question(1)], max_new_tokens=10)
    assert engine.generate([question(1)], max_new_tokens=10, sampling=narrow)[0].text == greedy[0].text


def test_the_likeliest_tokens_are_named_beside_each(engine):
    deltas = []
    engine.generate(
        [question(1)],
        max_new_tokens=5,
        sampling=Sampling(top_logprobs=3),
        on_delta=lambda place, delta: deltas.append(delta),
    )
    for delta in deltas:
        assert [score for _, score in delta.token.top] == sorted((score for _, score in delta.token.top), reverse=True)
        assert delta.token.top[0] == (delta.token.id, pytest.approx(delta.token.logprob))
        assert len(delta.token.top) == 3


def test_an_answer_ends_before_a_stop_text_that_goes_over_tokens(engine):
    (whole,) = engine.generate([question(2)], max_new_tokens=30)
    stop = whole.text[8:13]
    expected = whole.text[: whole.text.index(stop)]
    deltas = []
    (cut,) = engine.generate(
        [question(2)],
        max_new_tokens=30,
        sampling=Sampling(stop=(stop, "never said")),
        on_delta=lambda place, delta: deltas.append(delta.text),
    )
    assert (cut.text, cut.flags) == (expected, ())
    assert "".join(deltas) == expected


def test_a_row_whose_client_left_or_whose_time_is_up_makes_room(engine):
    batch = engine.new_batch()
    rows = [engine.new_row(question(n), max_new_tokens=200) for n in range(4)]
    rows[1].deadline = time.monotonic() - 1
    for row in rows:
        batch.add(row)
    while len(batch.active) < 3:  # a CPU takes one prompt a step
        batch.step()
    assert rows[1].result.flags == ("stopped",)
    assert batch.active == [rows[0], rows[2], rows[3]]
    rows[0].is_cancelled = True
    assert batch.step() == [rows[0]]
    assert (rows[0].result.flags, rows[0].result.num_tokens) == (("stopped",), 3)
    assert batch.active == [rows[2], rows[3]]


def test_a_model_may_say_the_image_token(engine):
    ids, _ = reference(engine, question(1), 4)
    image = engine.processor.chat_tokens.image
    head = engine.model.get_output_embeddings()
    weight = head.weight.detach().clone()
    try:
        with torch.no_grad():
            head.weight[image] = head.weight[ids[0]] * 1.0001
        expected, _ = reference(engine, question(1), 4)
        row = engine.new_row(question(1), max_new_tokens=4)
        batch = engine.new_batch()
        batch.add(row)
        while not row.result:
            batch.step()
    finally:
        with torch.no_grad():
            head.weight.copy_(weight)
    assert image in expected
    assert row.ids == expected


def test_a_prompt_without_room_is_refused_before_it_waits(engine):
    batch = engine.new_batch()
    long = (Turn("user", ("word " * 2000,)),)
    with pytest.raises(InputError, match="the model's context has 1,024"):
        batch.add(engine.new_row(long, max_new_tokens=5))
    assert not batch.waiting


@pytest.mark.parametrize("text", ["Größe 12 m²", "家族 👩‍👩‍👧 e\u0301", " two  spaces\n\n", "\ufffd kept \ufffd", ""])
def test_text_that_is_given_out_piece_by_piece_is_whole(qwen_tokenizer, text):
    ids = qwen_tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = AnswerText(qwen_tokenizer)
    pieces = [answer.add(token) for token in ids]
    pieces.append(answer.finish())
    assert "".join(pieces) == answer.text == text
    assert not any(piece.endswith("\ufffd") for piece in pieces[:-1])


def test_half_a_character_at_the_end_is_shown_as_such(qwen_tokenizer):
    ids = qwen_tokenizer("👩", add_special_tokens=False)["input_ids"]
    answer = AnswerText(qwen_tokenizer)
    assert [answer.add(token) for token in ids[:-1]] == [""] * (len(ids) - 1)
    assert answer.finish() == qwen_tokenizer.decode(ids[:-1])
