"""Any SigLIP with any decoder: each combination of docs/models.md, from its parts' folders to an exported model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dist_support import make_data, metrics
from parts_support import bpe_tokenizer, save_decoder, save_tower
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from parsit import hf
from parsit.cli import export
from parsit.config import TrainConfig
from parsit.data.files import read_files
from parsit.processing.collate import collate, collate_packed
from parsit.train.fit import fit
from parsit.train.prepare import prepare
from parsit.train.world import World

LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}  # fmt: skip
# One tile an image and one token a patch: how tiles are laid out is tested in tests/model/test_model_layouts.py.
PLAIN = {"image_aspect_ratio": "pad", "mm_patch_merge_type": "flat", "mm_pixel_shuffle": 1,
         "mm_vision_select_layer": -2}  # fmt: skip


def save_llama(folder):
    """As Llama 3: begins texts with a token of its own, ends them with another, has no ChatML and no pad token."""
    tokenizer = bpe_tokenizer(["<bos>", "<eot>"], bos="<bos>", eos_token="<eot>")
    changes = {"rope_theta": 5e5, "rope_scaling": LLAMA3_ROPE, "tie_word_embeddings": False}
    save_decoder(folder, "llama", tokenizer, **changes)


def save_smollm2(folder):
    """As SmolLM2: ChatML, padded with the end of a turn, no image tokens."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    roles = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    save_decoder(folder, "llama", bpe_tokenizer(special, **roles), rope_theta=1e5, tie_word_embeddings=True)


def save_qwen2(folder):
    """As Qwen2: ChatML without image tokens, rows to spare, biases, an lm_head of its own."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = bpe_tokenizer(special, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    save_decoder(folder, "qwen2", tokenizer, vocab_size=len(tokenizer) + 40, rope_theta=1e6, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, qwen_tokenizer):
    folder = tmp_path_factory.mktemp("compositions")
    make_data(folder)
    save_tower(folder / "siglip")
    save_tower(folder / "whole", whole=True, hidden_size=48, image_size=50, patch_size=16, num_hidden_layers=2)
    save_decoder(folder / "qwen3", "qwen3", qwen_tokenizer, vocab_size=151936, head_dim=16, tie_word_embeddings=True)
    save_qwen2(folder / "qwen2")
    save_llama(folder / "llama")
    save_smollm2(folder / "smollm2")
    return folder


COMBINATIONS = [("siglip", "qwen3"), ("whole", "qwen2"), ("siglip", "llama"), ("whole", "smollm2")]
ADDED = {
    "qwen3": [],
    "qwen2": ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>"],
    "llama": ["<|im_start|>", "<|image_pad|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>"],
    "smollm2": ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>"],
}


def plain_composition(folder: Path, tower: str, decoder: str, model, batch):
    """The parts as transformers loads them, in the plainest words; projector and new rows are ours."""
    siglip = AutoModel.from_pretrained(folder / tower)
    siglip = getattr(siglip, "vision_model", siglip)
    language_model = AutoModelForCausalLM.from_pretrained(folder / decoder)
    rows = model.config.text_config.vocab_size
    if rows > language_model.config.vocab_size:
        language_model.resize_token_embeddings(rows)
        for ours, theirs in (
            (model.get_input_embeddings(), language_model.get_input_embeddings()),
            (model.get_output_embeddings(), language_model.get_output_embeddings()),
        ):
            theirs.weight.data[-rows:] = ours.weight.data
    features = siglip.eval()(pixel_values=batch.pixel_values, output_hidden_states=True).hidden_states[-2]
    embeds = language_model.get_input_embeddings()(batch.input_ids).clone()
    embeds[batch.input_ids == model.config.image_token_id] = model.mm_projector(features).flatten(0, 1)
    return language_model.eval()(inputs_embeds=embeds, attention_mask=batch.attention_mask).logits


@pytest.mark.slow
@pytest.mark.parametrize(("tower", "decoder"), COMBINATIONS, ids="+".join)
def test_a_combination_is_composed_trained_saved_and_read_again(folder, tmp_path, capsys, tower, decoder):
    flags = {"vision_tower": folder / tower, "model_name_or_path": folder / decoder, **PLAIN, "packing": True}
    flags |= {"max_steps": 2, "dataloader_num_workers": 0, "optim": "adamw", "model_max_length": 256}
    config = TrainConfig.from_preset("tiny/finetune", data=folder / "d.jsonl", output_dir=tmp_path / "run", **flags)
    said = []
    prepared = prepare(config, World(), say=said.append, dry=True)
    model, processor = prepared.model.eval(), prepared.processor
    assert prepared.drawn == {"projector"}
    assert list(processor.added_tokens) == ADDED[decoder]
    told = [line for line in said if line.startswith("tokenizer: ")]
    assert told == ([f"tokenizer: {', '.join(ADDED[decoder])} are new to the language model; their rows are trained "
                     "with it"] if ADDED[decoder] else [])  # fmt: skip

    samples = [sample.turns for sample in read_files([folder / "d.jsonl"], None)]
    items = [processor.encode(turns) for turns in samples[3:8]]  # text alone, one image, two images
    batch = collate(items, processor.chat_tokens.pad)
    with torch.no_grad():
        logits = model(**batch.model_inputs(with_labels=False)).logits
        expected = plain_composition(folder, tower, decoder, model, batch)
    kept = batch.attention_mask.bool()
    assert (logits - expected)[kept].abs().max() <= 1e-4 * expected.abs().max()
    assert logits[kept].std() > 0.1

    alone = sum(float(model(**collate([item], 0).model_inputs(), num_items_in_batch=1).loss.detach()) for item in items)
    model.enable_packing()
    packed = collate_packed(items, processor.chat_tokens.pad)
    together = float(model(**packed.model_inputs(), num_items_in_batch=1).loss.detach())
    assert together == pytest.approx(alone, rel=1e-5)

    result = fit(config)
    losses = [step["loss"] for step in metrics(tmp_path / "run") if "loss" in step]
    assert len(losses) == 2
    trained, saved = hf.load_model(result.checkpoint).eval(), hf.load_processor(result.checkpoint)
    assert (saved.chat_tokens, saved.encode(samples[3]).input_ids.tolist()) == (
        processor.chat_tokens,
        items[0].input_ids.tolist(),
    )
    prompt = collate([saved.encode(samples[0][:1], True)], saved.chat_tokens.pad).model_inputs(with_labels=False)
    answer = trained.generate(**prompt, max_new_tokens=4, eos_token_id=None)
    assert torch.equal(trained.generate(**prompt, max_new_tokens=4, use_cache=False, eos_token_id=None), answer)

    export.main([str(result.checkpoint), "--out", str(tmp_path / "model")])
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "model").eval()
    read = AutoProcessor.from_pretrained(tmp_path / "model")
    assert type(read) is hf.ParsitProcessor
    with torch.no_grad():
        inputs = batch.model_inputs(with_labels=False)
        assert torch.equal(again(**inputs).logits, trained(**inputs).logits)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["text_config"]["vocab_size"] >= len(read.tokenizer)
