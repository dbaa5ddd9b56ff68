"""Native resolution against transformers' modules put together: Siglip2ImageProcessor, Siglip2VisionModel, Qwen3.

There each image is padded to the longest, with a mask; here all patches lie in one row.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    Qwen3ForCausalLM,
    Siglip2Config,
    Siglip2Model,
    Siglip2VisionModel,
)

from parsit import hf
from parsit.model import ParsitForConditionalGeneration
from parsit.model.adapters import AdapterSettings, add_adapters, merge_adapters
from parsit.model.native import axis_weights
from parsit.processing.collate import collate, collate_packed
from parsit.types import ImageRef, InputError, Turn

# Larger and smaller than the budget of the miniature, at several aspect ratios.
SIZES = [(90, 40), (30, 200), (17, 9), (128, 128), (400, 300), (64, 64)]


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def features_of(processor, *sizes, prompt=False):
    """One conversation with images of these sizes."""
    images = [ImageRef(noise(*size, seed=number)) for number, size in enumerate(sizes)]
    turns = [Turn("user", (*images, f"Question {len(sizes)}?"))]
    if not prompt:
        turns.append(Turn("assistant", ("An answer" + "!" * len(sizes),)))
    return processor.encode(turns, add_generation_prompt=prompt)


@pytest.fixture(scope="module")
def processor(mini_native):
    return hf.new_processor(mini_native)


@pytest.fixture(scope="module")
def model(mini_native, processor):
    return hf.new_model(mini_native, processor, seed=0).eval()


def with_images(architecture, **multimodal):
    architecture = replace(architecture, multimodal=architecture.multimodal | multimodal)
    processor = hf.new_processor(architecture)
    return processor, hf.new_model(architecture, processor, seed=0).eval()


def siglip2_processor(**settings):
    try:  # 5.x: the one that needs no torchvision
        from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil as Processor
    except ImportError:
        from transformers import Siglip2ImageProcessor as Processor
    return Processor(**settings)


def plain_features(model, images, do_resize):
    """Siglip2VisionModel on Siglip2ImageProcessor's patches: of each image the selected layer's, without padding."""
    config = model.config
    tower = Siglip2VisionModel(config.vision_config).eval()
    inner = getattr(tower, "vision_model", tower)
    weights = inner.state_dict()
    for key, value in model.vision_tower.state_dict().items():
        assert key in weights
        weights[key] = value
    inner.load_state_dict(weights)
    most = model.layout.max_tiles_per_image
    inputs = siglip2_processor(patch_size=8, max_num_patches=most, do_resize=do_resize)(images, return_tensors="pt")
    hidden = tower(**inputs, output_hidden_states=True).hidden_states[config.num_vision_layers]
    return [
        hidden[row, : height * width] for row, (height, width) in enumerate(inputs["spatial_shapes"].tolist())
    ], inputs


def plain_tokens(features, shape, model):
    """Patches to tokens, square by square and row by row."""
    (height, width), side = shape, model.config.mm_pixel_shuffle
    tokens = []
    for y in range(0, height, side):
        for x in range(0, width, side):
            square = [features[(y + dy) * width + x + dx] for dy in range(side) for dx in range(side)]
            tokens.append(model.mm_projector(torch.cat(square)))
        if model.image_newline is not None:
            tokens.append(model.image_newline)
    return torch.stack(tokens)


def plain_logits(model, batch, tokens):
    config = model.config
    qwen = Qwen3ForCausalLM(config.text_config).eval()
    qwen.load_state_dict(model.language_model.state_dict())
    embeds = qwen.get_input_embeddings()(batch.input_ids).clone()
    embeds[batch.input_ids == config.image_token_id] = torch.cat(tokens)
    return qwen(inputs_embeds=embeds, attention_mask=batch.attention_mask).logits


@pytest.mark.parametrize(
    ("images", "resized_by"),
    [
        ({"mm_pixel_shuffle": 1, "mm_patch_merge_type": "spatial"}, "transformers"),
        ({}, "us"),
        ({"mm_vision_select_layer": -1, "mm_pixel_shuffle": 3}, "us"),
    ],
)
@torch.no_grad()
def test_features_and_logits_equal_a_plain_composition(mini_native, images, resized_by):
    processor, model = with_images(mini_native, **images)
    larger = [size for size in SIZES if size[0] * size[1] > 60 * 64] if resized_by == "transformers" else SIZES
    pictures = [noise(*size, seed=number) for number, size in enumerate(larger)]
    if resized_by == "us":
        plans = [model.layout.plan(*size) for size in larger]
        pictures = [p.resize(plan.resized, Image.Resampling.BILINEAR) for p, plan in zip(pictures, plans, strict=True)]
    batch = collate([features_of(processor, *larger), features_of(processor)], processor.chat_tokens.pad)
    expected, inputs = plain_features(model, pictures, do_resize=resized_by == "transformers")
    # Bytes are the same; the tower's numbers come from them in another order of operations.
    patches = batch.pixel_values.permute(0, 2, 3, 1).flatten(1)
    theirs = torch.cat(
        [p[m.bool()] for p, m in zip(inputs["pixel_values"], inputs["pixel_attention_mask"], strict=True)]
    )
    torch.testing.assert_close(patches, theirs.float(), atol=1e-6, rtol=0)
    output = model(**batch.model_inputs(with_labels=False))
    torch.testing.assert_close(output.vision_features_NPD[:, 0], torch.cat(expected), atol=1e-5, rtol=0)
    shapes = inputs["spatial_shapes"].tolist()
    tokens = [plain_tokens(one, shape, model) for one, shape in zip(expected, shapes, strict=True)]
    logits = plain_logits(model, batch, tokens)
    kept = batch.attention_mask.bool()
    assert (output.logits - logits)[kept].abs().max() <= 1e-5


@pytest.mark.parametrize("length", [1, 3, 4, 5, 7, 11, 110])
@pytest.mark.parametrize("side", [4, 16])
def test_positions_are_interpolated_as_torch_does_it(length, side):
    line = torch.eye(side).view(1, side, 1, side)
    expected = F.interpolate(line, size=(1, length), mode="bilinear", antialias=True)[0, :, 0].T
    np.testing.assert_allclose(axis_weights(length, side), expected.numpy(), atol=1e-6)


@torch.no_grad()
def test_an_image_s_tokens_do_not_depend_on_what_else_is_in_the_batch(model, processor):
    alone = [features_of(processor, size) for size in SIZES]
    # the same picture in each: `features_of` draws by number
    tokens = [model.image_tokens(encode(model, one), one.image_sizes) for one in alone]
    batch = collate(alone[::-1], processor.chat_tokens.pad)
    together = model.image_tokens(encode(model, batch), batch.image_sizes)
    torch.testing.assert_close(together, torch.cat(tokens[::-1]), atol=1e-5, rtol=0)
    changed = batch.pixel_values.clone()
    changed[: alone[-1].pixels.shape[0]] = 0  # the first image in the batch
    plans = [model.layout.plan(w, h) for h, w in batch.image_sizes.tolist()]
    other = model.image_tokens(model.encode_tiles(changed, plans), batch.image_sizes)
    first = plans[0].num_tokens
    assert not torch.allclose(other[:first], together[:first])
    assert torch.equal(other[first:], together[first:])


def encode(model, one):
    plans = [model.layout.plan(w, h) for h, w in one.image_sizes.tolist()]
    return model.encode_tiles(one.pixel_values, plans)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_packed_row_has_the_loss_and_gradients_of_its_samples(mini_native, processor, checkpointing):
    items = [features_of(processor, *sizes) for sizes in (SIZES[:1], (), SIZES[2:4], SIZES[4:5])]
    pad, num_items = processor.chat_tokens.pad, sum(item.num_supervised for item in items)
    model = hf.new_model(mini_native, processor, seed=0).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def gradients(batches):
        model.zero_grad()
        total = sum(model(**batch.model_inputs(), num_items_in_batch=num_items).loss for batch in batches)
        total.backward()
        return float(total.detach()), [parameter.grad.clone() for parameter in model.parameters()]

    loss, expected = gradients([collate([item], pad) for item in items])
    model.enable_packing()
    for batches in ([collate_packed(items, pad)], [collate_packed(items[::-1], pad)], [collate(items, pad)]):
        found_loss, found = gradients(batches)
        assert found_loss == pytest.approx(loss, abs=1e-5)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


WAYS = [
    {"mm_pixel_shuffle": 1},
    {"mm_pixel_shuffle": 1, "mm_patch_merge_type": "spatial"},
    {"mm_pixel_shuffle": 1, "mm_spatial_pool_stride": 3, "mm_spatial_pool_mode": "average"},
    {"mm_pixel_shuffle": 1, "mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "max"},
    {"mm_pixel_shuffle": 2, "mm_spatial_pool_stride": 2},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: ",".join(f"{k}={v}" for k, v in way.items()))
def test_every_way_of_merging_trains_and_generates(mini_native, way):
    processor, model = with_images(mini_native, **way)
    batch = collate([features_of(processor, *SIZES[:3]), features_of(processor, SIZES[4])], processor.chat_tokens.pad)
    model.train()(**batch.model_inputs()).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    prompt = features_of(processor, SIZES[0], prompt=True)
    ids = model.eval().generate(prompt.input_ids[None], prompt.pixel_values, prompt.image_sizes, max_new_tokens=2)
    assert ids.shape[1] > len(prompt.input_ids)


@pytest.mark.parametrize("mode", ["average", "max", "bilinear"])
@pytest.mark.parametrize("stride", [2, 3, 4])
@torch.no_grad()
def test_pooling_is_torch_s_over_the_image(mini_native, mode, stride):
    processor, model = with_images(
        mini_native, mm_pixel_shuffle=1, mm_spatial_pool_stride=stride, mm_spatial_pool_mode=mode,
        mm_patch_merge_type="spatial",
    )  # fmt: skip
    one = features_of(processor, (70, 50))
    features = encode(model, one)
    columns, rows = model.layout.plan(70, 50).grid
    map_1DHW = model.mm_projector(features[:, 0]).T.unflatten(1, (rows, columns))[None]
    size = rows // stride, columns // stride
    expected = {
        "average": lambda: F.avg_pool2d(map_1DHW, stride),
        "max": lambda: F.max_pool2d(map_1DHW, stride),
        "bilinear": lambda: F.interpolate(map_1DHW, size=size, mode="bilinear"),
    }[mode]()
    torch.testing.assert_close(
        model.image_tokens(features, one.image_sizes), expected[0].flatten(1).T, atol=1e-5, rtol=0
    )


def test_generate_with_cache_equals_without_and_alone_equals_batched(model, processor):
    rows = [features_of(processor, *sizes, prompt=True) for sizes in (SIZES[:1], (), SIZES[3:5])]
    batch = collate(rows, processor.chat_tokens.pad, padding_side="left")
    inputs, length = batch.model_inputs(with_labels=False), batch.input_ids.shape[1]
    cached = model.generate(**inputs, max_new_tokens=6, use_cache=True, eos_token_id=None)[:, length:]
    assert torch.equal(
        cached, model.generate(**inputs, max_new_tokens=6, use_cache=False, eos_token_id=None)[:, length:]
    )
    for row, one in zip(cached, rows, strict=True):
        alone = model.generate(
            one.input_ids[None], one.pixel_values, one.image_sizes if one.pixels is not None else None,
            max_new_tokens=6, eos_token_id=None,
        )  # fmt: skip
        assert torch.equal(alone[0, -6:], row)


@torch.no_grad()
def test_another_attention_of_the_language_model_leaves_the_tower_its_own(mini_native, processor):
    model = hf.new_model(mini_native, processor, seed=0).eval()
    inputs = collate([features_of(processor, *SIZES[:3])], processor.chat_tokens.pad).model_inputs(with_labels=False)
    before = model(**inputs)
    model.set_attention("eager")
    assert model.language_model.config._attn_implementation == "eager"
    after = model(**inputs)
    assert torch.equal(after.vision_features_NPD, before.vision_features_NPD)
    torch.testing.assert_close(after.logits, before.logits, atol=1e-5, rtol=0)


def test_save_load_and_auto_class_give_equal_logits(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = hf.load_processor(tmp_path)
    assert again.image_processor.layout == processor.image_processor.layout == model.layout
    batch = collate([features_of(again, *SIZES)], processor.chat_tokens.pad)
    assert torch.equal(batch.pixels, features_of(processor, *SIZES).pixels)
    with torch.no_grad():
        before = model(**batch.model_inputs(with_labels=False)).logits
        for loaded in (hf.load_model(tmp_path), AutoModelForImageTextToText.from_pretrained(tmp_path)):
            assert isinstance(loaded, ParsitForConditionalGeneration)
            assert torch.equal(loaded.eval()(**batch.model_inputs(with_labels=False)).logits, before)


def test_a_batch_without_images_still_runs_the_tower_in_training(mini_native, processor):
    model = hf.new_model(mini_native, processor, seed=1).train()
    calls = []
    model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    output = model(**collate([features_of(processor)], processor.chat_tokens.pad).model_inputs())
    output.loss.backward()
    assert calls == [1]
    assert all(p.grad is not None for p in model.parameters())
    assert all(not p.grad.any() for p in model.vision_tower.parameters())
    # An output that one rank has with a gradient and another has not lets ZeRO-3 wait for ever.
    assert output.vision_features_NPD.requires_grad


def test_layers_that_are_never_run_are_not_built_and_every_parameter_learns(mini_native, processor):
    model = hf.new_model(mini_native, processor, seed=1).train()
    assert len(model.vision_tower.encoder.layers) == 2  # of 3, at layer -2
    assert not [name for name, _ in model.named_parameters() if "post_layernorm" in name or "head." in name]
    model(**collate([features_of(processor, *SIZES)], processor.chat_tokens.pad).model_inputs()).loss.backward()
    still = [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    # keys' biases shift all scores of a query alike: their gradient is zero by construction
    assert [name for name in still if not name.endswith("k_proj.bias")] == []


@pytest.mark.parametrize("whole", [False, True])
def test_a_pretrained_tower_loads_strictly(mini_native, processor, tmp_path, whole):
    config = hf.config_of(mini_native)
    torch.manual_seed(3)
    if whole:  # as the Hub has it, with its text tower
        text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
        source = Siglip2Model(Siglip2Config(text_config=text, vision_config=config.vision_config.to_dict()))
    else:
        source = Siglip2VisionModel(config.vision_config)
    source.save_pretrained(tmp_path)
    model = hf.model_from_parts(mini_native, processor, 0, str(tmp_path))
    inner = getattr(source, "vision_model", source)
    inner = getattr(inner, "vision_model", inner)
    for name, parameter in model.vision_tower.named_parameters():
        assert torch.equal(parameter, inner.get_parameter(name)), name


def test_adapters_in_the_tower_train_and_merge(mini_native, processor):
    model = hf.new_model(mini_native, processor, seed=0).eval()
    batch = collate([features_of(processor, *SIZES[:2])], processor.chat_tokens.pad)
    inputs = batch.model_inputs(with_labels=False)
    before = model(**inputs).logits
    add_adapters(model, AdapterSettings(lora_r=2, lora_targets_vision="all-linear", lora_dropout=0.0), 0)
    torch.testing.assert_close(model(**inputs).logits, before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted = model(**inputs).logits
    assert not torch.allclose(adapted, before, atol=1e-3)
    torch.testing.assert_close(merge_adapters(model)(**inputs).logits, adapted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image_aspect_ratio": "anyres", "max_image_tokens": None},
            "takes images at native resolution alone: use native, and max_image_tokens",
        ),
        ({"max_image_tokens": None}, "needs max_image_tokens"),
    ],
)
def test_a_tower_and_a_layout_that_do_not_fit_are_refused(mini_native, change, message):
    with pytest.raises(ValueError, match=message):
        hf.config_of(replace(mini_native, multimodal=mini_native.multimodal | change))


def test_tiles_for_a_native_tower_and_patches_for_another_are_refused(mini, model, processor):
    with pytest.raises(ValueError, match="type siglip_vision_model takes tiles of one size alone"):
        hf.config_of(replace(mini, multimodal={"image_aspect_ratio": "native", "max_image_tokens": 60}))
    inputs = collate([features_of(processor, SIZES[0])], processor.chat_tokens.pad).model_inputs(with_labels=False)
    with pytest.raises(ValueError, match="71 patches, but 1 images of these sizes have 72"):
        model(**inputs | {"pixel_values": inputs["pixel_values"][:-1]})


@pytest.mark.parametrize(
    ("positions", "message"), [(25, "num_patches is 25, the preset has 16"), (20, "has 20 positions .* no square grid")]
)
def test_another_trained_grid_is_named(mini_native, processor, tmp_path, positions, message):
    config = hf.config_of(mini_native).vision_config
    Siglip2VisionModel(type(config)(**config.to_dict() | {"num_patches": positions})).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=message):
        hf.model_from_parts(mini_native, processor, 0, str(tmp_path))
