"""Adapters: fresh ones change nothing, all of them learn, merged ones compute the same, files hold exactly them."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from parsit import hf
from parsit.model import ParsitForConditionalGeneration
from parsit.model.adapter_files import (
    BaseModel,
    is_adapter_folder,
    load_adapters,
    load_with_adapters,
    save_adapters,
)
from parsit.model.adapters import AdapterSettings, adapter_parameters, add_adapters, merge_adapters
from parsit.model.quantize import (
    dequantize,
    dequantized_weight,
    language_linears,
    num_parameters,
    quantize,
    quantized_names,
    set_compute_dtype,
)
from parsit.processing.collate import collate
from parsit.types import ImageRef, InputError, Turn, UsageError

BOTH = {"lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_targets_vision": "q_proj,fc1"}
KINDS = {
    "lora": AdapterSettings(**BOTH),
    "dora": AdapterSettings(**BOTH, use_dora=True),
    "some layers": AdapterSettings(**BOTH | {"lora_targets_language": "q_proj, v_proj", "lora_targets_vision": ""}),
    "vision alone": AdapterSettings(**BOTH | {"lora_targets_language": ""}),
    "qlora": AdapterSettings(**BOTH, bits=4),
    "qlora without double_quant": AdapterSettings(**BOTH, bits=4, double_quant=False),
    "qlora on some layers": AdapterSettings(**BOTH | {"lora_targets_language": "q_proj"}, bits=4),
    "qdora": AdapterSettings(**BOTH, bits=4, use_dora=True),
}
every_kind = pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)


@pytest.fixture(scope="module")
def processor(mini):
    return hf.new_processor(mini)


@pytest.fixture(scope="module")
def batch(processor):
    image = ImageRef(Image.radial_gradient("L").resize((70, 40)).convert("RGB"))
    turns = (Turn("user", (image, "Read.")), Turn("assistant", ("one two",)))
    return collate([processor.encode(turns)], processor.chat_tokens.pad)


@pytest.fixture(scope="module")
def wide(mini):
    """The miniature with rows of whole blocks, which 4-bit weights need."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    return replace(mini, text_config=mini.text_config | sizes)


@pytest.fixture
def new(wide, processor):
    return lambda seed=0: hf.new_model(wide, processor, seed)


@torch.no_grad()
def logits(model, batch):
    return model.eval()(**batch.model_inputs(with_labels=False)).logits


def adapted(model, settings):
    """The model with adapters that do something: fresh ones multiply by zero."""
    add_adapters(model, settings, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def base(new, processor, tmp_path):
    folder = tmp_path / "run" / "base"
    new().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


# ---- what is added


@every_kind
def test_fresh_adapters_change_nothing_and_leave_the_random_numbers_alone(new, batch, settings):
    model = new()
    quantized = new()
    if settings.bits == 4:
        quantize(quantized, language_linears(quantized), settings.double_quant, settings.quant_type)
    torch.manual_seed(3)
    add_adapters(model, settings, seed=1)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    assert (logits(model, batch) - logits(quantized, batch)).abs().max() <= 1e-6
    assert type(model) is ParsitForConditionalGeneration


def test_adapters_are_where_they_were_asked_for_and_nowhere_else(new):
    model = new()
    add_adapters(model, KINDS["lora"], seed=1)
    layers = {name.partition(".lora_")[0] for name in adapter_parameters(model)}
    language = {f"language_model.model.layers.{i}.{m}" for i in range(2) for m in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}  # fmt: skip
    vision = {f"vision_tower.encoder.layers.{i}.{m}" for i in range(2) for m in ("self_attn.q_proj", "mlp.fc1")}
    assert layers == language | vision
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == adapter_parameters(model).keys()


def test_one_seed_draws_the_same_adapters_and_another_seed_others(new):
    draws = []
    for seed in (1, 1, 2):
        model = new()
        add_adapters(model, KINDS["lora"], seed)
        draws.append(adapter_parameters(model))
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])
    assert any(not torch.equal(draws[0][name], draws[2][name]) for name in draws[0])


