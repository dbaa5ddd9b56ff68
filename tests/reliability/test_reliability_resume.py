"""A run that was interrupted, against the one that was not: under every strategy, and in other numbers of processes.

In as many processes the steps after a resume equal the others to the bit, dropout and all. In fewer or more, or under
another strategy, sums are made in another order: the first loss is the same but for rounding. All runs of a number of
processes follow each other in one set of processes; those that go on do so in another.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from dist_support import STRATEGIES, make_data, make_deepspeed, make_start, metrics, run_job

pytestmark = [pytest.mark.sweep, pytest.mark.dist, pytest.mark.timeout(0)]  # `run_job` has a limit of its own

STEPS, CUT = 30, 10
# With a head of the objective's own.
EXACT = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": STEPS, "save_steps": CUT,
         "learning_rate": 3e-3, "glyph_loss_weight": 0.5}  # fmt: skip
LORA = {"lora_enable": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "lora_targets_vision": "q_proj,fc1"}
KINDS = {"whole": {}, "lora": LORA, "dora": LORA | {"use_dora": True}, "qlora": LORA | {"bits": 4}}
# What there is of each kind; docs/adapters.md says which adapters go with what. ZeRO-3 comes last: DeepSpeed replaces
# torch's linear function with its own.
WAYS = {
    "whole": ("one", "ddp", "fsdp", "tp", "zero2", "zero3"),
    "lora": ("one", "ddp", "fsdp", "zero2", "zero3"),
    "dora": ("one", "fsdp", "zero3"),
    "qlora": ("one", "ddp"),
}
ROWS = [(kind, way, bf16) for kind, ways in WAYS.items() for way in ways for bf16 in ("false", "true")]
ROWS.sort(key=lambda row: row[1] == "zero3")

SIZES = (1, 2, 4)
SIZED = {"per_device_train_batch_size": 2, "max_steps": 6, "save_steps": 3, "learning_rate": 3e-3}
# (strategy, processes) that saved, and that goes on.
MOVES = [((way, one), (way, other)) for way in STRATEGIES for one, other in permutations(SIZES, 2)]
MOVES += [
    (("zero3", 2), ("fsdp", 2)),
    (("fsdp", 2), ("zero3", 2)),
    (("zero2", 2), ("fsdp", 4)),
    (("fsdp", 4), ("zero2", 1)),
    (("zero3", 4), ("tp", 2)),
    (("tp", 4), ("zero3", 2)),
    (("zero2", 1), ("zero3", 2)),
    (("zero3", 1), ("ddp", 2)),
]
KEYS = ("step", "loss", "glyph_loss", "grad_norm", "learning_rate", "supervised_tokens")


def learnt(folder):
    return [[entry.get(key) for key in KEYS] for entry in metrics(folder)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mini):
    folder = tmp_path_factory.mktemp("resume")
    make_data(folder, glyphs=True)
    make_deepspeed(folder)
    make_start(folder, mini)
    wide = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "attention_dropout": 0.3}
    vision = mini.vision_config | {"attention_dropout": 0.1}
    make_start(folder, replace(mini, text_config=mini.text_config | wide, vision_config=vision), "dropout")
    return folder


def placed(folder, way):
    """A strategy's flags."""
    return {k: str(folder / v) if k == "deepspeed" else v for k, v in STRATEGIES.get(way, {}).items()}


def flags_of(folder, kind, way, bf16):
    return EXACT | KINDS[kind] | placed(folder, way) | {"bf16": bf16}


def job_of(folder, start, runs):
    return {
        "start": str(folder / start),
        "data": str(folder / "d.jsonl"),
        "out": str(folder / f"out-{start}"),
        "runs": runs,
    }


@pytest.fixture(scope="module")
def exact(folder):
    """Every run and the one that goes on from its tenth step: what each rank saw, by run."""
    found = {}
    for size in (1, 2):
        rows = [row for row in ROWS if (row[1] == "one") == (size == 1)]
        runs = [{"name": "-".join(row), "flags": flags_of(folder, *row)} for row in rows]
        resumed = [run | {"name": f"{run['name']}-cut", "goes_on": run["name"], "from_step": CUT} for run in runs]
        for name, some in (("whole", runs), ("cut", resumed)):
            found |= run_job(job_of(folder, "dropout", some), folder / f"jobs-{name}", size)
    return found


@pytest.mark.parametrize(("kind", "way", "bf16"), ROWS)
def test_twenty_steps_after_a_resume_equal_the_others_to_the_bit(folder, exact, kind, way, bf16):
    name = f"{kind}-{way}-{bf16}"
    for rank in exact[f"{name}-cut"]:
        assert "error" not in rank
        assert rank["first_step"] == CUT + 1
    whole, cut = (folder / "out-dropout" / run for run in (name, f"{name}-cut"))
    assert learnt(cut) == learnt(whole)
    assert len(learnt(cut)) == STEPS
    files = [file.relative_to(whole) for file in whole.glob(f"checkpoint-{STEPS}/**/*.safetensors")]
    assert len(files) >= 4
    for file in files:
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file


def test_dropout_is_on(folder, exact):
    """Else equal steps would say nothing of the random numbers."""
    losses = [learnt(folder / "out-dropout" / f"whole-{way}-false")[0][1] for way in ("one", "ddp")]
    assert abs(losses[0] - losses[1]) > 1e-4, "two processes draw other numbers than one"


def sized(folder, way, size):
    """A run of a strategy whose steps have four micro-batches over all processes."""
    flags = placed(folder, way) if size > 1 or "zero" in way else {}
    of_data = size // 2 if flags.get("tp") else size
    return {"name": f"{way}-{size}", "flags": SIZED | flags | {"gradient_accumulation_steps": 4 // of_data}}


@pytest.fixture(scope="module")
def moved(folder):
    """Every strategy in one, two and four processes, and every move from one to another, by run."""
    found = {}
    for size in SIZES:
        runs = [sized(folder, way, size) for way in STRATEGIES]
        found |= run_job(job_of(folder, "start", runs), folder / "jobs-first", size)
    for size in SIZES:
        runs = []
        for origin, (way, processes) in MOVES:
            if processes == size:
                run = sized(folder, way, size)
                before = "-".join(map(str, origin))
                runs.append(run | {"name": f"{run['name']}-from-{before}", "goes_on": before, "from_step": 3})
        found |= run_job(job_of(folder, "start", runs), folder / "jobs-moved", size)
    return found


@pytest.mark.parametrize(("origin", "to"), MOVES)
def test_a_run_goes_on_in_other_processes_with_the_same_samples_and_the_same_loss(folder, moved, origin, to):
    before, after = ("-".join(map(str, place)) for place in (origin, to))
    for rank in moved[f"{after}-from-{before}"]:
        assert "error" not in rank
        assert rank["first_step"] == 4
    whole, found = (metrics(folder / "out-start" / run) for run in (before, f"{after}-from-{before}"))
    assert [entry["supervised_tokens"] for entry in found] == [entry["supervised_tokens"] for entry in whole]
    for one, two in zip(whole[4:], found[4:], strict=True):
        assert abs(one["loss"] - two["loss"]) < 1e-5


def test_the_first_losses_after_all_moves(folder, moved, measured):
    names = [["-".join(map(str, place)) for place in move] for move in MOVES]
    runs = [(before, f"{after}-from-{before}") for before, after in names]
    losses = [[metrics(folder / "out-start" / run)[3]["loss"] for run in pair] for pair in runs]
    apart = max(abs(one - other) for one, other in losses)
    measured(f"{len(MOVES)} moves between strategies and sizes: first losses apart by {apart:.1e} at most")
    assert apart < 1e-6
