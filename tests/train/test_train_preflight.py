"""Preflight: faults that are put in on purpose, each caught by the check that is called after it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from parsit import hf
from parsit.cli import check
from parsit.config import TrainConfig
from parsit.data.dataset import in_memory
from parsit.train.checks import check_groups, check_tokens, groups_of_run
from parsit.train.memory import GB, BatchSize, Placement
from parsit.train.optimizer import Group
from parsit.train.parts import set_tunable
from parsit.train.preflight import check_memory, preflight
from parsit.train.prepare import Prepared
from parsit.train.trial import check_step, largest, make_batch, micro_batches_of, outlook
from parsit.train.world import World
from parsit.types import InputError, UsageError

ALL = ("mm_vision_tower", "mm_mlp_adapter", "mm_language_model")


@pytest.fixture
def model(mini, processor):
    model = hf.new_model(mini, processor, 0)
    set_tunable(model, ALL)
    return model


@pytest.fixture(scope="module")
def training(samples, processor):
    return in_memory(samples, processor, 512)


@pytest.fixture
def config(tmp_path):
    return TrainConfig(output_dir=str(tmp_path / "run"), per_device_train_batch_size=4, bf16="false")


def look(config, model, processor, training, drawn=frozenset(), **limits):
    """The cheap checks of such a run."""
    return preflight(Prepared(config, World(), model, processor, training, None, [], drawn=drawn), **limits)


def by_name(checks):
    return {check.name: check for check in checks}


def failed(checks):
    return {check.name: check for check in checks if not check.ok}


def test_a_run_without_faults_passes_every_check(config, model, processor, training):
    checks = look(config, model, processor, training, max_memory_gb=1.0)
    assert failed(checks) == {}
    assert set(by_name(checks)) == {
        "versions", "device", "tokens", "vocabulary", "parts", "origin", "groups", "disk", "samples", "memory", "shm",
    }  # fmt: skip
    assert "image tokens are as many features" in by_name(checks)["samples"].detail


def test_all_frozen(config, model, processor, training):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = failed(look(config, model, processor, training))
    assert set(found) == {"parts"}
    assert found["parts"].detail.startswith("all frozen: vision_tower 0 of")
    assert "--mm_tunable_parts" in found["parts"].remedy


def test_padding_with_the_end_of_a_turn(processor, mini, tmp_path):
    tokens = processor.chat_tokens
    assert check_tokens(tokens).ok
    found = check_tokens(replace(tokens, pad=tokens.im_end))
    assert (found.ok, found.name) == (False, "tokens")
    assert "never learn to stop" in found.detail
    hf.new_model(mini, processor, 0).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    settings = tmp_path / "model" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"pad_token": "<|im_end|>"}))
    with pytest.raises(InputError, match="pad"):  # `parsit check` tells it as the check `model`
        hf.load_processor(tmp_path / "model")


def test_a_tokenizer_with_more_ids_than_the_embeddings_have_rows(config, model, mini, training):
    other = hf.new_processor(mini)
    other.tokenizer.add_tokens(["<extra>"])
    found = failed(look(config, model, other, training))
    assert set(found) == {"vocabulary"}
    assert found["vocabulary"].detail == "the tokenizer has 4,097 ids, the embeddings have 4,096 rows"


def test_another_image_token(config, model, processor, training):
    model.config.image_token_id = 7
    assert {"vocabulary", "samples"} == set(failed(look(config, model, processor, training)))


def test_a_processor_that_cuts_images_otherwise(config, processor, mini, training):
    other = replace(mini, multimodal=mini.multimodal | {"image_grid_pinpoints": "(1x1),(1x2)"})
    model = hf.new_model(other, processor, 0)
    found = failed(look(config, model, processor, training))
    assert set(found) == {"samples"}
    assert "d.jsonl:" in found["samples"].detail
    assert "same folder" in found["samples"].remedy


def test_a_memory_budget_that_cannot_be_met(config, model, processor, training):
    found = failed(look(config, model, processor, training, max_memory_gb=0.001))
    assert set(found) == {"memory"}
    assert "more than 0.0 GB" in found["memory"].detail
    assert found["memory"].remedy.startswith("--gradient_checkpointing true")


def small_gpu(monkeypatch, gigabytes):
    """Makes the machine seem to have a GPU with so much memory."""
    properties = SimpleNamespace(total_memory=int(gigabytes * GB))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


def test_an_estimate_above_the_gpus_memory_warns_and_only_a_given_limit_fails(config, model, monkeypatch):
    size = BatchSize(512, 8, 256)
    check = partial(check_memory, model, config, Placement(), size, torch.device("cuda", 0))
    small_gpu(monkeypatch, 2.0001)
    found = check(None)
    assert (found.ok, found.warns) == (True, True)
    assert ", more than 0.0 GB" in found.detail
    assert found.remedy.startswith("--gradient_checkpointing true")
    assert (check(1e-3).ok, check(1e-3).warns) == (False, False)
    small_gpu(monkeypatch, 80)
    assert (check(None).ok, check(None).warns) == (True, False)


def test_an_empty_group_and_a_rate_of_nothing(model, config):
    groups = groups_of_run(model, config)
    assert check_groups(groups).ok
    empty = Group("projector", "projector", "adamw", 1e-3, 0.0, {})
    found = check_groups([*groups, empty])
    assert (found.ok, found.detail) == (False, "the group projector is empty")
    still = Group("projector", "projector", "adamw", 0.0, 0.0, groups[0].parameters)
    assert "learning rate 0" in check_groups([still]).detail


def test_no_room_for_the_checkpoints(config, model, processor, training):
    found = failed(look(replace(config, save_total_limit=10**9), model, processor, training))
    assert set(found) == {"disk"}
    assert "--save_total_limit" in found["disk"].remedy


def test_an_image_that_broke_since_the_data_was_counted(config, model, processor, samples, tmp_path):
    image = samples[3].images[0]
    own = tmp_path / "3.png"
    shutil.copy(image.source, own)
    turns = (replace(samples[3].turns[0], parts=(replace(image, source=own), "Read.")), samples[3].turns[1])
    training = in_memory([replace(samples[3], turns=turns)], processor, 512)
    own.write_bytes(own.read_bytes()[:60])
    found = failed(look(config, model, processor, training))
    assert set(found) == {"samples"}
    assert found["samples"].detail.startswith("d.jsonl:4: ")


@pytest.mark.parametrize("flags", [{}, {"bf16": "true", "optim": "adamw_bf16"}])
def test_checks_change_neither_weights_nor_random_numbers(config, model, processor, training, flags):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    glyphs = replace(config, glyph_loss_weight=0.5, **flags)
    look(glyphs, model, processor, training)
    micro_batches = micro_batches_of(glyphs, training, model)
    samples = largest(micro_batches, 0)
    batch = make_batch(glyphs, training, processor, micro_batches, samples)
    found, trial = check_step(glyphs, model, batch, micro_batches.work(samples))
    assert found.ok, found.detail
    assert set(trial.part_norms) == {"vision_tower", "projector", "language_model", "glyph_head"}
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert "4 steps of 1 micro-batches (1.00 passes over the data), one process: about" in outlook(
        glyphs, micro_batches, Placement(), trial
    )


@pytest.mark.parametrize("packing", [False, True])
def test_the_step_is_tried_on_the_largest_micro_batch(config, model, processor, training, packing):
    flags = replace(config, packing=packing, model_max_length=64, gradient_checkpointing=True)
    micro_batches = micro_batches_of(flags, training, model)
    samples = largest(micro_batches, 0)
    works = [micro_batches.work(one) for one in micro_batches.epoch(0)]
    assert micro_batches.work(samples) == max(works)
    batch = make_batch(flags, training, processor, micro_batches, samples)
    assert (batch.cu_seq_lens is not None) == packing
    assert check_step(flags, model, batch, max(works))[0].ok


def test_a_step_whose_loss_is_not_finite(config, model, processor, training):
    with torch.no_grad():
        model.mm_projector[0].weight.fill_(float("nan"))
    micro_batches = micro_batches_of(config, training, model)
    batch = make_batch(config, training, processor, micro_batches, largest(micro_batches, 0))
    found, _ = check_step(config, model, batch, 1.0)
    assert not found.ok
    assert found.detail.startswith("not finite: ")


def test_a_weight_that_no_gradient_reaches_is_named(config, model, processor, training):
    micro_batches = micro_batches_of(config, training, model)
    batch = make_batch(config, training, processor, micro_batches, largest(micro_batches, 0))
    model.mm_projector.register_parameter("forgotten", torch.nn.Parameter(torch.ones(2)))
    found, _ = check_step(config, model, batch, 1.0)
    assert (found.ok, found.detail) == (False, "no gradient reaches model.mm_projector.forgotten")


def test_a_batch_without_images_still_reaches_every_part(config, model, processor, samples):
    text_alone = in_memory(samples[12:], processor, 512)
    micro_batches = micro_batches_of(config, text_alone, model)
    batch = make_batch(config, text_alone, processor, micro_batches, largest(micro_batches, 0))
    assert batch.pixel_values is None
    assert check_step(config, model, batch, 1.0)[0].ok


@pytest.fixture
def folder(tmp_path, samples, monkeypatch):
    """Two of the samples as a data file."""
    monkeypatch.chdir(tmp_path)
    lines = []
    for sample in samples[:6]:
        shutil.copy(sample.images[0].source, tmp_path)
        conversations = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": sample.turns[1].text}]
        name = sample.images[0].source.name
        lines.append(json.dumps({"id": sample.id, "image": name, "conversations": conversations}))
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


BASE = ["tiny", "--data", "data.jsonl", "--output_dir", "run", "--glyph_loss_weight", "0", "--bf16", "false"]
BASE += ["--per_device_train_batch_size", "2", "--optim", "adamw"]


def test_the_verb_says_that_all_is_well_and_for_how_long(folder, capsys):
    assert check.main([*BASE, "--max_memory_gb", "4"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in out[:-1])
    assert out[-1].startswith("ready: 3 steps of 1 micro-batches (1.00 passes over the data), one process: about ")
    assert not (folder / "run").exists()


def test_the_verb_on_an_image_folder_that_is_not_there(folder, capsys):
    assert check.main([*BASE, "--image_folder", "nowhere"]) == 1
    out = capsys.readouterr().out
    assert "FAILED  data" in out
    assert "nowhere" in out
    assert "is --image_folder right?" in out
    assert out.endswith("not ready: data\n")


def test_the_verb_with_too_little_memory_tries_no_step(folder, capsys):
    assert check.main([*BASE, "--max_memory_gb=0.001"]) == 1
    out = capsys.readouterr().out
    assert out.endswith("not ready: memory\n")
    assert " step " not in out


def test_the_verb_estimates_for_processes_that_are_not_here(folder, capsys):
    assert check.main([*BASE, "--num_processes", "4", "--fsdp", "true", "--no_step"]) == 0
    out = capsys.readouterr().out
    assert "FSDP, 4 ranks: " in out
    assert " step " not in out
    assert "1 steps of 4 micro-batches" in out


def test_the_verb_tries_the_step_as_the_run_would_and_meets_what_the_run_would(folder):
    with pytest.raises(UsageError, match="--fsdp with one process"):
        check.main([*BASE, "--fsdp", "true"])


def test_the_verb_with_adapters(folder, mini, processor, capsys):
    pytest.importorskip("peft")
    flags = ["--lora_enable", "true", "--lora_r", "4", "--mm_tunable_parts", "mm_mlp_adapter"]
    assert check.main([*BASE, *flags]) == 1
    assert capsys.readouterr().out.endswith("not ready: origin\n")
    hf.new_model(mini, processor, 0).save_pretrained("start")
    processor.save_pretrained("start")
    assert check.main([*BASE, *flags, "--model_name_or_path", "start"]) == 0
    out = capsys.readouterr().out
    assert "peft" in out
    assert "language_model.no_decay" not in out
    assert not (folder / "run").exists()


def test_a_part_that_does_not_exist_is_wrong_usage(folder):
    with pytest.raises(UsageError, match="unknown part in --mm_tunable_parts 'mm_projector'"):
        check.main([*BASE, "--mm_tunable_parts", "mm_projector"])


@pytest.mark.parametrize("value", ["much", "0", "-1", "nan"])
def test_memory_that_is_no_amount_is_wrong_usage(folder, capsys, value):
    with pytest.raises((UsageError, SystemExit)) as raised:
        check.main([*BASE, f"--max_memory_gb={value}"])
    said = capsys.readouterr().err if raised.type is SystemExit else str(raised.value)
    assert "max_memory_gb" in said
    assert raised.type is UsageError or (raised.value.code, said.count("\n")) == (2, 1)