def test_adapters_of_a_half_precision_base_are_in_single_precision(new):
    model = new().bfloat16()
    add_adapters(model, KINDS["dora"], seed=1)
    assert {parameter.dtype for parameter in adapter_parameters(model).values()} == {torch.float32}
    merged = merge_adapters(model)
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_targets_language": "q_prj"}, "--lora_targets_language: unknown layer 'q_prj'; did you mean q_proj"),
        ({"lora_targets_language": "lm_head"}, "unknown layer 'lm_head'"),
        ({"lora_targets_language": "embed_tokens"}, "unknown layer 'embed_tokens'"),
        ({"lora_targets_vision": "gate_proj"}, "--lora_targets_vision: unknown layer 'gate_proj'"),
        ({"lora_targets_language": ""}, "adapters without targets"),
        ({"lora_targets_language": "", "lora_targets_vision": "fc1", "bits": 4}, "--bits 4 .* --lora_targets_language"),
        ({"lora_r": 0}, "--lora_r is 0"),
        ({"lora_alpha": 0}, "--lora_alpha is 0"),
        ({"lora_dropout": 1.0}, "--lora_dropout is 1.0"),
        ({"bits": 8}, "--bits is 8"),
        ({"quant_type": "int4"}, "--quant_type is int4"),
    ],
)
def test_settings_that_cannot_be_are_refused(new, values, message):
    with pytest.raises(UsageError, match=message):
        add_adapters(new(), AdapterSettings(**values), seed=0)


# ---- what moves


@every_kind
def test_every_adapter_learns_within_two_steps_and_nothing_else_moves(new, batch, settings):
    model = new().train()
    add_adapters(model, settings, seed=1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(adapter_parameters(model).values(), lr=1e-2, weight_decay=0.0)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch.model_inputs()).loss.backward()
        optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == adapter_parameters(model).keys()


def test_dropout_is_on_in_training_only(new, batch):
    model = adapted(new().eval(), AdapterSettings(**BOTH | {"lora_dropout": 0.5}))
    inputs = batch.model_inputs(with_labels=False)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, model(**inputs).logits)
        assert not torch.equal(model.train()(**inputs).logits, model(**inputs).logits)


# ---- what is merged


@every_kind
def test_a_merged_model_is_an_ordinary_one_that_computes_the_same(new, batch, settings, tmp_path):
    model = adapted(new(), settings)
    expected = logits(model, batch)
    assert (expected - logits(new(), batch)).abs().max() > 0.01  # the adapters do something
    merged = merge_adapters(model)
    assert (logits(merged, batch) - expected).abs().max() <= 1e-5
    assert merged.state_dict().keys() == new().state_dict().keys()
    assert not quantized_names(merged)
    assert not any(hasattr(tower, "peft_config") for tower in (merged.language_model, merged.vision_tower))
    merged.save_pretrained(tmp_path)
    loaded = hf.load_model(tmp_path)
    assert torch.equal(logits(loaded, batch), logits(merged, batch))


def test_a_merged_model_can_get_adapters_again(new, batch):
    merged = merge_adapters(adapted(new(), KINDS["lora"]))
    once = logits(merged, batch)
    assert (logits(merge_adapters(adapted(merged, KINDS["dora"])), batch) - once).abs().max() > 0.01


def test_a_broken_adapter_is_not_merged(new):
    model = adapted(new(), KINDS["lora"])
    with torch.no_grad():
        next(iter(adapter_parameters(model).values()))[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"layers\.0\.self_attn\.\w+: the adapter is broken"):
        merge_adapters(model)


# ---- 4 bits


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_four_bits_are_near_the_weights_and_computed_exactly(new, double_quant, quant_type):
    model, plain = new(), new()
    names = language_linears(model)
    quantize(model, names, double_quant, quant_type)
    assert quantized_names(model) == names
    assert not any("lm_head" in name for name in names)
    for name in names:
        layer, original = model.get_submodule(name), plain.get_submodule(name).weight
        weight = dequantized_weight(layer)
        assert 0.05 < (weight - original).std() / original.std() < {"nf4": 0.1, "fp4": 0.15}[quant_type]
        assert layer.weight.numel() * 2 == num_parameters(layer.weight) == original.numel()
        x = torch.randn(3, original.shape[1], requires_grad=True)
        y = layer.train()(x)
        assert (y - x @ weight.T).abs().max() <= 1e-5
        y.sum().backward()
        assert (x.grad - weight.sum(0)).abs().max() <= 1e-5
        with torch.no_grad():  # in eval mode bitsandbytes would compute in bf16 on some CPUs
            assert (layer.eval()(x) - x @ weight.T).abs().max() <= 1e-5


