"""Weights from elsewhere: LLaVA's names, its projectors told apart, shards, and pickles that must not run."""

from __future__ import annotations

import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from parsit import hf
from parsit.model.import_weights import load_checkpoint, load_projector, read_projector
from parsit.model.weight_files import read_weights
from parsit.types import InputError


@pytest.fixture
def new(mini):
    processor = hf.new_processor(mini)
    return lambda seed=0, **multimodal: hf.new_model(
        replace(mini, multimodal=mini.multimodal | multimodal), processor, seed
    )


def old_names(model) -> dict[str, torch.Tensor]:
    """The model's weights as LLaVA-NeXT and older Parsit name them, with what they save besides."""
    renamed = {}
    for name, value in model.state_dict().items():
        name = name.replace("language_model.model.", "model.").replace("language_model.lm_head", "lm_head")
        name = name.replace("vision_tower.", "model.vision_tower.vision_tower.vision_model.")
        if name.startswith(("mm_projector", "image_newline")):
            name = f"model.{name}"
        renamed[name] = value.clone()
    renamed["model.vision_tower.vision_tower.vision_model.post_layernorm.weight"] = torch.ones(32)
    renamed["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    return renamed


def llava_projector(norm: bool, newline: bool = True, depth: int = 2) -> dict[str, torch.Tensor]:
    """`mm_projector.bin` as LLaVA-NeXT (without norm) or older Parsit writes it for the miniature: 32 to 48."""
    layers: list[nn.Module] = [nn.Linear(32, 48)] + [nn.LayerNorm(48)] * norm
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(48, 48)]
    weights = {f"model.mm_projector.{name}": value for name, value in nn.Sequential(*layers).state_dict().items()}
    return weights | ({"model.image_newline": torch.randn(48)} if newline else {})


class Evil:
    """What a pickle does when it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# ---- projectors


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("newline", [True, False])
@pytest.mark.parametrize("prefix", ["model.", "", "base_model.model.model."])
def test_a_projector_is_loaded_and_nothing_else_changes(new, tmp_path, suffix, newline, prefix):
    weights = llava_projector(norm=True, newline=newline)
    file = tmp_path / f"mm_projector.{suffix}"
    named = {name.replace("model.", prefix, 1): value for name, value in weights.items()}
    (save_file if suffix == "safetensors" else torch.save)(named, file)
    model, before = new(), new().state_dict()
    load_projector(model, file)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights.get(f"model.{name}", before[name])), name


@pytest.mark.slow
def test_a_models_folder_is_a_projectors_source_too(new, tmp_path):
    source = new(1)
    source.save_pretrained(tmp_path / "model")
    model = new()
    load_projector(model, tmp_path / "model")
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.mm_projector.parameters(), source.mm_projector.parameters(), strict=True)
    )
    assert torch.equal(model.image_newline, source.image_newline)
    assert not torch.equal(model.get_input_embeddings().weight, source.get_input_embeddings().weight)


def test_so_is_a_folder_with_adapters(new, tmp_path):
    from parsit.model.adapter_files import BaseModel, save_adapters
    from parsit.model.adapters import AdapterSettings, add_adapters

    source = new(1)
    source.save_pretrained(tmp_path / "base")
    add_adapters(source, AdapterSettings(), seed=0)
    source.mm_projector.requires_grad_(True)
    save_adapters(source, tmp_path / "adapters", BaseModel.of(tmp_path / "base"))
    model = new()
    load_projector(model, tmp_path / "adapters")
    assert torch.equal(model.mm_projector[3].weight, source.mm_projector[3].weight)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_projectors_are_told_apart_by_their_shapes(tmp_path, depth):
    for norm in (True, False):
        torch.save(llava_projector(norm, depth=depth), tmp_path / "p.bin")
        projector = read_projector(tmp_path / "p.bin")
        assert (projector.type, projector.has_norm) == (f"mlp{depth}x_gelu" + ("" if norm else "_no_norm"), norm)
    torch.save({"model.mm_projector.weight": torch.ones(48, 32), "model.mm_projector.bias": torch.ones(48)},
               tmp_path / "p.bin")  # fmt: skip
    assert read_projector(tmp_path / "p.bin").type == "linear"


def test_a_linear_projector_is_loaded(new, tmp_path):
    weights = {"model.mm_projector.weight": torch.randn(48, 32), "model.mm_projector.bias": torch.randn(48)}
    torch.save(weights, tmp_path / "mm_projector.bin")
    model = new(mm_projector_type="linear")
    load_projector(model, tmp_path)
    assert torch.equal(model.mm_projector.weight, weights["model.mm_projector.weight"])


def residual():
    """LLaVA's mlp2x_res2x_gelu."""
    return llava_projector(False) | {
        "model.mm_projector.3.pre_norm.weight": torch.ones(48),
        "model.mm_projector.3.pre_norm.bias": torch.ones(48),
    }


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (llava_projector(norm=False), "holds a mlp2x_gelu_no_norm projector, the model has mlp2x_gelu: build"),
        (llava_projector(norm=True, depth=3), "holds a mlp3x_gelu projector, the model has mlp2x_gelu"),
        (residual(), "Parsit knows linear and mlpNx_gelu"),
        ({"model.image_newline": torch.ones(48)}, "no projector there"),
        (llava_projector(norm=True) | {"lm_head.weight": torch.ones(1)}, "holds more than a projector: lm_head.weight"),
        ({n: v[..., :40] for n, v in llava_projector(norm=True).items()}, r"\(48, 32\)|\(40,\) instead of \(48,\)"),
        ({n: v for n, v in llava_projector(norm=True).items() if n != "model.mm_projector.3.bias"}, "Parsit knows"),
    ],
)
def test_a_projector_that_does_not_fit_is_refused_and_nothing_loaded(new, tmp_path, weights, message):
    torch.save(weights, tmp_path / "p.bin")
    model, before = new(), new().state_dict()
    with pytest.raises(InputError, match=message):
        load_projector(model, tmp_path / "p.bin")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_newline_that_the_model_has_no_use_for_is_not_dropped_silently(new, tmp_path):
    torch.save(llava_projector(norm=True), tmp_path / "p.bin")
    with pytest.raises(InputError, match="unexpected: image_newline"):
        load_projector(new(mm_patch_merge_type="flat"), tmp_path / "p.bin")


