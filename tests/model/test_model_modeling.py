"""The network against a plain composition of transformers' modules with the same weights."""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, Qwen3ForCausalLM, SiglipConfig, SiglipModel, SiglipVisionModel

from parsit import hf
from parsit.model import ParsitForConditionalGeneration, modeling
from parsit.processing.collate import collate
from parsit.types import ImageRef, InputError, Turn


def picture(width, height, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 255, (height, width, 3), generator=generator, dtype=torch.uint8)
    return ImageRef(Image.fromarray(pixels.numpy()))


@pytest.fixture(scope="module")
def processor(mini):
    return hf.new_processor(mini)


@pytest.fixture(scope="module")
def model(mini, processor):
    return hf.new_model(mini, processor, seed=0).eval()


def batch_of(processor, *num_images, padding_side="right", prompt=False):
    """One conversation for each number of images."""
    features = []
    for row, count in enumerate(num_images):
        images = [picture(50 + 9 * i, 30 + 7 * row, seed=i + 10 * row) for i in range(count)]
        turns = [Turn("user", (*images, f"Question {row}?"))]
        if not prompt:
            turns.append(Turn("assistant", ("An answer" + "!" * row,)))
        features.append(processor.encode(turns, add_generation_prompt=prompt))
    return collate(features, processor.chat_tokens.pad, padding_side)


def plain_composition(model, batch):
    """SiglipVisionModel -> projector -> Qwen3ForCausalLM, in the plainest words, one sample at a time."""
    config = model.config
    vision_config = config.vision_config
    siglip = SiglipVisionModel(vision_config)
    inner = getattr(siglip, "vision_model", siglip)
    full = inner.state_dict()
    for key, value in model.vision_tower.state_dict().items():
        assert key in full
        full[key] = value
    inner.load_state_dict(full)
    qwen = Qwen3ForCausalLM(config.text_config).eval()
    qwen.load_state_dict(model.language_model.state_dict())
    # layer -2 is the output of the last layer but one: hidden_states[-2] in transformers' words
    features = siglip.eval()(pixel_values=batch.pixel_values, output_hidden_states=True).hidden_states[-2]
    projected = model.mm_projector(features)
    embeds = qwen.get_input_embeddings()(batch.input_ids).clone()
    queue = []
    start = 0
    for height, width in batch.image_sizes.tolist():
        plan = config.layout.plan(width, height)
        queue.append(laid_out(projected[start : start + plan.num_tiles], plan, model.image_newline))
        start += plan.num_tiles
    tokens = torch.cat(queue)
    used = 0
    for row in range(len(batch.input_ids)):
        for position in range(batch.input_ids.shape[1]):
            if batch.input_ids[row, position] == config.image_token_id:
                embeds[row, position] = tokens[used]
                used += 1
    assert used == len(tokens)
    return qwen(inputs_embeds=embeds, attention_mask=batch.attention_mask).logits


