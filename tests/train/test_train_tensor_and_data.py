"""Four processes over gloo, two groups of two: tensor parallelism inside a group, data parallelism across the groups.

Each way must learn what one process learns, from the same samples in the same order. Sizes are odd, so that what one
way of cutting leaves is cut unevenly by the other. All runs of a world size follow each other in one set of processes.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from dist_support import make_data, make_start, metrics, run_job
from safetensors.torch import load_file

from parsit import hf
from parsit.config import TrainConfig
from parsit.train.memory import BatchSize, Placement, estimate
from parsit.train.parts import set_tunable
from parsit.train.strategies.tensor import buckets, require_plan
from parsit.train.world import data_size
from parsit.types import UsageError

pytestmark = [pytest.mark.slow, pytest.mark.dist, pytest.mark.timeout(0)]  # `run_job` has a limit of its own

WAYS = {"tp": {"tp": 2}, "tp-fsdp": {"tp": 2, "fsdp": True}}
NAMES = {"tp": "TP", "tp-fsdp": "TP with FSDP2"}
STEPS = 6
# A step has four micro-batches of two of the fourteen samples: in an epoch's second step one rank has an empty one.
WHOLE = {"per_device_train_batch_size": 2, "max_steps": STEPS, "save_steps": 3, "learning_rate": 3e-3,
         "sample_steps": 4, "max_grad_norm": 0.5}  # fmt: skip
# One sample each: what two groups compute at the same time differs in modality, length, and whether it is there at all.
SINGLE = {"per_device_train_batch_size": 1, "max_steps": 7, "save_steps": 7, "learning_rate": 1e-3,
          "max_bad_fraction": 0.5, "gradient_checkpointing": True}  # fmt: skip
REFUSED = {
    "tp-3": ({"tp": 3}, "--tp 3 with 4 processes"),
    "tp-4": ({"tp": 4}, "the language model has 2 key/value heads"),
    "tp-4-fsdp": ({"tp": 4, "fsdp": True}, "there is nothing to shard over"),
}


@pytest.fixture(scope="module")
def odd(mini):
    """The miniature architecture with a vocabulary and an inner size whose halves are odd."""
    return dataclasses.replace(mini, text_config=mini.text_config | {"vocab_size": 4098, "intermediate_size": 98})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, odd):
    folder = tmp_path_factory.mktemp("tensor-and-data")
    make_data(folder)
    for name, tied in (("start", True), ("start-untied", False)):
        # Biases, as Qwen2 has them: they are cut, and the norms beside them in a group are not.
        text = odd.text_config | {"tie_word_embeddings": tied, "attention_bias": not tied}
        make_start(folder, dataclasses.replace(odd, text_config=text), name)
    return folder


def run_of(name: str, way: str, base: dict, micro_batches: int, **more) -> dict:
    """A run whose steps have so many micro-batches over all processes; `one` is a process alone."""
    mine = {"gradient_accumulation_steps": micro_batches // (1 if way == "one" else 2)}
    return {"name": f"{name}-{way}", "flags": base | WAYS.get(way, {}) | mine, **more}


@pytest.fixture(scope="module")
def seen(folder):
    """All runs: what each rank saw, by run."""
    job = {"start": str(folder / "start"), "data": str(folder / "d.jsonl"), "out": str(folder / "out")}
    single = {"start": str(folder / "start-untied"), "break": str(folder / "4.png")}

    def runs_of(way: str) -> list[dict]:
        return [
            run_of("whole", way, WHOLE, 4, validate=True),
            run_of("single", way, SINGLE, 2, **single),
        ]

    found = run_job(job | {"runs": runs_of("one")}, folder / "jobs", 1)
    runs = []
    for way in WAYS:
        # What one process began, four go on with.
        shutil.copytree(folder / "out" / "whole-one", folder / "out" / f"resumed-{way}")
        shutil.rmtree(folder / "out" / f"resumed-{way}" / f"checkpoint-{STEPS}")
        runs += [
            *runs_of(way),
            run_of("resumed", way, WHOLE | {"sample_steps": 0}, 4, validate=True),
            run_of("poisoned", way, WHOLE, 4, poison=1),
        ]
    runs += [{"name": name, "flags": WHOLE | flags} for name, (flags, _) in REFUSED.items()]
    return found | run_job(job | {"runs": runs}, folder / "jobs", 4)


@pytest.mark.parametrize("way", WAYS)
def test_matrices_are_cut_over_the_group_and_with_fsdp_over_the_groups_too(seen, folder, way):
    weights = load_file(folder / "out" / "whole-one" / f"checkpoint-{STEPS}" / "model.safetensors")
    total = sum(weight.numel() for weight in weights.values())
    cut = sum(w.numel() for name, w in weights.items() if "language_model" in name and w.ndim == 2)
    expected = (cut / 2 + total - cut) / (2 if way == "tp-fsdp" else 1)
    for rank in seen[f"whole-{way}"]:
        assert rank["strategy"] == NAMES[way]
        assert rank["whole"] == seen["whole-one"][0]["whole"] == total
        assert rank["here"] / expected == pytest.approx(1, abs=0.01)
        assert rank["optimizer_here"] / expected == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("run", ["whole", "resumed"])
@pytest.mark.parametrize("way", WAYS)
def test_every_step_equals_that_of_one_process(folder, seen, way, run):
    assert "error" not in seen[f"{run}-{way}"][0]
    expected, found = (metrics(folder / "out" / which) for which in ("whole-one", f"{run}-{way}"))
    assert len(found) == STEPS
    for one, four in zip(expected, found, strict=True):
        assert one["supervised_tokens"] == four["supervised_tokens"]
        assert abs(one["loss"] - four["loss"]) < 1e-5
        for key in ("grad_norm", "grad_norm/language_model", "grad_norm/vision_tower", "grad_norm/projector"):
            assert four[key] == pytest.approx(one[key], rel=1e-4)
    assert expected[0]["grad_norm"] > WHOLE["max_grad_norm"], "gradients are clipped"
    assert abs(expected[-1]["eval_loss"] - found[-1]["eval_loss"]) < 1e-5
    assert expected[0]["loss"] - expected[-1]["loss"] > 0.5, "it learns"


@pytest.mark.parametrize("file", ["model.safetensors", "train_state/optimizer.safetensors"])
@pytest.mark.parametrize("run", ["whole", "resumed"])
@pytest.mark.parametrize("way", WAYS)
def test_the_checkpoint_is_whole_and_equals_that_of_one_process(folder, seen, way, run, file):
    expected, found = (
        load_file(folder / "out" / which / f"checkpoint-{STEPS}" / file) for which in ("whole-one", f"{run}-{way}")
    )
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=2e-4, rtol=0, msg=key)


@pytest.mark.parametrize("way", WAYS)
def test_groups_that_differ_in_images_text_and_emptiness_do_not_hang_and_learn_the_same(folder, seen, way):
    """With activation checkpointing, an `lm_head` of its own, and an image that breaks and leaves a group nothing."""
    expected, found = (metrics(folder / "out" / f"single-{which}") for which in ("one", way))
    for one, four in zip(expected, found, strict=True):
        assert abs(one["loss"] - four["loss"]) < 1e-5
        assert four["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        assert one["left_out"] == four["left_out"]
    assert found[-1]["left_out"] == 1
    lists = [(folder / "out" / f"single-{which}" / "left_out.jsonl").read_text() for which in ("one", way)]
    assert lists[0] == lists[1], "what both processes of a group left out is told once"


@pytest.mark.parametrize("way", WAYS)
def test_reading_in_mid_training_does_not_hang_and_reads_the_same(folder, seen, way):
    lines = [
        [json.loads(line) for line in (folder / "out" / f"whole-{which}" / "samples.jsonl").read_text().splitlines()]
        for which in ("one", way)
    ]
    assert [line["step"] for line in lines[0]] == [4]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_finite_stops_every_process_before_the_update(folder, seen, way):
    for rank in seen[f"poisoned-{way}"]:
        assert rank["error"].startswith("ParsitError: step 2: loss is nan")
    assert len(metrics(folder / "out" / f"poisoned-{way}")) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_the_processes_is_refused_with_its_reason(seen, name):
    for rank in seen[name]:
        assert rank["error"].startswith("UsageError: ")
        assert REFUSED[name][1] in rank["error"]


def test_the_flags_go_together_but_not_with_deepspeed():
    assert TrainConfig(tp=2, fsdp=True).tp == 2
    for tp, fsdp in ((2, False), (1, True), (2, True)):
        with pytest.raises(UsageError, match="each place the weights in their own way"):
            TrainConfig(deepspeed="zero3.json", tp=tp, fsdp=fsdp)
    assert [data_size(8, tp) for tp in (1, 2, 8)] == [8, 4, 1]


def test_buckets_hold_every_gradient_once_and_no_more_than_they_may():
    sizes = [3, 0, 4, 5, 2, 9, 1]
    found = [[gradient.numel() for gradient in bucket] for bucket in buckets(map(torch.zeros, sizes), most=7)]
    assert found == [[3, 4], [5, 2], [9], [1]]
    assert list(buckets([torch.zeros(0)], most=7)) == []


def test_the_estimate_knows_both_ways(odd):
    model = hf.new_model(odd, hf.new_processor(odd), 0)
    set_tunable(model, ["mm_vision_tower", "mm_mlp_adapter", "mm_language_model"])
    size = BatchSize(100, 4, 20)
    replicated, sharded, group = (
        estimate(model, TrainConfig(), Placement.of(TrainConfig(tp=2, fsdp=fsdp), ranks), size, bf16=False)
        for ranks, fsdp in ((8, False), (8, True), (2, False))
    )
    assert replicated == group, "more groups that hold the same do not change what one process holds"
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(sharded, part) == pytest.approx(getattr(group, part) / 4)
    assert sharded.activations == group.activations
    placements = [Placement.of(TrainConfig(tp=tp, fsdp=fsdp), 8) for tp, fsdp in ((8, False), (2, False), (2, True))]
    assert list(map(str, placements)) == ["--tp 8, 8 ranks", "--tp 2 with DDP, 8 ranks", "--tp 2 with FSDP, 8 ranks"]
    assert [placement.data_ranks for placement in placements] == [1, 4, 4]
    with pytest.raises(UsageError, match=r"--tp 3 with 8 processes"):
        Placement.of(TrainConfig(tp=3), 8)


def test_a_decoder_of_a_family_without_a_plan_is_refused():
    for family in ("qwen3", "qwen2", "llama"):
        require_plan(family)
    with pytest.raises(
        UsageError, match="--tp cuts qwen3, qwen2, llama; the language model is a olmo2: use --fsdp true"
    ):
        require_plan("olmo2")
