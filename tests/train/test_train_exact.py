"""What makes a resumed run equal to the bit: leave any of it out, and the losses are others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_train_loop import learnt, metrics

from parsit import hf
from parsit.files.manifest import write_manifest

STEPS = {"max_steps": 6, "save_steps": 3, "warmup_steps": 2}


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    return tmp_path_factory.mktemp("exact")


@pytest.fixture
def halfway(run, mini, processor, cut, tmp_path):
    """A run with dropout, and a copy of it that ends at step 3."""
    if not (cut / "whole").exists():
        dropout = replace(mini, text_config={**mini.text_config, "attention_dropout": 0.3})
        run(cut / "whole", model=hf.new_model(dropout, processor, 0), **STEPS)
    shutil.copytree(cut / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    return tmp_path / "cut" / "checkpoint-3"


def tensors(name, change):
    """A change to one of a checkpoint's files of tensors."""

    def tamper(checkpoint):
        file = checkpoint / "train_state" / f"{name}.safetensors"
        save_file({key: change(key, value) for key, value in load_file(file).items()}, file)

    return tamper


def position(checkpoint):
    file = checkpoint / "train_state" / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"step": 2}))


def only(ending, change):
    return lambda key, value: change(value) if key.endswith(ending) else value


def of_another_seed(_):
    with torch.random.fork_rng():
        torch.manual_seed(99)
        return torch.get_rng_state()


LEFT_OUT = {
    "random numbers": tensors("rng", lambda key, value: of_another_seed(value)),
    "the optimizer's means": tensors("optimizer", only("/exp_avg", torch.zeros_like)),
    "the optimizer's squares": tensors("optimizer", only("/exp_avg_sq", torch.ones_like)),
    "the optimizer's count of steps": tensors("optimizer", only("/step", torch.ones_like)),
    "the objective's own weights": tensors("objective", lambda key, value: torch.zeros_like(value)),
    "the position": position,
}


@pytest.mark.slow
@pytest.mark.parametrize("part", LEFT_OUT)
def test_a_run_that_goes_on_without_a_part_of_its_state_is_another(run, cut, halfway, part):
    LEFT_OUT[part](halfway)
    write_manifest(halfway)
    run(halfway.parent, **STEPS)
    assert learnt(halfway.parent)[3:] != learnt(cut / "whole")[3:]


def test_with_all_of_it_it_is_the_same_and_with_another_schedule_it_is_not(run, cut, halfway):
    shutil.copytree(halfway.parent, halfway.parent.with_name("other"))
    run(halfway.parent, **STEPS)
    assert learnt(halfway.parent) == learnt(cut / "whole")
    run(halfway.parent.with_name("other"), **STEPS | {"lr_scheduler_type": "linear"})
    rates = [[entry["learning_rate"] for entry in metrics(folder)] for folder in (cut / "whole", halfway.parent)]
    other = [entry["learning_rate"] for entry in metrics(halfway.parent.with_name("other"))]
    assert rates[0] == rates[1] != other
