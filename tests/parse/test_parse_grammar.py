"""Answers under a JSON schema: they parse, special tokens do not get in, and a schema that never ends is given up."""

from __future__ import annotations

import json
import time

import pytest
import torch

from parsit import hf
from parsit.parse import grammar
from parsit.parse.engine import ModelEngine
from parsit.parse.grammar import Grammars, check_schema
from parsit.parse.reader import Reader
from parsit.types import InputError, Sampling, Turn

SCHEMA = {
    "type": "object",
    "properties": {"total": {"type": "integer"}, "paid": {"enum": [True, False, None]}},
    "required": ["total", "paid"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine(mini):
    processor = hf.new_processor(mini)
    engine = ModelEngine(hf.new_model(mini, processor, seed=2), processor, batch_size=3)
    yield engine
    engine.close()


@pytest.mark.slow
def test_what_a_model_says_under_a_schema_parses_beside_answers_that_are_free(engine, picture):
    free = engine.generate([(Turn("user", ("Read.",)),)], max_new_tokens=12)
    ended = 0
    for seed in range(6):
        how = Sampling(temperature=1.0, seed=seed, schema=json.dumps(SCHEMA))
        batch = engine.new_batch()
        rows = [
            engine.new_row((Turn("user", ("Read.",)),), max_new_tokens=limit, sampling=sampling)
            for limit, sampling in ((60, how), (12, Sampling()))
        ]
        for row in rows:
            batch.add(row)
        while not all(row.result for row in rows):
            batch.step()
        bound, unbound = (row.result for row in rows)
        assert unbound.text == free[0].text
        if not bound.flags:
            ended += 1
            value = json.loads(bound.text)
            assert isinstance(value["total"], int)
            assert value["paid"] in (True, False, None)
    assert ended >= 3
    text = Reader(engine).ask(picture(40, 30), "Read.", schema={"enum": ["yes", "no"]})
    assert json.loads(text) in ("yes", "no")


@pytest.mark.slow
def test_the_real_vocabulary_special_tokens_and_schemas_that_cannot_be_followed(qwen_tokenizer, monkeypatch):
    end = qwen_tokenizer.convert_tokens_to_ids("<|im_end|>")
    grammars = Grammars(qwen_tokenizer, 151_936, end)
    try:
        matcher = grammars.matcher('{"type": "string"}')
        [quote] = qwen_tokenizer('"', add_special_tokens=False)["input_ids"]
        for token in (quote, *qwen_tokenizer("Größe", add_special_tokens=False)["input_ids"]):
            scores = torch.zeros(151_936)
            matcher.allow(scores)
            assert scores[token] == 0
            matcher.accept(token)
        scores = torch.zeros(151_936)
        matcher.allow(scores)
        for name in ("<|im_start|>", "<|image_pad|>", "<|im_end|>", "<|endoftext|>"):
            assert scores[qwen_tokenizer.convert_tokens_to_ids(name)] == -torch.inf
        assert (scores[151_669:] == -torch.inf).all()  # rows of the embeddings that are no tokens
        matcher.accept(quote)
        scores = torch.zeros(151_936)
        matcher.allow(scores)
        assert (scores == 0).nonzero().flatten().tolist() == [end]

        for schema, said in (({"type": "nonsense"}, "nsupported type"), ({"$ref": "#"}, "no answer would follow it")):
            with pytest.raises(InputError, match=said) as told:
                grammars.matcher(json.dumps(schema))
            assert ".cc" not in str(told.value)
        monkeypatch.setattr(grammar, "COMPILE_S", 1.0)
        endless = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1500)}}
        started = time.monotonic()
        with pytest.raises(InputError, match="cannot be compiled within 1 s"):
            grammars.matcher(json.dumps(endless))
        assert time.monotonic() - started < 60
        grammars.matcher('{"type": "string"}')  # what was compiled is kept, without a process
        assert grammars._worker._process is None
    finally:
        grammars.close()


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 20_000, "not JSON|must be an object"),
        ("[]", "must be an object"),
        ("true", "must be an object"),
        ('{"items":' * 100 + "{}" + "}" * 100, "more than 64 deep"),
        ('{"a": "' + "x" * 64_000 + '"}', "the limit is 64,000"),
        ('{"properties": {"a": {"$ref": "https://example.com/schema"}}}', "only parts of itself"),
    ],
)
def test_what_is_no_schema_is_refused_before_anything_is_started(schema, said):
    with pytest.raises(InputError, match=said):
        check_schema(schema)