def test_dequantize_gives_ordinary_layers_with_the_weights_that_were_computed_with(new, batch):
    model = new()
    quantize(model, language_linears(model))
    expected = logits(model, batch)
    dequantize(model)
    assert (logits(model, batch) - expected).abs().max() <= 1e-5
    assert model.state_dict().keys() == new().state_dict().keys()


def test_a_layers_bias_stays():
    model = torch.nn.Sequential(torch.nn.Linear(64, 8))
    bias = model[0].bias.detach().clone()
    quantize(model, ["0"])
    assert torch.equal(model(torch.zeros(1, 64))[0], bias)
    dequantize(model)
    assert torch.equal(model(torch.zeros(1, 64))[0], bias)


def test_the_codes_do_not_depend_on_the_type_of_the_base(new):
    single, half = new().bfloat16().float(), new().bfloat16()
    for model in (single, half):
        quantize(model, language_linears(model))
    for name in language_linears(single):
        assert torch.equal(single.get_submodule(name).weight.data, half.get_submodule(name).weight.data)
        assert dequantized_weight(half.get_submodule(name)).dtype == torch.bfloat16


def test_the_compute_type_can_be_chosen(new, batch):
    model = adapted(new(), KINDS["qlora"])
    single = logits(model, batch)
    set_compute_dtype(model, torch.bfloat16)
    difference = (logits(model, batch) - single).abs().max()
    assert 0 < difference < 0.1


def test_what_cannot_be_quantised_is_refused_before_anything_is_changed(new, mini, processor):
    with pytest.raises(ValueError, match=r"embed_tokens is a Embedding"):
        quantize(new(), ["language_model.model.embed_tokens"])
    narrow = hf.new_model(mini, processor, 0)
    with pytest.raises(InputError, match=r"q_proj has 48 inputs, 4-bit weights need a multiple of 64"):
        add_adapters(narrow, KINDS["qlora"], seed=0)
    assert not quantized_names(narrow)
    assert not adapter_parameters(narrow)


@pytest.mark.slow
def test_bitsandbytes_is_imported_without_fetching_a_kernel(tmp_path):
    (tmp_path / "kernels.py").write_text("def get_kernel(*a, **k): open('fetched', 'w')\n")
    code = "from parsit.model.adapters import require_peft; require_peft()"
    code += "; import peft.tuners.lora.bnb, kernels; print(kernels.__file__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not (tmp_path / "fetched").exists()
    assert "kernels.py" in result.stdout  # others can import it
    assert result.stderr == ""


# ---- files


@every_kind
def test_a_folder_with_adapters_gives_the_model_back(new, batch, base, settings):
    model = adapted(new(), settings)
    model.mm_projector.requires_grad_(True)
    with torch.no_grad():
        model.mm_projector[3].bias.add_(0.5)
    expected = logits(model, batch)
    folder = base.parent / "checkpoint-1"
    save_adapters(model, folder, BaseModel.of(base))
    assert is_adapter_folder(folder)
    assert not is_adapter_folder(base)
    apart = load_with_adapters(folder, merge=False)
    assert adapter_parameters(apart).keys() == adapter_parameters(model).keys()
    assert torch.equal(logits(apart, batch), expected)
    assert (logits(load_with_adapters(folder), batch) - expected).abs().max() <= 1e-5
    assert json.loads((folder / "base.json").read_text())["trained_parts"] == ["mm_projector"]
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} == {".json", ".safetensors"}


def test_a_run_can_be_moved_and_its_base_elsewhere(new, batch, base, tmp_path):
    model = adapted(new(), KINDS["lora"])
    expected = logits(model, batch)
    save_adapters(model, base.parent / "checkpoint-1", BaseModel.of(base))
    base.parent.rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "checkpoint-1"
    assert (logits(load_with_adapters(moved), batch) - expected).abs().max() <= 1e-5
    (tmp_path / "moved" / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"its base is not in .*--base"):
        load_with_adapters(moved)
    resharded = tmp_path / "resharded"
    hf.load_model(tmp_path / "elsewhere").save_pretrained(resharded, max_shard_size="100KB")
    assert len(list(resharded.glob("*.safetensors"))) > 1
    shutil.copy(tmp_path / "elsewhere" / "config.json", resharded)
    assert (logits(load_with_adapters(moved, resharded), batch) - expected).abs().max() <= 1e-5


