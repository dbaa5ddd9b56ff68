"""The model card: what the Hub reads of it, and what people do."""

from __future__ import annotations

import pytest
import yaml

from parsit.hub.card import CardFacts, base_models, render_card

STAGES = [
    {
        "architecture": "qwen3-1.7b",
        "trained": "mm_mlp_adapter",
        "from": {
            "vision_tower": {"name": "google/siglip2-so400m-patch14-384", "on_hub": True},
            "language_model": {"name": "Qwen/Qwen3-1.7B@main", "on_hub": True},
        },
        "training": [{"file": "captions.json", "samples": 558128, "tokens": 1}],
        "validation": [],
        "settings": {"mm_tunable_parts": "mm_mlp_adapter", "learning_rate": 1e-3},
        "steps": 2181,
        "eval_loss": None,
    },
    {
        "architecture": "qwen3-1.7b",
        "trained": "mm_language_model,mm_mlp_adapter",
        "from": {"model": {"name": "pretrain", "on_hub": False}},
        "training": [{"file": "a|b.jsonl", "samples": 9, "tokens": 1}, {"file": "c.tar", "samples": 1, "tokens": 1}],
        "validation": [{"file": "validation.jsonl", "samples": 3, "tokens": 1}],
        "settings": {"lora_enable": True, "lora_r": 16},
        "steps": 500,
        "eval_loss": 0.51234,
    },
]
INTERVAL = {"value": 0.0421, "low": 0.0389, "high": 0.046}
EVALUATION = {
    "about": {"files": ["test.jsonl"], "checkpoint": "checkpoint-500", "data": "/home/me/test.jsonl"},
    "summary": {
        "count": 1200,
        "failed": 2,
        "normalized": dict.fromkeys(["cer", "wer", "normalized_edit_distance", "exact_match", "anls"], INTERVAL),
    },
    "interval": {"confidence": 0.95},
}


def facts(**changed) -> CardFacts:
    values = {
        "place": "acme/reader",
        "reading_unit": "page",
        "read_prompt": "Read this page as Markdown.",
        "parts": {"vision_tower": 400_000_000, "projector": 6_561_792},
        "page_tokens": 3060,
        "page_dpi": 104.4,
        "context": 40960,
        "dtype": "bfloat16",
        "versions": {"parsit": "0.1.0", "torch": "2.13.0"},
        "stages": STAGES,
        "evaluations": [EVALUATION],
    }
    return CardFacts(**values | changed)


def test_the_head_is_what_the_hub_understands():
    _, head, _ = render_card(facts()).split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "parsit",
        "pipeline_tag": "image-text-to-text",
        "base_model": ["google/siglip2-so400m-patch14-384", "Qwen/Qwen3-1.7B"],
        "tags": ["parsit", "ocr", "document-understanding"],
    }
    _, head, _ = render_card(facts(stages=[])).split("---\n", 2)
    assert "base_model" not in yaml.safe_load(head)
    assert base_models([{"from": {"model": {"name": "models/base", "on_hub": False}}}]) == []


@pytest.mark.parametrize(
    "said",
    [
        'parsit.load("acme/reader")',
        "import parsit.hf",
        "| projector | 6,561,792 |",
        "3,060 image tokens",
        "| 1 | tower `google/siglip2-so400m-patch14-384`, language model `Qwen/Qwen3-1.7B@main` | mm_mlp_adapter "
        "| 2,181 | `captions.json` (558,128 samples) |",
        "| 2 | model `pretrain` | LoRA, mm_language_model, mm_mlp_adapter | 500 | `a/b.jsonl` (9 samples), "
        "`c.tar` (1 samples) |",
        "Stage 2 ended with a validation loss of 0.5123 nats per token on `validation.jsonl`.",
        "Settings of stage 2, where they are not Parsit's own: `lora_enable True`, `lora_r 16`.",
        "On `test.jsonl`, 1,200 samples, of which 2 failed and count as wrong:",
        "| score | value | 95% interval |",
        "| CER | 0.0421 | 0.0389 to 0.0460 |",
        "parsit 0.1.0, torch 2.13.0.",
        "apply to it: google/siglip2-so400m-patch14-384, Qwen/Qwen3-1.7B.",
    ],
)
def test_the_card_says(said):
    assert said in render_card(facts())


def test_what_nobody_recorded_the_card_does_not_make_up():
    card = render_card(facts(stages=[], evaluations=[]))
    assert "That is not recorded in the folder that this model was exported from." in card
    assert "None: no evaluation of this checkpoint" in card
    assert "nats" not in card
    assert "/home/me" not in render_card(facts())
