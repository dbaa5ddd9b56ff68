"""What a run begins with: the same for training and `parsit check`; what is not there is told by all processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from dist_support import free_port, make_data, make_start
from transformers.utils.import_utils import is_flash_attn_2_available

from parsit.config import TrainConfig
from parsit.processing.collate import collate
from parsit.train.agreement import PreparationError
from parsit.train.fit import MemoryFullError, fit, run
from parsit.train.prepare import prepare
from parsit.train.world import World
from parsit.types import InputError, UsageError
from parts_support import bpe_tokenizer, save_decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mini):
    """Data, and a model to start from."""
    folder = tmp_path_factory.mktemp("prepare")
    make_data(folder)
    make_start(folder, mini)
    return folder


@pytest.fixture
def config(folder, tmp_path):
    def make(**flags):
        values = {"data": [str(folder / "d.jsonl")], "output_dir": str(tmp_path / "run"), "bf16": "false"}
        values |= {"model_name_or_path": str(folder / "start"), "max_steps": 2, "dataloader_num_workers": 0}
        return TrainConfig(**values | {"per_device_train_batch_size": 7} | flags)

    return make


def test_what_a_run_begins_with_is_said_and_written(config, folder, tmp_path):
    said = []
    ready = prepare(config(eval_data=[str(folder / "d.jsonl")], sample_steps=1), World(), say=said.append)
    assert [line.split(":")[0] for line in said] == ["training data", "validation data"]
    assert (len(ready.training), len(ready.validation), ready.checkpoint, ready.base) == (14, 14, None, None)
    trained = {part.name: part.trainable for part in ready.parts}
    assert trained["vision_tower"] == sum(p.numel() for p in ready.model.vision_tower.parameters() if p.requires_grad)
    assert all(trained.values())
    assert ready.read_samples is not None
    assert (tmp_path / "run" / "set_aside.jsonl").exists()


def test_a_dry_preparation_builds_the_same_model_and_writes_nothing(config, tmp_path):
    pytest.importorskip("peft")
    flags = {"lora_enable": True, "lora_r": 4, "pretrain_mm_mlp_adapter": config().model_name_or_path}
    dry = prepare(config(**flags), World(), dry=True)
    assert not (tmp_path / "run").exists()
    wet = prepare(config(**flags), World())
    assert dry.base is None
    assert wet.base is not None
    assert (tmp_path / "run" / "base" / "model.safetensors").exists()
    one, two = dry.model.state_dict(), wet.model.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert dry.parts == wet.parts


def test_a_run_goes_on_from_its_checkpoint_except_where_it_is_dry(config, tmp_path):
    fit(config())
    said = []
    on = prepare(config(), World(), say=said.append)
    assert on.checkpoint == tmp_path / "run" / "checkpoint-2"
    assert said[-1] == f"resuming from {on.checkpoint}"
    assert prepare(config(), World(), dry=True).checkpoint is None
    with pytest.raises(InputError, match="nosuch: cannot resume from it"):
        prepare(config(resume=str(tmp_path / "nosuch")), World(), dry=True)
    with pytest.raises(InputError, match="holds a run already"):
        prepare(config(resume="never"), World())
    with pytest.raises(UsageError, match=r"--optim is muon, but .*checkpoint-2 was trained with adamw"):
        prepare(config(optim="muon"), World())


def test_a_missing_configuration_of_zero_is_told_before_anything_is_loaded(config, tmp_path):
    with pytest.raises(InputError, match="--deepspeed zero33: no such file; did you mean zero3"):
        prepare(config(deepspeed="zero33", model_name_or_path=str(tmp_path / "no-model")), World())


def test_a_flag_that_a_loaded_model_contradicts_is_refused(config):
    with pytest.raises(UsageError, match=r"--mm_projector_type is linear, but the model in .* was built with mlp2x"):
        prepare(config(mm_projector_type="linear"), World())
    assert prepare(config(mm_projector_type="mlp2x_gelu"), World(), dry=True).model is not None


@pytest.mark.parametrize(("flag", "stage"), [("data", "data"), ("eval_data", "data"), ("model_name_or_path", "model")])
def test_what_is_missing_is_told_with_its_stage(config, folder, tmp_path, flag, stage):
    start = tmp_path / "cut"
    shutil.copytree(folder / "start", start)
    weights = start / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    broken = {"data": [str(tmp_path / "no.jsonl")], "eval_data": [str(tmp_path / "no.jsonl")]}
    with pytest.raises(PreparationError) as raised:
        prepare(config(**{flag: str(start) if stage == "model" else broken[flag]}), World())
    assert raised.value.stage == stage
    assert ("no.jsonl" if stage == "data" else str(start)) in str(raised.value)


@pytest.mark.dist
@pytest.mark.parametrize(
    ("verb", "rank_of_broken", "broken"), [("train", 0, "model.safetensors"), ("check", 1, "preprocessor_config.json")]
)
def test_a_model_that_one_process_cannot_load_ends_all_with_one_line(folder, tmp_path, verb, rank_of_broken, broken):
    """Each process has a folder of its own, in one of which a file is cut off: weights are read by the first alone."""
    running = []
    places = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for rank in range(2):
        own = tmp_path / str(rank)
        shutil.copytree(folder / "start", own / "start")
        if rank == rank_of_broken:
            file = own / "start" / broken
            file.write_bytes(file.read_bytes()[:-100])
        command = [sys.executable, "-m", "parsit.cli", verb, "tiny", "--data", str(folder / "d.jsonl")]
        command += ["--output_dir", "run", "--model_name_or_path", "start"]
        environment = os.environ | places | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        running.append(
            subprocess.Popen(
                command, cwd=own, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [1, 1]
    assert said[1][0] == ""
    assert "Traceback" not in said[0][1] + said[1][1]
    line = said[0][0].splitlines()[0] if verb == "check" else said[0][1].splitlines()[-1]
    assert line.startswith("FAILED  model      start: " if verb == "check" else "parsit: start: "), said


def test_fit_in_one_process_where_several_are_wanted_says_what_to_do(config):
    with pytest.raises(UsageError, match="torchrun --nproc_per_node 2"):
        fit(config(num_processes=2))
    with pytest.raises(UsageError, match="output_dir is not set"):
        fit(config(output_dir=None))


def test_memory_that_runs_out_in_mid_run_is_one_line(config, tmp_path):
    def fill_memory(prepared):
        def forward(module, arguments):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nand more that nobody reads")

        prepared.model.register_forward_pre_hook(forward)

    with pytest.raises(MemoryFullError) as raised:
        run(config(), World(), on_prepared=fill_memory)
    assert str(raised.value).startswith("out of memory: CUDA out of memory. Tried to allocate 20 GiB.: --gradient_ch")
    assert "\n" not in str(raised.value)


def test_attention_is_computed_as_the_flag_says(config, monkeypatch):
    calls, losses, kernel = [], {}, F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **kw: calls.append(1) or kernel(*args, **kw))
    for implementation, layers in (("sdpa", 4), ("eager", 0)):  # two of the tower, two of the language model
        calls.clear()
        ready = prepare(config(attn_implementation=implementation), World(), dry=True)
        batch = collate([ready.processor.encode(ready.training.samples[n].turns) for n in (0, 3)], 0)
        losses[implementation] = float(ready.model(**batch.model_inputs()).loss.detach())
        assert len(calls) == layers
    assert losses["eager"] == pytest.approx(losses["sdpa"], rel=1e-5)


def test_attention_that_cannot_be_had_is_refused(config):
    with pytest.raises(
        UsageError, match="--attn_implementation eager does not pack: samples of a row would see each other"
    ):
        config(attn_implementation="eager", packing=True)
    with pytest.raises(UsageError, match="flash_attention_2 computes in half precision alone: use --bf16 true"):
        config(attn_implementation="flash_attention_2")
    with pytest.raises(UsageError, match="unknown value of --attn_implementation 'flash'"):
        config(attn_implementation="flash")
    if not is_flash_attn_2_available():
        with pytest.raises(InputError, match="flash_attention_2: needs a GPU and the package flash-attn"):
            prepare(config(attn_implementation="flash_attention_2", bf16="true"), World(), dry=True)


def test_a_model_that_has_a_tower_gets_no_other(config, folder):
    with pytest.raises(
        UsageError, match=r"--vision_tower some/tower: the model in .*start has a tower; leave the flag"
    ):
        prepare(config(vision_tower="some/tower"), World(), dry=True)


def test_rows_of_added_tokens_that_stay_as_drawn_are_told(config, folder, tmp_path):
    save_decoder(tmp_path / "lm", "llama", bpe_tokenizer(["</s>"], eos_token="</s>"))
    said = []
    flags = {"architecture": "tiny", "model_name_or_path": str(tmp_path / "lm"), "mm_tunable_parts": "mm_mlp_adapter"}
    prepare(config(**flags), World(), say=said.append, dry=True)
    assert said[0] == (
        "tokenizer: <|im_start|>, <|image_pad|>, <|endoftext|>, <|vision_start|>, <|vision_end|> are new to the "
        "language model; their rows stay as they are drawn, as its embeddings are frozen"
    )


@pytest.mark.parametrize("name", ["set_aside.jsonl", "metrics.jsonl", "left_out.jsonl", "best.json"])
@pytest.mark.parametrize("flag", ["data", "eval_data"])
def test_data_are_not_overwritten_by_the_files_of_the_run(config, folder, tmp_path, name, flag):
    (tmp_path / "run").mkdir()
    shutil.copy(folder / "d.jsonl", tmp_path / "run" / name)
    flags = {flag: [str(tmp_path / "run" / name)], "image_folder": str(folder)}
    with pytest.raises(UsageError, match=f"--output_dir .*{name} would overwrite the input"):
        prepare(config(**flags), World())
    assert (tmp_path / "run" / name).read_bytes() == (folder / "d.jsonl").read_bytes()


def test_a_base_that_would_be_written_is_not_the_one_that_is_read(config, folder, tmp_path):
    pytest.importorskip("peft")
    base = shutil.copytree(folder / "start", tmp_path / "run" / "base")
    flags = {"lora_enable": True, "model_name_or_path": str(base), "pretrain_mm_mlp_adapter": str(folder / "start")}
    with pytest.raises(UsageError, match=r"--output_dir .*base would overwrite the input"):
        prepare(config(**flags), World())
