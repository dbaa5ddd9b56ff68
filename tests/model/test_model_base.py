"""The model without `lm_head`: the same numbers from the same folder, and what vLLM's Transformers backend asks."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from parsit import hf
from parsit.model import ParsitModel
from parsit.processing.collate import collate
from parsit.types import ImageRef, Turn


def picture(width, height):
    pixels = torch.randint(0, 255, (height, width, 3), generator=torch.Generator().manual_seed(width))
    return ImageRef(Image.fromarray(pixels.to(torch.uint8).numpy()))


@pytest.fixture(scope="module", params=["tiles", "native", "untied"])
def saved(request, mini, mini_native, tmp_path_factory):
    """A whole model, its processor and the folder that it was saved to."""
    untied = replace(mini, text_config=mini.text_config | {"tie_word_embeddings": False})
    architecture = {"tiles": mini, "native": mini_native, "untied": untied}[request.param]
    processor = hf.new_processor(architecture)
    model = hf.new_model(architecture, processor, seed=4).eval()
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return model, processor, folder


@torch.no_grad()
def test_hidden_states_are_those_that_the_head_of_the_whole_model_reads(saved):
    whole, processor, folder = saved
    base = AutoModel.from_pretrained(folder).eval()
    assert type(base) is ParsitModel
    turns = (Turn("user", (picture(70, 33), "and", picture(20, 90), "Which?")),)
    inputs = collate([processor.encode(turns)], processor.chat_tokens.pad).model_inputs(with_labels=False)
    del inputs["image_positions"]
    hidden_BTD = base(**inputs, use_cache=False, return_dict=False)[0]
    expected = whole(**inputs).logits
    assert torch.allclose(whole.get_output_embeddings()(hidden_BTD), expected, atol=1e-5)
    embeds_BTD, _ = base.embed(inputs["input_ids"], inputs["pixel_values"], inputs["image_sizes"])
    of_embeds = base(inputs_embeds=embeds_BTD, use_cache=False, return_dict=False)[0]
    assert torch.equal(of_embeds, hidden_BTD)


@torch.no_grad()
def test_each_images_tokens_come_by_themselves(saved):
    whole, processor, folder = saved
    base = ParsitModel.from_pretrained(folder).eval()
    images = [picture(70, 33).source, picture(20, 90).source, picture(70, 33).source]
    features = processor.image_processor(images)
    found = base.get_image_features(features["pixel_values"], features["image_sizes"], return_dict=True).pooler_output
    layout = whole.layout
    assert [len(tokens) for tokens in found] == [layout.num_image_tokens(*image.size) for image in images]
    expected = whole.image_tokens(whole.encode_tiles(*tiles_and_plans(whole, features)), features["image_sizes"])
    assert torch.allclose(torch.cat(found), expected, atol=1e-6)
    # vLLM stacks images of one size: a dimension more
    alone = processor.image_processor(images[:1])
    tiles_NCHW = alone["pixel_values"]
    stacked = base.get_image_features(torch.stack([tiles_NCHW, tiles_NCHW]), alone["image_sizes"].repeat(2, 1))
    assert torch.allclose(stacked.pooler_output[1], found[0], atol=1e-6)
    with pytest.raises(ValueError, match="use the model's own processor"):
        base.get_image_features(tiles_NCHW[1:], alone["image_sizes"])


def tiles_and_plans(model, features):
    return features["pixel_values"], [model.layout.plan(w, h) for h, w in features["image_sizes"].tolist()]


def test_it_loads_as_strictly_as_the_whole_model(saved, tmp_path):
    whole, _, folder = saved
    weights = load_file(folder / "model.safetensors")
    assert {"language_model.model.norm.weight", "mm_projector.0.weight"} <= weights.keys()  # the written layout
    assert ("language_model.lm_head.weight" in weights) is not whole.config.text_config.tie_word_embeddings
    whole.config.save_pretrained(tmp_path)
    for changed, said in (
        ({k: v for k, v in weights.items() if "norm.weight" not in k}, "missing: .*language_model"),
        (weights | {"language_model.extra": torch.ones(1)}, r"unexpected: language_model\.extra"),
        (weights | {"other": torch.ones(1)}, "unexpected: other"),
    ):
        save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=said):
            ParsitModel.from_pretrained(tmp_path)


def test_vllms_entry_point_makes_it_known(saved):
    """As vLLM loads it: by the name in the wheel, and by transformers' conversions (of 5.x, which vLLM needs)."""
    conversions = pytest.importorskip("transformers.conversion_mapping")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    EntryPoint("parsit", project["entry-points"]["vllm.general_plugins"]["parsit"], "vllm.general_plugins").load()()
    import transformers

    assert transformers.ParsitForConditionalGeneration is type(saved[0])
    assert transformers.ParsitForConditionalGeneration.is_backend_compatible()
    base = ParsitModel.from_pretrained(saved[2])  # renamed once, though it is said twice
    targets = [
        [renaming.target_patterns for renaming in conversions.get_model_conversion_mapping(model, add_legacy=False)]
        for model in (base, saved[0])
    ]
    assert [["language_model."] in found for found in targets] == [True, False]


def test_it_does_not_save_itself_as_half_a_model(saved, tmp_path):
    base = ParsitModel.from_pretrained(saved[2])
    with pytest.raises(TypeError, match="save ParsitForConditionalGeneration"):
        base.save_pretrained(tmp_path / "half")
    assert not (tmp_path / "half").exists()
