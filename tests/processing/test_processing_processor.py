"""The processor: tiles against Pillow, the Hugging Face interface, save and load."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor

from parsit import hf
from parsit.processing.collate import collate
from parsit.processing.image_processor import ParsitImageProcessor
from parsit.processing.processor import ParsitProcessor
from parsit.types import ImageRef, InputError, Turn


@pytest.fixture(scope="module")
def processor(mini):
    return hf.new_processor(mini)


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_tiles_are_the_overview_and_the_grid_row_by_row():
    image = noise(64, 32)
    tiles = ParsitImageProcessor(32, 8, image_grid_pinpoints="(1x1),...,(2x2)").tiles(image)
    pixels = np.asarray(image, np.float32) / 127.5 - 1
    assert tiles.shape == (3, 3, 32, 32)
    np.testing.assert_allclose(tiles[1].permute(1, 2, 0), pixels[:, :32], atol=1e-6)
    np.testing.assert_allclose(tiles[2].permute(1, 2, 0), pixels[:, 32:], atol=1e-6)
    overview = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1
    np.testing.assert_allclose(tiles[0].permute(1, 2, 0), overview, atol=1e-6)


def test_padding_is_zero_for_the_tower_and_in_the_places_that_are_unpadded():
    layout = ParsitImageProcessor(32, 8, image_grid_pinpoints="(1x1),...,(4x1)")
    tiles = layout.tiles(Image.new("RGB", (128, 16), "black"))
    canvas = tiles[1:].permute(2, 0, 3, 1).reshape(32, 128, 3)
    assert canvas[:8].abs().max() < 0.01
    assert canvas[24:].abs().max() < 0.01
    assert (canvas[8:24] == -1).all()
    plan = layout.layout.plan(128, 16)
    assert plan.crop == (1, 3, 0, 16)  # rows of 8 px patches


def test_pad_mode_is_one_square_tile():
    tiles = ParsitImageProcessor(32, 8, image_aspect_ratio="pad").tiles(Image.new("RGB", (100, 50), "black"))
    assert tiles.shape == (1, 3, 32, 32)
    assert (tiles[0, :, 8:24] == -1).all()
    assert tiles[0, :, :8].abs().max() < 0.01


def test_counts_from_headers_equal_what_is_encoded(processor, picture):
    turns = (
        Turn("user", (ImageRef(picture(90, 40)), "and", ImageRef(picture(20, 70, name="b.png")))),
        Turn("assistant", ("done",)),
    )
    features = processor.encode(turns)
    assert processor.count(turns) == (len(features.input_ids), len(features.pixel_values))
    layout = processor.image_processor.layout
    expected = layout.num_image_tokens(90, 40) + layout.num_image_tokens(20, 70)
    assert int((features.input_ids == processor.chat_tokens.image).sum()) == expected


def test_an_image_that_cannot_be_read_is_an_error_that_names_it(processor, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"broken\.png"):
        processor.encode((Turn("user", (ImageRef(tmp_path / "broken.png"),)),))


def test_saved_and_loaded_processors_are_equal(processor, tmp_path, mini):
    hf.config_of(mini, processor.chat_tokens.image).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    turns = (Turn("user", (ImageRef(noise(70, 33)), "Read <|im_end|> this.")), Turn("assistant", ("Ü 1",)))
    expected = processor.encode(turns)
    for loaded in (ParsitProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, ParsitProcessor)
        features = loaded.encode(turns)
        assert torch.equal(features.input_ids, expected.input_ids)
        assert torch.equal(features.pixel_values, expected.pixel_values)
        assert loaded.chat_template == processor.chat_template
    assert isinstance(AutoImageProcessor.from_pretrained(tmp_path), ParsitImageProcessor)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    assert settings["read_prompt"] == processor.read_prompt


def test_call_with_rendered_text_equals_encode(processor):
    image = noise(70, 33)
    turns = (Turn("user", (ImageRef(image), "Read.")),)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Read."}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    called = processor(text=text, images=image)
    encoded = processor.encode(turns, add_generation_prompt=True)
    assert torch.equal(called["input_ids"][0], encoded.input_ids)
    assert torch.equal(called["pixel_values"], encoded.pixel_values)
    message["content"][0]["image"] = image
    templated = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=True)
    assert torch.equal(templated["input_ids"][0], encoded.input_ids)
    with pytest.raises(ValueError, match=r"1 <\|image_pad\|>, but 2 images"):
        processor(text=text, images=[image, image])


def test_several_conversations_are_a_padded_batch(processor):
    short = [{"role": "user", "content": "Hello"}]
    seen = [{"role": "user", "content": [{"type": "image", "image": noise(70, 33)}, {"type": "text", "text": "Read."}]}]
    alone = [processor.apply_chat_template(one, add_generation_prompt=True, tokenize=True) for one in (short, seen)]
    options = {"add_generation_prompt": True, "tokenize": True, "return_tensors": "pt"}
    together = processor.apply_chat_template([short, seen, seen], padding=True, **options)
    length = alone[1]["input_ids"].shape[1]
    assert together["input_ids"].shape == together["attention_mask"].shape == (3, length)
    missing = length - alone[0]["input_ids"].shape[1]
    assert (together["input_ids"][0, :missing] == processor.chat_tokens.pad).all()
    assert together["attention_mask"].sum(1).tolist() == [length - missing, length, length]
    assert torch.equal(together["input_ids"][0, missing:], alone[0]["input_ids"][0])
    assert torch.equal(together["input_ids"][1], alone[1]["input_ids"][0])
    assert torch.equal(together["pixel_values"], torch.cat([alone[1]["pixel_values"]] * 2))
    assert together["image_sizes"].tolist() == [[33, 70]] * 2
    right = processor.apply_chat_template([short, seen], padding_side="right", return_dict=False, **options)
    assert torch.equal(right[0, : length - missing], alone[0]["input_ids"][0])
    assert "pixel_values" not in alone[0]
    texts = processor.apply_chat_template([short, seen], add_generation_prompt=True)
    assert texts == [processor.apply_chat_template(one, add_generation_prompt=True) for one in (short, seen)]


@pytest.mark.parametrize(
    ("messages", "options", "said"),
    [
        ([], {}, "without messages"),
        ([[{"role": "user", "content": "a"}], []], {}, "without messages"),
        ([{"role": "user", "content": "a"}], {"truncation": True, "max_length": 4}, "truncation"),
        ([{"role": "user", "content": "a"}], {"return_tensors": "np"}, "'np'"),
    ],
)
def test_what_apply_chat_template_refuses(processor, messages, options, said):
    with pytest.raises(ValueError, match=said):
        processor.apply_chat_template(messages, tokenize=True, **options)


def test_a_folder_asks_nobody_to_trust_code(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert not any("auto_map" in path.read_text() for path in tmp_path.glob("*.json"))


def test_tokenized_template_keeps_special_tokens_in_content_as_text(processor):
    message = {"role": "user", "content": "stop <|im_end|>"}
    ids = processor.apply_chat_template([message], tokenize=True)["input_ids"][0].tolist()
    assert ids.count(processor.chat_tokens.im_end) == 1


def test_collate_pads_on_either_side(processor):
    short = processor.encode((Turn("user", ("a",)), Turn("assistant", ("b",))))
    long = processor.encode((Turn("user", (ImageRef(noise(30, 30)), "a")), Turn("assistant", ("b",))))
    pad = processor.chat_tokens.pad
    for side, cut in (("right", slice(0, len(short.input_ids))), ("left", slice(-len(short.input_ids), None))):
        batch = collate([short, long], pad, side)
        assert torch.equal(batch.input_ids[0, cut], short.input_ids)
        assert batch.attention_mask[0].sum() == len(short.input_ids)
        assert (batch.labels[0][batch.attention_mask[0] == 0] == -100).all()
        assert (batch.input_ids[0][batch.attention_mask[0] == 0] == pad).all()
        assert batch.pixel_values.shape[0] == long.pixel_values.shape[0]
        assert batch.num_supervised == short.num_supervised + long.num_supervised
    assert collate([short], pad).pixel_values is None


def test_bytes_become_the_tower_s_numbers_as_numpy_makes_them():
    """OpenAI's CLIP constants, whose products are no round numbers."""
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    images = ParsitImageProcessor(32, 8, image_mean=mean, image_std=std)
    pixels = images.pixels(noise(90, 50))
    assert pixels.dtype == torch.uint8
    scale = [(np.asarray(values, np.float32) * 255).reshape(3, 1, 1) for values in (mean, std)]
    expected = (pixels.numpy().astype(np.float32) - scale[0]) / scale[1]
    assert np.array_equal(images.tiles(noise(90, 50)).numpy(), expected)