# ---- whole checkpoints


def shard(weights, folder, suffix):
    """Write weights in two shards with an index, as transformers names them."""
    names = sorted(weights)
    stem = "pytorch_model" if suffix == "bin" else "model"
    places = {}
    for number, part in enumerate((names[:10], names[10:]), 1):
        file = f"{stem}-{number:05}-of-00002.{suffix}"
        (torch.save if suffix == "bin" else save_file)({name: weights[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("layout", ["bin", "safetensors", "bin shards", "safetensors shards"])
def test_a_checkpoint_under_the_old_names_is_loaded_whole(new, tmp_path, layout):
    source, model = new(1), new(0)
    weights = old_names(source)
    suffix = layout.split()[0]
    if layout.endswith("shards"):
        shard(weights, tmp_path, suffix)
    elif suffix == "bin":
        torch.save(weights, tmp_path / "pytorch_model.bin")
    else:
        save_file(weights, tmp_path / "model.safetensors")
    left_out = load_checkpoint(model, read_weights(tmp_path), tmp_path)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())
    assert sorted(left_out) == [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.vision_tower.vision_tower.vision_model.post_layernorm.weight",
    ]


def test_layers_of_the_tower_that_are_never_run_are_left_out_by_name(new):
    weights = old_names(new())
    layer = "model.vision_tower.vision_tower.vision_model.encoder.layers.2.mlp.fc1.bias"
    assert layer in load_checkpoint(new(), weights | {layer: torch.ones(64)}, "x")


def test_tied_weights_may_be_saved_once(new):
    weights = old_names(new(1))
    del weights["lm_head.weight"]
    model = new()
    load_checkpoint(model, weights, "x")
    assert torch.equal(model.get_output_embeddings().weight, new(1).get_output_embeddings().weight)


def test_a_tower_from_elsewhere_stays_as_it_is(new):
    weights = {name: value for name, value in old_names(new(1)).items() if "vision_tower" not in name}
    model, before = new(), new().state_dict()
    load_checkpoint(model, weights, "x", with_tower=False)
    assert torch.equal(model.mm_projector[0].weight, weights["model.mm_projector.0.weight"])
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items() if n.startswith("vision_tower."))
    with pytest.raises(InputError, match=r"missing: vision_tower\."):
        load_checkpoint(model, weights, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": None}, "missing: language_model.model.norm.weight"),
        ({"model.vision_resampler.weight": torch.ones(1)}, "unexpected: model.vision_resampler.weight"),
        ({"model.norm.weight": torch.ones(3)}, r"language_model.model.norm.weight \(\(3,\) instead of \(48,\)\)"),
        ({"lm_head.weight": torch.ones(4096, 48)}, "lm_head and embed_tokens differ, but the architecture ties them"),
        ({"model.mm_projector.1.bias": None, "model.mm_projector.1.weight": None}, "Parsit knows linear"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(new, change, message):
    weights = {name: value for name, value in (old_names(new()) | change).items() if value is not None}
    with pytest.raises(InputError, match=message):
        load_checkpoint(new(), weights, "x")


def test_llavas_own_projector_has_a_type_of_its_own(new):
    weights = {name: value for name, value in old_names(new()).items() if "mm_projector" not in name}
    weights |= llava_projector(norm=False)
    with pytest.raises(InputError, match=r"build the model with --mm_projector_type mlp2x_gelu_no_norm"):
        load_checkpoint(new(), weights, "x")
    model = new(mm_projector_type="mlp2x_gelu_no_norm")
    load_checkpoint(model, weights, "x")
    features = torch.randn(5, 32)
    first, second = (weights[f"model.mm_projector.{i}.weight"] for i in (0, 2))
    biases = [weights[f"model.mm_projector.{i}.bias"] for i in (0, 2)]
    by_hand = torch.nn.functional.gelu(features @ first.T + biases[0]) @ second.T + biases[1]
    torch.testing.assert_close(model.mm_projector(features), by_hand)


# ---- files that are not what they should be


def write_zip_pickle(obj, file):
    torch.save(obj, file)


def write_legacy_pickle(obj, file):
    torch.save(obj, file, _use_new_zipfile_serialization=False)


def write_plain_pickle(obj, file):
    file.write_bytes(pickle.dumps(obj))


@pytest.mark.parametrize("write", [write_zip_pickle, write_legacy_pickle, write_plain_pickle])
def test_a_pickle_does_not_run(new, tmp_path, write):
    trap = tmp_path / "ran"
    file = tmp_path / "mm_projector.bin"
    write(llava_projector(norm=True) | {"model.mm_projector.0.weight": Evil(trap)}, file)
    with pytest.raises(InputError, match=r"mm_projector\.bin: refused: .*run their code"):
        load_projector(new(), file)
    assert not trap.exists()
    if write is write_plain_pickle:  # the trap works
        pickle.loads(file.read_bytes())
        assert trap.exists()


def test_a_pickle_in_a_shard_does_not_run(tmp_path):
    shard({"a": torch.ones(1)}, tmp_path, "bin")
    torch.save({"a": Evil(tmp_path / "ran")}, tmp_path / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(InputError, match="refused"):
        read_weights(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_shards_stay_in_their_folder(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    torch.save({"a": torch.ones(1)}, tmp_path / "outside.bin")
    for name in ("../outside.bin", str(tmp_path / "outside.bin")):
        (inside / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(InputError, match="no file of its own folder"):
            read_weights(inside)


def break_index(folder):
    (folder / "pytorch_model.bin.index.json").write_text("[]")


def lose_shard(folder):
    (folder / "pytorch_model-00002-of-00002.bin").unlink()


def empty_shard(folder):
    torch.save({}, folder / "pytorch_model-00002-of-00002.bin")


def cut_shard(folder):
    file = folder / "pytorch_model-00002-of-00002.bin"
    file.write_bytes(file.read_bytes()[:-200])


def zip_of_something_else(folder):
    with zipfile.ZipFile(folder / "pytorch_model-00002-of-00002.bin", "w") as file:
        file.writestr("hello.txt", "hello")


def list_of_tensors(folder):
    torch.save([torch.ones(1)], folder / "pytorch_model-00002-of-00002.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_index, "not an index of shards"),
        (lose_shard, "00002-of-00002.bin: no such file"),
        (empty_shard, "lists tensors that its shards do not hold: b"),
        (cut_shard, "cannot be read as weights|refused"),
        (zip_of_something_else, "cannot be read as weights|refused"),
        (list_of_tensors, "not a state dict"),
    ],
)
def test_broken_files_are_one_line(tmp_path, spoil, message):
    weights = {f"a{i}": torch.ones(100) for i in range(10)} | {"b": torch.ones(100)}
    shard(weights, tmp_path, "bin")
    assert read_weights(tmp_path).keys() == weights.keys()
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read_weights(tmp_path)
    assert "\n" not in str(caught.value)


def test_other_files_are_one_line(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    (tmp_path / "x.bin").write_bytes(b"")
    for name, message in (("x.safetensors", "not a safetensors file"), ("x.bin", "x.bin: "), ("y.bin", "no such file")):
        with pytest.raises(InputError, match=message):
            read_weights(tmp_path / name)
    with pytest.raises(InputError, match=r"no weights there \(one of"):
        read_weights(tmp_path)
