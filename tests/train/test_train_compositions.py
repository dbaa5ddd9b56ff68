"""Any SigLIP with any decoder: each combination of docs/models.md, from its parts' folders to an exported model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dist_support import make_data, metrics
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from parsit import hf
from parsit.cli import export
from parsit.config import TrainConfig
from parsit.data.files import read_files
from parsit.processing.collate import collate, collate_packed
from parsit.train.fit import run
from parsit.train.world import World
from parts_support import bpe_tokenizer, save_decoder, save_tower

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
@pytest.mark.parametrize(("tower", "decoder"), COMBINATIONS, ids=["+".join(pair) for pair in COMBINATIONS])
def test_a_combination_is_composed_trained_saved_and_read_again(folder, tmp_path, tower, decoder):
    flags = {"vision_tower": folder / tower, "model_name_or_path": folder / decoder, **PLAIN, "packing": True}
    flags |= {"max_steps": 2, "dataloader_num_workers": 0, "optim": "adamw", "model_max_length": 256, "bf16": "false"}
    config = TrainConfig.from_preset("smol/finetune", data=folder / "d.jsonl", output_dir=tmp_path / "run", **flags)
    samples = [sample.turns for sample in read_files([folder / "d.jsonl"], None)]
    said, seen = [], []

    def look(prepared):
        # Text alone, one image, two images.
        items = [prepared.processor.encode(turns) for turns in samples[3:8]]
        seen.extend([prepared.processor.chat_tokens, items])
        assert prepared.drawn == {"projector"}
        assert list(prepared.processor.added_tokens) == ADDED[decoder]
        assert_computes_as_its_parts(folder, tower, decoder, prepared.model, items, prepared.processor)

    result = run(config, World(), say=said.append, on_prepared=look)
    added = f"tokenizer: {', '.join(ADDED[decoder])} are new to the language model; their rows are trained with it"
    assert [line for line in said if line.startswith("tokenizer: ")] == ([added] if ADDED[decoder] else [])
    assert [step["step"] for step in metrics(tmp_path / "run") if "loss" in step] == [1, 2]
    chat_tokens, items = seen
    export.main([str(result.checkpoint), "--out", str(tmp_path / "model")])
    model, processor = hf.load_model(result.checkpoint).eval(), AutoProcessor.from_pretrained(tmp_path / "model")
    assert (type(processor), processor.chat_tokens) == (hf.ParsitProcessor, chat_tokens)
    assert torch.equal(processor.encode(samples[3]).input_ids, items[0].input_ids)
    assert model.config.text_config.vocab_size >= len(processor.tokenizer)
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "model").eval()
    prompt = collate([processor.encode(samples[4][:1], True)], chat_tokens.pad).model_inputs(with_labels=False)
    answer = model.generate(**prompt, max_new_tokens=4, eos_token_id=None)
    assert torch.equal(exported.generate(**prompt, max_new_tokens=4, use_cache=False, eos_token_id=None), answer)


def assert_computes_as_its_parts(folder, tower, decoder, model, items, processor):
    """Scores are those of transformers' modules, and a packed row has the loss of its samples."""
    model.eval()
    pad = processor.chat_tokens.pad
    batch = collate(items, pad)
    with torch.no_grad():
        logits = model(**batch.model_inputs(with_labels=False)).logits
        expected = plain_composition(folder, tower, decoder, model, batch)
        kept = batch.attention_mask.bool()
        assert (logits - expected)[kept].abs().max() <= 1e-4 * expected.abs().max()
        assert logits[kept].std() > 0.1
        alone = sum(float(model(**collate([item], pad).model_inputs(), num_items_in_batch=1).loss) for item in items)
        model.enable_packing()
        packed = model(**collate_packed(items, pad).model_inputs(), num_items_in_batch=1)
    assert float(packed.loss) == pytest.approx(alone, rel=1e-5)