def laid_out(tiles, plan, newline):
    """LLaVA's spatial_unpad, position by position."""
    side = 4
    columns, rows = plan.grid
    top, bottom, left, right = plan.crop
    out = list(tiles[0])
    for y in range(top, bottom):
        for x in range(left, right):
            tile = 1 + (y // side) * columns + x // side
            out.append(tiles[tile][(y % side) * side + x % side])
        out.append(newline)
    assert rows * side >= bottom
    return torch.stack(out)


@pytest.mark.parametrize("num_images", [(1,), (0, 1), (3,), (2, 0, 1)])
def test_logits_equal_a_plain_composition(model, processor, num_images):
    batch = batch_of(processor, *num_images)
    with torch.no_grad():
        ours = model(**batch.model_inputs(with_labels=False)).logits
        theirs = plain_composition(model, batch)
    kept = batch.attention_mask.bool()
    assert (ours - theirs)[kept].abs().max() <= 1e-5


def test_text_alone_equals_the_language_model(model, processor):
    batch = batch_of(processor, 0)
    with torch.no_grad():
        ours = model(**batch.model_inputs(with_labels=False)).logits
        theirs = model.language_model(input_ids=batch.input_ids).logits
    assert torch.equal(ours, theirs)


def test_loaded_weights_lie_where_those_of_a_new_model_would(model, tmp_path):
    """Not in the mapped file at odd places, for which matrix products round otherwise."""
    model.save_pretrained(tmp_path)
    loaded = hf.load_model(tmp_path)
    assert {parameter.data_ptr() % 64 for parameter in loaded.parameters()} == {0}
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_save_load_and_auto_class_give_equal_logits(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    batch = batch_of(processor, 1, 2)
    with torch.no_grad():
        before = model(**batch.model_inputs(with_labels=False)).logits
        for loaded in (
            ParsitForConditionalGeneration.from_pretrained(tmp_path),
            AutoModelForImageTextToText.from_pretrained(tmp_path),
        ):
            assert isinstance(loaded, ParsitForConditionalGeneration)
            assert torch.equal(loaded.eval()(**batch.model_inputs(with_labels=False)).logits, before)


def test_generate_with_cache_equals_without_and_equals_step_by_step(model, processor):
    batch = batch_of(processor, 1, 0, 2, padding_side="left", prompt=True)
    inputs = batch.model_inputs(with_labels=False)
    length = batch.input_ids.shape[1]
    cached = model.generate(**inputs, max_new_tokens=6, use_cache=True, eos_token_id=None)[:, length:]
    plain = model.generate(**inputs, max_new_tokens=6, use_cache=False, eos_token_id=None)[:, length:]
    assert torch.equal(cached, plain)
    # and one row alone, greedily by hand, without padding
    alone = batch_of(processor, 1, padding_side="left", prompt=True)
    ids = alone.input_ids
    for _ in range(6):
        with torch.no_grad():
            logits = model(input_ids=ids, pixel_values=alone.pixel_values, image_sizes=alone.image_sizes).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(cached[0], ids[0, -6:])


def test_a_cache_goes_on_where_it_was_left_under_either_of_its_names(model, processor):
    ids = batch_of(processor, 0).input_ids
    whole = model(ids)
    first = model(ids[:, :-3], use_cache=True)
    assert first.past_key_values is first.cache
    rest = model(ids[:, -3:], past_key_values=first.past_key_values)
    torch.testing.assert_close(rest.logits, whole.logits[:, -3:], rtol=1e-4, atol=1e-5)
    assert model(ids, use_cache=False).cache is None


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_the_decoder_is_given_its_cache_by_the_name_that_its_version_has(model, processor, monkeypatch, name):
    """The name is what the installed decoder takes; a stand-in before it takes and gives the other version's name."""
    decoder, installed = model.get_decoder(), modeling.CACHE
    assert installed in inspect.signature(decoder.forward).parameters

    def of_version(**inputs):
        assert not {"past_key_values", "cache"} & inputs.keys() - {name}
        renamed = {installed if key == name else key: value for key, value in inputs.items()}
        outputs = decoder(**renamed)
        return SimpleNamespace(last_hidden_state=outputs.last_hidden_state, **{name: outputs[installed]})

    monkeypatch.setattr(modeling, "CACHE", name)
    monkeypatch.setattr(model, "get_decoder", lambda: of_version)
    ids = batch_of(processor, 0).input_ids
    whole = model(ids)
    first = model(ids[:, :-3], use_cache=True)
    rest = model(ids[:, -3:], past_key_values=first.cache)
    torch.testing.assert_close(rest.logits, whole.logits[:, -3:], rtol=1e-4, atol=1e-5)


def test_a_mismatch_of_placeholders_and_features_names_both_numbers(model, processor):
    batch = batch_of(processor, 1)
    inputs = batch.model_inputs(with_labels=False) | {"image_positions": None}
    count = int((batch.input_ids == model.config.image_token_id).sum())
    inputs["input_ids"] = batch.input_ids[:, : count // 2]
    inputs["attention_mask"] = batch.attention_mask[:, : count // 2]
    left = int((inputs["input_ids"] == model.config.image_token_id).sum())
    with pytest.raises(ValueError, match=rf"{left} image tokens.* {count} features"):
        model(**inputs)
    with pytest.raises(ValueError, match=rf"{count} image tokens.* 0 features"):
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)


def test_tiles_of_another_size_are_refused(model, processor):
    batch = batch_of(processor, 1)
    inputs = batch.model_inputs(with_labels=False)
    inputs["pixel_values"] = batch.pixel_values[:-1]
    with pytest.raises(ValueError, match="tiles"):
        model(**inputs)


def test_layers_that_are_never_run_are_not_built_and_every_parameter_learns(mini, processor):
    model = hf.new_model(mini, processor, seed=1).train()
    assert len(model.vision_tower.encoder.layers) == 2  # of 3, at layer -2
    assert not [name for name, _ in model.named_parameters() if "post_layernorm" in name or "head." in name]
    batch = batch_of(processor, 2, 0)
    model(**batch.model_inputs()).loss.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # keys' biases shift all scores of a query alike: their gradient is zero by construction
    assert [name for name in still if not name.endswith("k_proj.bias")] == []


def test_a_batch_without_images_still_runs_the_tower_in_training(mini, processor):
    model = hf.new_model(mini, processor, seed=1).train()
    calls = []
    model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    output = model(**batch_of(processor, 0).model_inputs())
    output.loss.backward()
    assert calls == [1]
    assert all(p.grad is not None for p in model.parameters())
    assert all(not p.grad.any() for p in model.vision_tower.parameters())
    # An output that one rank has with a gradient and another has not lets ZeRO-3 wait for ever.
    assert output.vision_features_NPD.requires_grad


def test_missing_and_unexpected_weights_are_errors(model, tmp_path):
    from safetensors.torch import load_file, save_file

    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    removed = {key: value for key, value in weights.items() if key != "mm_projector.0.bias"}
    save_file(removed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: mm_projector\.0\.bias"):
        ParsitForConditionalGeneration.from_pretrained(tmp_path)
    save_file({**weights, "stray.weight": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"unexpected: stray\.weight"):
        ParsitForConditionalGeneration.from_pretrained(tmp_path)


def test_pretrained_parts_load_strictly_and_only_unused_layers_are_left_over(mini, processor, tmp_path):
    config = hf.config_of(mini)
    torch.manual_seed(3)
    siglip, qwen = SiglipVisionModel(config.vision_config), Qwen3ForCausalLM(config.text_config)
    siglip.save_pretrained(tmp_path / "tower")
    qwen.save_pretrained(tmp_path / "lm")
    model = hf.model_from_parts(mini, processor, 0, str(tmp_path / "tower"), str(tmp_path / "lm"))
    inner = getattr(siglip, "vision_model", siglip)
    assert torch.equal(model.vision_tower.encoder.layers[1].mlp.fc1.weight, inner.encoder.layers[1].mlp.fc1.weight)
    assert torch.equal(model.language_model.lm_head.weight, qwen.lm_head.weight)
    wider = Qwen3ForCausalLM(type(config.text_config)(**{**mini.text_config, "intermediate_size": 128}))
    wider.save_pretrained(tmp_path / "wider")
    with pytest.raises(InputError, match="preset mini: intermediate_size is 128, the preset has 96: choose"):
        hf.model_from_parts(mini, processor, 0, None, str(tmp_path / "wider"))


def test_a_whole_siglip_and_a_smaller_vocabulary_load_too(mini, processor, tmp_path):
    """The Hub's SigLIP checkpoints hold a text tower as well; SmolLM2 has no rows for the image tokens."""
    config = hf.config_of(mini)
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": 50,
    }
    torch.manual_seed(4)
    whole = SiglipModel(SiglipConfig(text_config=text, vision_config=config.vision_config.to_dict()))
    whole.save_pretrained(tmp_path / "whole")
    smaller = Qwen3ForCausalLM(type(config.text_config)(**{**mini.text_config, "vocab_size": 4093}))
    smaller.save_pretrained(tmp_path / "smaller")
    model = hf.model_from_parts(mini, processor, 0, str(tmp_path / "whole"), str(tmp_path / "smaller"))
    inner = getattr(whole.vision_model, "vision_model", whole.vision_model)
    assert torch.equal(model.vision_tower.embeddings.patch_embedding.weight, inner.embeddings.patch_embedding.weight)
    rows = model.get_input_embeddings().weight
    assert torch.equal(rows[:4093], smaller.get_input_embeddings().weight)
    assert rows.shape[0] == 4096
    assert rows[4093:].abs().sum() > 0


def test_the_same_seed_draws_the_same_weights(mini, processor):
    first, second = hf.new_model(mini, processor, seed=5), hf.new_model(mini, processor, seed=5)
    other = hf.new_model(mini, processor, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.mm_projector[0].weight, other.mm_projector[0].weight)


def test_importing_parsit_alone_is_light():
    code = "import sys, parsit; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
