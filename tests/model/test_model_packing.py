"""Packed rows: conversations cannot see each other, and losses and gradients are those of unpacked samples."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.import_utils import is_flash_attn_2_available

from parsit import hf
from parsit.model import packed_attention
from parsit.processing.collate import collate, collate_packed
from parsit.types import ImageRef, Turn

LLAMA = {"model_type": "llama", "vocab_size": 4096, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}  # fmt: skip


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def parts(request, mini):
    architecture = mini if request.param == "qwen3" else replace(mini, text_config=LLAMA)
    processor = hf.new_processor(architecture)
    return architecture, processor


def features(processor, picture):
    """Text alone, one image, two images, a single word: lengths that differ."""
    one, two = ImageRef(picture(60, 30, "12", "a.png")), ImageRef(picture(100, 40, "34", "b.png"))
    chats = [
        (Turn("user", ("What is one and one, in words?",)), Turn("assistant", ("Two.",))),
        (Turn("user", (one, "\nRead.")), Turn("assistant", ("12",))),
        (Turn("user", (one, "and", two)), Turn("assistant", ("12 and 34",)), Turn("user", ("Sure?",)),
         Turn("assistant", ("Yes, quite sure.",))),
        (Turn("user", ("?",)), Turn("assistant", ("!",))),
    ]  # fmt: skip
    return [processor.encode(chat) for chat in chats]


def gradients(model, batches, num_items):
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = model(**batch.model_inputs(), num_items_in_batch=num_items).loss
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_packed_batch_has_the_loss_and_gradients_of_its_samples(parts, picture, checkpointing):
    architecture, processor = parts
    pad = processor.chat_tokens.pad
    items = features(processor, picture)
    num_items = sum(item.num_supervised for item in items)
    model = hf.new_model(architecture, processor, seed=0).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # One by one, with transformers' own attention: nothing of ours decides what is right.
    loss, expected = gradients(model, [collate([item], pad) for item in items], num_items)
    model.enable_packing()
    for name, batches in {
        "packed": [collate_packed(items, pad)],
        "packed in another order": [collate_packed(items[::-1], pad)],
        "two packs": [collate_packed(items[:1], pad), collate_packed(items[1:], pad)],
        "padded, with packing on": [collate(items, pad)],
    }.items():
        found_loss, found = gradients(model, batches, num_items)
        assert abs(found_loss - loss) < 1e-5, name
        assert found.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], atol=1e-5, rtol=0, msg=f"{name}: {key}")


def test_without_the_cuts_a_packed_row_differs(parts, picture):
    architecture, processor = parts
    items = features(processor, picture)
    model = hf.new_model(architecture, processor, seed=0).eval()
    model.enable_packing()
    inputs = collate_packed(items, processor.chat_tokens.pad).model_inputs()
    right = float(model(**inputs).loss.detach())
    inputs["cu_seq_lens"] = inputs["cu_seq_lens"][[0, -1]]
    assert abs(float(model(**inputs).loss.detach()) - right) > 1e-4


def test_a_change_in_one_conversation_does_not_reach_another(parts, picture):
    architecture, processor = parts
    items = features(processor, picture)
    model = hf.new_model(architecture, processor, seed=0).eval()
    model.enable_packing()
    inputs = collate_packed(items, processor.chat_tokens.pad).model_inputs(with_labels=False)
    before = model(**inputs).logits
    cuts = inputs["cu_seq_lens"].tolist()
    inputs["input_ids"][0, cuts[0] + 2] = 77
    after = model(**inputs).logits
    changed = [not torch.equal(before[:, s:e], after[:, s:e]) for s, e in pairwise(cuts)]
    assert changed == [True, False, False, False]


def test_cuts_without_packing_are_refused(parts, picture):
    architecture, processor = parts
    model = hf.new_model(architecture, processor, seed=0)
    batch = collate_packed(features(processor, picture), processor.chat_tokens.pad)
    with pytest.raises(ValueError, match="enable_packing"):
        model(**batch.model_inputs())
    model.enable_packing()
    inputs = batch.model_inputs()
    inputs["cu_seq_lens"] = inputs["cu_seq_lens"] + 1
    with pytest.raises(ValueError, match="cu_seq_lens go from 0 to its length"):
        model(**inputs)


def test_the_first_token_of_a_conversation_is_never_learnt_from_the_one_before(parts, picture):
    _, processor = parts
    items = features(processor, picture)
    batch = collate_packed(items, processor.chat_tokens.pad)
    starts = batch.cu_seq_lens[:-1].long()
    assert batch.labels[0, starts].eq(-100).all()
    assert batch.position_ids[0, starts].eq(0).all()
    assert batch.num_supervised == sum(item.num_supervised for item in items)


def test_packing_is_not_saved_and_generation_is_unchanged(parts, picture, tmp_path):
    architecture, processor = parts
    model = hf.new_model(architecture, processor, seed=0).eval()
    item = processor.encode((Turn("user", ("Hello?",)),), add_generation_prompt=True)
    inputs = collate([item, processor.encode((Turn("user", ("A longer question?",)),), True)],
                     processor.chat_tokens.pad, padding_side="left").model_inputs(with_labels=False)  # fmt: skip
    before = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    model.enable_packing()
    assert torch.equal(model.generate(**inputs, max_new_tokens=8, do_sample=False), before)
    model.save_pretrained(tmp_path)
    assert packed_attention.NAME not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    assert torch.equal(hf.load_model(tmp_path).generate(**inputs, max_new_tokens=8, do_sample=False), before)


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True])
def test_the_variable_length_kernel_equals_one_call_for_each_conversation(parts, picture, monkeypatch, autocast):
    architecture, processor = parts
    # Flash kernels take heads of a multiple of 8, which the miniature's are not.
    heads = {"hidden_size": 64, "head_dim": 16}
    architecture = replace(architecture, text_config=architecture.text_config | heads)
    model = hf.new_model(architecture, processor, seed=0).eval().cuda()
    model = model if autocast else model.bfloat16()
    model.enable_packing()
    batch = collate_packed(features(processor, picture), processor.chat_tokens.pad).to(torch.device("cuda"))
    calls = []
    kernel = packed_attention._varlen
    monkeypatch.setattr(packed_attention, "_varlen", lambda *args: calls.append(1) or kernel(*args))
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        fast = model(**batch.model_inputs(with_labels=False)).logits.float()
        assert len(calls) == architecture.text_config["num_hidden_layers"]
        monkeypatch.setattr(packed_attention, "_VARLEN", None)
        slow = model(**batch.model_inputs(with_labels=False)).logits.float()
    assert len(calls) == architecture.text_config["num_hidden_layers"]
    torch.testing.assert_close(fast, slow, atol=0.05, rtol=0.05)


def test_flash_attention_is_told_the_cuts_and_gets_no_mask(parts, picture, monkeypatch):
    """The package is on no CPU: what it computes from the cuts that transformers hands it is computed here by SDPA."""
    architecture, processor = parts
    seen = []

    def by_cuts(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, **kwargs):
        if module.is_causal:  # the language model's; the tower has none
            seen.append((attention_mask, kwargs["max_length_q"]))
            return packed_attention.packed_attention(
                module, query, key, value, None, scaling=scaling, cuts=cu_seq_lens_q
            )
        return F.scaled_dot_product_attention(query, key, value, scale=scaling).transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "flash_attention_2", by_cuts)
    batch = collate_packed(features(processor, picture), processor.chat_tokens.pad)
    losses = []
    for implementation in ("sdpa", "flash_attention_2"):
        model = hf.new_model(architecture, processor, seed=0).eval()
        model.set_attention(implementation)
        model.enable_packing()
        losses.append(float(model(**batch.model_inputs()).loss.detach()))
    longest = int(batch.cu_seq_lens.diff().max())
    assert seen == [(None, longest)] * architecture.text_config["num_hidden_layers"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not is_flash_attn_2_available(), reason="the package flash-attn is not installed")
def test_flash_attention_equals_sdpa(parts, picture):
    architecture, processor = parts
    heads = {"hidden_size": 64, "head_dim": 16}  # a multiple of 8, as its kernels need it
    architecture = replace(architecture, text_config=architecture.text_config | heads)
    batch = collate_packed(features(processor, picture), processor.chat_tokens.pad).to(torch.device("cuda"))
    found = []
    for implementation in ("sdpa", "flash_attention_2"):
        model = hf.new_model(architecture, processor, seed=0).eval().cuda()
        model.set_attention(implementation)
        model.enable_packing()
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            found.append(model(**batch.model_inputs(with_labels=False)).logits.float())
    torch.testing.assert_close(found[1], found[0], atol=0.05, rtol=0.05)
