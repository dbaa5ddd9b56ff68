"""`parsit export` and `parsit import`: ordinary folders come out, whole and verified, or nothing does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, Siglip2VisionConfig, Siglip2VisionModel

from parsit import hf
from parsit.cli import export, import_
from parsit.config import load_architecture
from parsit.files.manifest import ESSENTIAL, write_manifest
from parsit.model.adapter_files import BaseModel, save_adapters
from parsit.model.adapters import AdapterSettings, adapter_parameters, add_adapters
from parsit.model.import_weights import load_projector
from parsit.types import InputError, ParsitError, UsageError

SETTINGS = {
    "lora": AdapterSettings(lora_r=4, lora_targets_vision="all-linear"),
    "qdora": AdapterSettings(lora_r=4, bits=4, use_dora=True),
}


@pytest.fixture(scope="module")
def tiny():
    architecture = load_architecture("tiny")
    processor = hf.new_processor(architecture)
    return lambda seed=0: hf.new_model(architecture, processor, seed), processor


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    """A model's folder."""
    new, processor = tiny
    folder = tmp_path_factory.mktemp("plain") / "model"
    new().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def adapters_of(tiny, folder, base, settings):
    """A folder with trained adapters and a trained projector."""
    model, processor = tiny[0](), tiny[1]
    add_adapters(model, settings, seed=1)
    model.mm_projector.requires_grad_(True)
    with torch.no_grad():
        for parameter in [*adapter_parameters(model).values(), *model.mm_projector.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_adapters(model, folder, BaseModel.of(base))
    processor.save_pretrained(folder)
    return export.logits_of(model, processor)


def as_checkpoint(folder):
    """The folder with a manifest and all that a checkpoint must have, as far as it lacks that (empty)."""
    for name in ESSENTIAL:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    write_manifest(folder)


# ---- export


@pytest.mark.slow
@pytest.mark.parametrize("kind", SETTINGS)
def test_adapters_are_merged_into_an_ordinary_folder(tiny, plain, tmp_path, capsys, kind):
    expected = adapters_of(tiny, tmp_path / "adapters", plain, SETTINGS[kind])
    assert export.main([str(tmp_path / "adapters"), "--out", str(tmp_path / "out")]) == 0
    model, processor = hf.load_model(tmp_path / "out"), hf.load_processor(tmp_path / "out")
    assert (export.logits_of(model, processor) - expected).abs().max() <= 1e-4
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == load_file(plain / "model.safetensors").keys()
    assert not (tmp_path / "out" / "base.json").exists()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["checkpoint", "merged", "verified", "wrote"]
    assert [entry.name for entry in tmp_path.glob(".*")] == []


def test_the_newest_whole_checkpoint_of_a_run_is_taken(tiny, plain, tmp_path, capsys):
    run = tmp_path / "run"
    for step in (1, 2, 3):
        shutil.copytree(plain, run / f"checkpoint-{step}")
        as_checkpoint(run / f"checkpoint-{step}")
    with (run / "checkpoint-3" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    (run / "best.json").write_text(json.dumps({"checkpoint": "checkpoint-1", "eval_loss": 1.0}))
    assert export.main([str(run), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert f"checkpoint: {run / 'checkpoint-2'}" in said.out
    assert "checkpoint-3: not a whole checkpoint" in said.err.replace("\n", "")
    assert "checkpoint-1 validated best" in said.err.replace("\n", " ")
    exported = {path.name for path in (tmp_path / "out").iterdir()}
    assert exported == {path.name for path in plain.iterdir()} | {"README.md"}
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"checkpoint-3: is not as it was saved: model\.safetensors has"):
        export.main([str(run / "checkpoint-3"), "--out", str(tmp_path / "another")])
    for step in (1, 2):
        (run / f"checkpoint-{step}" / "manifest.json").unlink()
    with pytest.raises(InputError, match="none of its checkpoints is whole"):
        export.main([str(run), "--out", str(tmp_path / "another")])


def test_the_mean_of_the_last_whole_checkpoints(tiny, plain, tmp_path, capsys):
    run, weights = tmp_path / "run", {}
    for step in (1, 2, 3, 4):
        folder = run / f"checkpoint-{step}"
        shutil.copytree(plain, folder)
        weights[step] = {name: w + step for name, w in load_file(plain / "model.safetensors").items()}
        save_file(weights[step], folder / "model.safetensors", {"format": "pt"})
        as_checkpoint(folder)
    with (run / "checkpoint-3" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert export.main([str(run), "--average_last", "2", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "averaged: the weights of 2 checkpoints" in said.out
    assert "checkpoint-3: not a whole checkpoint" in said.err.replace("\n", "")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.allclose(found[name], (weights[2][name] + weights[4][name]) / 2, atol=1e-6) for name in found)
    for words, error, message in (
        ([str(run), "--average_last", "4"], InputError, "has 3 whole checkpoints, and --average_last is 4"),
        ([str(run), "--average_last", "1"], UsageError, "a mean is of two checkpoints at least"),
        ([str(plain), "--average_last", "2"], InputError, "--average_last takes a run's folder"),
    ):
        with pytest.raises(error, match=message):
            export.main([*words, "--out", str(tmp_path / "another")])
    with pytest.raises(UsageError, match="--average_last makes another model: give --out"):
        export.main([str(run), "--average_last", "2", "--push_to_hub", "me/mine"])


def test_the_moving_average_of_a_run_is_exported(tiny, plain, tmp_path, capsys):
    checkpoint = tmp_path / "run" / "checkpoint-1"
    shutil.copytree(plain, checkpoint)
    shutil.copytree(plain, checkpoint / "ema")
    weights = {name: w + 1 for name, w in load_file(plain / "model.safetensors").items()}
    save_file(weights, checkpoint / "ema" / "model.safetensors", {"format": "pt"})
    as_checkpoint(checkpoint)
    assert export.main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert "the moving average of checkpoint-1 is taken" in capsys.readouterr().err.replace("\n", " ")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], weights[name]) for name in found)


def test_a_moved_base_is_named(tiny, plain, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(plain, base)
    adapters_of(tiny, tmp_path / "run" / "checkpoint-1", base, SETTINGS["lora"])
    as_checkpoint(tmp_path / "run" / "checkpoint-1")
    base.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="`parsit export` with --base makes a model of both"):
        export.main([str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    assert export.main([str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--base", str(tmp_path / "moved")]) == 0
    with pytest.raises(UsageError, match="holds no adapters"):
        export.main([str(plain), "--out", str(tmp_path / "x"), "--base", str(plain)])


def test_a_base_is_found_in_the_folder_of_its_run(tiny, plain, tmp_path):
    run, other = tmp_path / "stage1", tmp_path / "other"
    tiny[0](5).save_pretrained(run / "checkpoint-2")  # newer, and not the base
    shutil.copytree(plain, run / "checkpoint-1")
    (run / "checkpoint-3").mkdir()
    (run / "checkpoint-3" / "config.json").write_text("{}")  # a save that was cut short
    adapters_of(tiny, tmp_path / "lora" / "checkpoint-1", run / "checkpoint-1", SETTINGS["lora"])
    as_checkpoint(tmp_path / "lora" / "checkpoint-1")
    run.rename(tmp_path / "moved")
    words = [str(tmp_path / "lora"), "--out", str(tmp_path / "out"), "--base"]
    assert export.main([*words, str(tmp_path / "moved")]) == 0
    shutil.copytree(tmp_path / "moved" / "checkpoint-2", other / "checkpoint-2")
    words[2] = str(tmp_path / "out2")
    with pytest.raises(InputError, match="none of the 1 models in it is the base"):
        export.main([*words, str(other)])
    with pytest.raises(InputError, match="no model in it is the base"):
        export.main([*words, str(tmp_path / "nowhere")])


def test_what_is_there_is_not_overwritten(plain, tmp_path):
    (tmp_path / "out").mkdir()
    for verb in (export, import_):
        with pytest.raises(InputError, match="is there already; give another --out"):
            verb.main([str(plain), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_no_model_is_one_line(tmp_path, path):
    with pytest.raises(InputError, match=r"no model there|no weights there|no such file"):
        export.main([str(tmp_path / path), "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match=r"no model there|no weights there|no such file"):
        import_.main([str(tmp_path / path), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("wrong", [0.01, float("nan")])
def test_logits_that_rounding_does_not_explain_are_refused(tiny, wrong):
    model = tiny[0]()
    expected = export.logits_of(model, tiny[1])
    assert export.require_same(expected, expected + 1e-6, model, "x") == pytest.approx(1e-6, rel=0.5)
    with pytest.raises(ParsitError, match="the copy computes something else: logits differ by"):
        export.require_same(expected, expected + wrong, model, "the copy")


def test_a_folder_that_was_not_finished_leaves_nothing_behind(tmp_path):
    def write():
        with export.whole_folder(tmp_path / "out") as draft:
            (draft / "half").write_text("x")
            raise ParsitError("stopped")

    with pytest.raises(ParsitError, match="stopped"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ParsitError, match="cannot be written"):
        export.write_model(tiny[0](), tiny[1], tmp_path / "file" / "out")


# ---- import


def old_names(model):
    """LLaVA-NeXT's and older Parsit's names."""
    names = {
        "language_model.model.": "model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.vision_tower.vision_model.",
        "mm_projector.": "model.mm_projector.",
        "image_newline": "model.image_newline",
    }
    renamed = {}
    for name, value in model.state_dict().items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        renamed[names[prefix] + name.removeprefix(prefix)] = value.clone()
    return renamed


@pytest.mark.parametrize("architecture", ["tiny", "mine.yaml", None])
def test_an_old_checkpoint_becomes_a_parsit_folder(tiny, tmp_path, capsys, architecture):
    model = tiny[0](3)
    if architecture == "mine.yaml":
        architecture = str(tmp_path / architecture)
        (tmp_path / "mine.yaml").write_text("base: tiny\n")
    old = tmp_path / "old"
    old.mkdir()
    torch.save(old_names(model), old / "pytorch_model.bin")
    settings = {
        "model_type": "llava_qwen",
        "mm_projector_type": "mlp2x_gelu",
        "image_grid_pinpoints": "(1x1),...,(3x3)",
    }
    (old / "config.json").write_text(json.dumps(settings | {"mm_spatial_pool_mode": "max", "mm_pixel_shuffle": None}))
    named = ["--architecture", architecture] if architecture else []
    assert import_.main([str(old), "--out", str(tmp_path / "new"), *named]) == 0
    loaded = hf.load_model(tmp_path / "new")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert (loaded.config.image_grid_pinpoints, loaded.config.mm_spatial_pool_mode) == ("(1x1),...,(3x3)", "max")
    assert hf.load_processor(tmp_path / "new").image_processor.layout == loaded.config.layout
    said = capsys.readouterr().out
    assert f"architecture: {architecture or 'tiny'}; mm_projector_type mlp2x_gelu" in said
    assert "verified: loaded strictly" in said


def test_the_checkpoints_own_tokenizer_and_chat_settings_are_taken(tiny, tmp_path):
    new, processor = tiny
    old = tmp_path / "old"
    processor.tokenizer.save_pretrained(old)
    larger = PreTrainedTokenizerFast.from_pretrained(old)
    larger.add_tokens([f"<{number}>" for number in range(10)])
    larger.save_pretrained(old)
    torch.save(old_names(new()), old / "pytorch_model.bin")
    with pytest.raises(InputError, match="the tokenizer has 356 tokens, the preset tiny has room for 352"):
        import_.main([str(old), "--out", str(tmp_path / "new")])
    processor.tokenizer.save_pretrained(old)
    (old / "config.json").write_text(json.dumps({"model_type": "llava_qwen", "mm_use_im_start_end": False}))
    assert import_.main([str(old), "--out", str(tmp_path / "new")]) == 0
    assert hf.load_processor(tmp_path / "new").mm_use_im_start_end is False


def test_llavas_pooling_is_for_videos_alone(tiny, tmp_path):
    architecture = load_architecture("tiny")
    linear = replace(architecture, multimodal=architecture.multimodal | {"mm_projector_type": "linear"})
    old = tmp_path / "old"
    old.mkdir()
    torch.save(old_names(hf.new_model(linear, tiny[1], 0)), old / "pytorch_model.bin")
    (old / "config.json").write_text(json.dumps({"mm_projector_type": "linear", "mm_spatial_pool_stride": 2}))
    assert import_.main([str(old), "--out", str(tmp_path / "new")]) == 0
    config = hf.load_model(tmp_path / "new").config
    assert (config.mm_projector_type, config.mm_spatial_pool_stride) == ("linear", 1)


def test_a_tower_of_one_layer_less_is_llavas(tiny, tmp_path, capsys):
    weights = old_names(tiny[0]())
    weights = {name: value for name, value in weights.items() if "encoder.layers.3." not in name}
    (tmp_path / "old").mkdir()
    torch.save(weights, tmp_path / "old" / "pytorch_model.bin")
    assert import_.main([str(tmp_path / "old"), "--out", str(tmp_path / "new")]) == 0
    assert hf.load_model(tmp_path / "new").config.mm_vision_select_layer == -2


def test_a_checkpoint_without_a_tower_takes_one_from_elsewhere(tiny, tmp_path):
    tower = Siglip2VisionModel(Siglip2VisionConfig(**load_architecture("tiny").vision_config))
    tower.save_pretrained(tmp_path / "tower")
    model = tiny[0](3)
    old = tmp_path / "old"
    old.mkdir()
    save_file({n: v for n, v in old_names(model).items() if "vision_tower" not in n}, old / "model.safetensors")
    with pytest.raises(InputError, match="holds no vision tower: say with --vision_tower"):
        import_.main([str(old), "--out", str(tmp_path / "new")])
    assert import_.main([str(old), "--out", str(tmp_path / "new"), "--vision_tower", str(tmp_path / "tower")]) == 0
    loaded = hf.load_model(tmp_path / "new").state_dict()
    expected = {name.removeprefix("vision_model."): value for name, value in tower.state_dict().items()}
    for name, value in loaded.items():
        key = name.removeprefix("vision_tower.")
        assert torch.equal(value, expected[key] if key != name else model.state_dict()[name]), name


def test_llavas_projector_without_a_norm_is_imported_as_what_it_is(tiny, tmp_path):
    weights = {name: value for name, value in old_names(tiny[0]()).items() if "mm_projector" not in name}
    sizes = {0: (192, tiny[0]().mm_projector[0].in_features), 2: (192, 192)}
    for layer, shape in sizes.items():
        weights[f"model.mm_projector.{layer}.weight"] = torch.randn(shape) / 20
        weights[f"model.mm_projector.{layer}.bias"] = torch.randn(192)
    folder = tmp_path / "llava"
    folder.mkdir()
    torch.save(weights, folder / "pytorch_model.bin")
    assert import_.main([str(folder), "--out", str(tmp_path / "new")]) == 0
    model = hf.load_model(tmp_path / "new")
    assert model.config.mm_projector_type == "mlp2x_gelu_no_norm"
    for layer in sizes:
        assert torch.equal(model.mm_projector[layer].weight, weights[f"model.mm_projector.{layer}.weight"])


def test_todays_folder_and_other_sizes_are_refused(tiny, plain, tmp_path):
    out = ["--out", str(tmp_path / "new")]
    with pytest.raises(InputError, match="today's names already"):
        import_.main([str(plain), *out])
    weights = old_names(tiny[0]())
    for name, change, message in (
        ("sizes", {"model.embed_tokens.weight": torch.ones(8, 8)}, "no architecture has a language model of 3 layers"),
        ("names", {"model.embed_tokens.weight": None}, "neither a LLaVA-NeXT nor an old Parsit checkpoint"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        changed = {key: value for key, value in (weights | change).items() if value is not None}
        torch.save(changed, folder / "pytorch_model.bin")
        with pytest.raises(InputError, match=message):
            import_.main([str(folder), *out])
    (tmp_path / "broken").mkdir()
    torch.save(weights, tmp_path / "broken" / "pytorch_model.bin")
    for text, message in (
        ("{", "not JSON"),
        ('{"image_aspect_ratio": "square"}', "do not fit tiny: image_aspect_ratio"),
    ):
        (tmp_path / "broken" / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            import_.main([str(tmp_path / "broken"), *out])
    assert not (tmp_path / "new").exists()


def test_a_projector_becomes_a_file_that_loads(tiny, tmp_path, capsys):
    source, model = tiny[0](3), tiny[0](0)
    weights = {name: value for name, value in old_names(source).items() if "projector" in name or "newline" in name}
    torch.save(weights, tmp_path / "mm_projector.bin")
    out = tmp_path / "out"
    assert import_.main([str(tmp_path / "mm_projector.bin"), "--out", str(out), "--architecture", "tiny"]) == 0
    assert "projector: mlp2x_gelu, with image_newline" in capsys.readouterr().out
    load_projector(model, out / "mm_projector.safetensors")
    assert torch.equal(model.mm_projector[3].weight, source.mm_projector[3].weight)
    assert torch.equal(model.image_newline, source.image_newline)
    with pytest.raises(InputError, match=r"\(192, 160\) instead of \(576, 1536\)"):
        import_.main([str(out), "--out", str(tmp_path / "other"), "--architecture", "smol"])