def test_another_base_of_the_same_architecture_is_refused(new, base):
    folder = base.parent / "checkpoint-1"
    save_adapters(adapted(new(), KINDS["lora"]), folder, BaseModel.of(base))
    new(1).save_pretrained(base)
    with pytest.raises(InputError, match="is not the base of these adapters: it has another weights"):
        load_with_adapters(folder)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"mm_spatial_pool_mode": "max"}))
    with pytest.raises(InputError, match="another configuration"):
        load_with_adapters(folder)


def test_adapters_can_be_trained_on_top_of_adapters(new, batch, base):
    first, second = base.parent / "first", base.parent / "second"
    save_adapters(adapted(new(), KINDS["qlora"]), first, BaseModel.of(base))
    model = adapted(load_with_adapters(first), KINDS["dora"])
    save_adapters(model, second, BaseModel.of(first))
    assert (logits(load_with_adapters(second), batch) - logits(model, batch)).abs().max() <= 1e-5


def test_peft_itself_reads_the_language_models_adapters(new, batch, base):
    from peft import PeftModel

    model = adapted(new(), KINDS["dora"])
    folder = base.parent / "checkpoint-1"
    save_adapters(model, folder, BaseModel.of(base))
    theirs = PeftModel.from_pretrained(copy.deepcopy(new().language_model), folder)
    ids = batch.input_ids
    with torch.no_grad():
        ours = model.eval().language_model(ids).logits
        assert torch.equal(theirs.eval()(ids).logits, ours)
    vision = PeftModel.from_pretrained(new().vision_tower, folder / "vision_tower").eval()
    tiles = batch.pixel_values
    with torch.no_grad():
        assert torch.equal(
            vision(pixel_values=tiles).last_hidden_state, model.vision_tower(pixel_values=tiles).last_hidden_state
        )


def drop(tensors):
    tensors.pop(min(tensors))


def add(tensors):
    tensors["base_model.model.extra.lora_A.weight"] = torch.zeros(1)


def reshape(tensors):
    tensors[min(tensors)] = torch.zeros(3, 3)


@pytest.mark.parametrize("file", ["adapter_model", "vision_tower/adapter_model", "trained_parts"])
@pytest.mark.parametrize(
    ("change", "message"),
    [(drop, "missing: .*weight|bias"), (add, "unexpected: base_model.model.extra"), (reshape, r"\(3, 3\) instead of")],
)
def test_tensors_that_do_not_fit_are_named(new, base, file, change, message):
    model = adapted(new(), KINDS["lora"])
    model.mm_projector.requires_grad_(True)
    folder = base.parent / "checkpoint-1"
    save_adapters(model, folder, BaseModel.of(base))
    path = folder / f"{file}.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(InputError, match=message):
        load_adapters(new(), folder)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("adapter_config.json", {"peft_type": "IA3"}, "a kind that Parsit does not train: no LoRA"),
        ("adapter_config.json", {"use_rslora": True}, "use_rslora=True"),
        ("adapter_config.json", {"target_modules": ".*"}, "no LoRA with a list"),
        ("adapter_config.json", {"r": None}, "has no r"),
        ("base.json", {"quantization": {"bits": 3}}, "another kind of quantisation"),
        ("base.json", {"trained_parts": None}, "has no .*trained_parts"),
    ],
)
def test_files_of_another_kind_are_refused(new, base, file, changes, message):
    folder = base.parent / "checkpoint-1"
    save_adapters(adapted(new(), KINDS["lora"]), folder, BaseModel.of(base))
    values = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    with pytest.raises(InputError, match=message):
        load_with_adapters(folder)


def test_gathered_tensors_can_be_saved_in_the_place_of_the_models_own(new, base):
    model = adapted(new(), KINDS["lora"])
    gathered = {name: torch.full_like(value, 7.0) for name, value in model.state_dict().items()}
    save_adapters(model, base.parent / "checkpoint-1", BaseModel.of(base), gathered)
    saved = load_file(base.parent / "checkpoint-1" / "adapter_model.safetensors")
    assert saved
    assert all(bool((value == 7.0).all()) for value in saved.values())