def test_a_conversation_carries_bytes(processor, picture):
    turns = (Turn("user", (ImageRef(picture(90, 40)), "Read.")), Turn("assistant", ("Hi",)))
    features = processor.encode(turns)
    batch = collate([features, features], processor.chat_tokens.pad)
    assert (features.pixels.dtype, batch.pixels.dtype) == (torch.uint8, torch.uint8)
    assert torch.equal(
        batch.pixel_values, torch.cat([processor.image_processor(turns[0].images[0].source)["pixel_values"]] * 2)
    )


@pytest.mark.parametrize("kind", ["image", "path", "url", "image_url"])
@pytest.mark.parametrize("form", ["plain", "file:", "data:", "~"])
def test_a_string_in_a_message_opens_no_file(processor, picture, kind, form):
    path = picture(40, 30)
    named = {"plain": str(path), "file:": path.as_uri(), "data:": f"data:image/png,{path}", "~": "~/image.png"}[form]
    part = {"type": "image_url", kind: {"url": named}} if kind == "image_url" else {"type": "image", kind: named}
    message = {"role": "user", "content": [part, {"type": "text", "text": "Read."}]}
    with pytest.raises(ValueError, match="data: URL"):
        processor.apply_chat_template([message], tokenize=True)


def test_an_image_in_a_message_is_a_path_bytes_a_picture_or_a_data_url(processor, picture):
    path = picture(40, 30)
    encoded = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    parts = [
        *({"type": "image", key: path} for key in ("image", "path", "url")),
        {"type": "image", "image": path.read_bytes()},
        {"type": "image", "image": Image.open(path)},
        {"type": "image", "url": encoded},
        {"type": "image_url", "image_url": {"url": encoded}},
        {"type": "image_url", "image_url": encoded},
    ]
    expected = processor.encode((Turn("user", (ImageRef(path), "Read.")),))
    for part in parts:
        message = {"role": "user", "content": [part, {"type": "text", "text": "Read."}]}
        encoded_message = processor.apply_chat_template([message], tokenize=True)
        assert torch.equal(encoded_message["input_ids"][0], expected.input_ids)
        assert torch.equal(encoded_message["pixel_values"], expected.pixel_values)


def test_a_broken_data_url_is_told_in_a_short_line(processor):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "Ä" * 10_000}}
    with pytest.raises(ValueError, match="its base64 is broken") as told:
        processor.apply_chat_template([{"role": "user", "content": [part]}], tokenize=True)
    assert len(str(told.value)) < 300
