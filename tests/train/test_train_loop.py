"""The run: it learns, it repeats to the bit, it resumes to the bit, it stops before harm."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from parsit import hf
from parsit.config import TrainConfig
from parsit.files.manifest import write_manifest
from parsit.processing.collate import collate
from parsit.train.objective import Objective, StepCounts
from parsit.train.parts import set_tunable
from parsit.types import InputError, ParsitError


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def learnt(folder, keys=("step", "loss", "glyph_loss", "grad_norm", "learning_rate", "supervised_tokens")):
    return [[entry[key] for key in keys] for entry in metrics(folder)]


def weights(checkpoint):
    return load_file(checkpoint / "model.safetensors")


@pytest.mark.slow
def test_the_loss_falls_and_what_is_told_is_there(run, tmp_path):
    result = run(tmp_path, max_steps=40, save_steps=100)
    entries = metrics(tmp_path)
    assert [entry["step"] for entry in entries] == list(range(1, 41))
    assert sum(e["loss"] for e in entries[-4:]) < 0.5 * sum(e["loss"] for e in entries[:4])
    for key in ("grad_norm", "learning_rate", "tokens_per_s", "samples_per_s", "data_wait", "peak_memory_bytes"):
        assert all(entry[key] >= 0 for entry in entries), key
    assert entries[-1]["eval_loss"] == result.eval_loss
    assert result.checkpoint.name == "checkpoint-40"


def test_two_runs_with_one_seed_are_bit_equal_and_another_seed_is_not(run, tmp_path):
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    assert learnt(tmp_path / "a") == learnt(tmp_path / "b")
    one, two = weights(first.checkpoint), weights(second.checkpoint)
    assert all(torch.equal(one[key], two[key]) for key in one)
    run(tmp_path / "c", seed=1)
    assert learnt(tmp_path / "a") != learnt(tmp_path / "c")


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(run, tmp_path):
    whole = run(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # killed while it wrote
    resumed = run(tmp_path / "cut")
    assert learnt(tmp_path / "cut") == learnt(tmp_path / "whole")
    one, two = weights(whole.checkpoint), weights(resumed.checkpoint)
    assert all(torch.equal(one[key], two[key]) for key in one)
    for name in ("optimizer", "objective"):
        states = [load_file(r.checkpoint / "train_state" / f"{name}.safetensors") for r in (whole, resumed)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_run_in_a_thread_trains_too_though_it_hears_no_signal(run, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run, tmp_path, max_steps=1).result(timeout=120).steps == 1


def test_muon_resumes_to_the_bit_too(run, tmp_path):
    whole = run(tmp_path / "whole", optim="muon")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    resumed = run(tmp_path / "cut", optim="muon")
    one, two = weights(whole.checkpoint), weights(resumed.checkpoint)
    assert all(torch.equal(one[key], two[key]) for key in one)
    run(tmp_path / "adamw")
    assert learnt(tmp_path / "adamw") != learnt(tmp_path / "whole")


def test_random_numbers_go_on_where_they_stood(run, tmp_path, mini, processor):
    dropout = replace(mini, text_config={**mini.text_config, "attention_dropout": 0.3})
    whole = run(tmp_path / "whole", model=hf.new_model(dropout, processor, 0))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    resumed = run(tmp_path / "cut")
    assert learnt(tmp_path / "cut") == learnt(tmp_path / "whole")
    one, two = weights(whole.checkpoint), weights(resumed.checkpoint)
    assert all(torch.equal(one[key], two[key]) for key in one)
    run(tmp_path / "plain")
    assert learnt(tmp_path / "plain") != learnt(tmp_path / "whole")  # dropout does something


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"max_steps": 12}, "the run had 6 steps and has 12 now: at step 6 the learning rate goes on at 1.7e-03, "),
        ({"max_steps": 12, "lr_scheduler_type": "constant"}, "at step 6 the learning rate goes on at 3.0e-03, "),
        ({"max_steps": 7, "learning_rate": 3e-9, "lr_scheduler_type": "constant"}, "goes on at 3.0e-09"),
        ({"max_steps": 6}, ""),
    ],
)
def test_a_learning_rate_that_jumps_on_resume_is_said(run, tmp_path, flags, said, capsys):
    run(tmp_path, max_steps=6, warmup_steps=1)
    assert "warning" not in capsys.readouterr().err
    run(tmp_path, warmup_steps=1, **flags)
    err = capsys.readouterr().err
    assert ("warning: " in err) == bool(said)
    assert said in err


def test_a_run_that_was_cut_short_goes_on_without_a_word_about_its_rate(run, tmp_path, capsys):
    run(tmp_path, max_steps=6)
    shutil.rmtree(tmp_path / "checkpoint-6")
    run(tmp_path, max_steps=6)
    assert "warning" not in capsys.readouterr().err


def test_a_best_loss_on_other_samples_is_no_longer_the_best(run, tmp_path, capsys):
    run(tmp_path, max_steps=3)
    state = json.loads((tmp_path / "checkpoint-3" / "train_state" / "state.json").read_text())
    assert [best["step"] for best in state["best"]] == [3]
    # Lower than any loss to come: the best stays where it is, as long as it was made on the same samples.
    state["best"][0]["value"] = 1e-9
    (tmp_path / "checkpoint-3" / "train_state" / "state.json").write_text(json.dumps(state))
    (tmp_path / "checkpoint-3" / "manifest.json").unlink()
    write_manifest(tmp_path / "checkpoint-3")
    shutil.copytree(tmp_path, tmp_path / "other")
    run(tmp_path, max_steps=4)
    assert json.loads((tmp_path / "best.json").read_text())["checkpoint"] == "checkpoint-3"
    assert "does not compare" not in capsys.readouterr().err
    run(tmp_path / "other", max_steps=4, max_eval_samples=2)
    assert json.loads((tmp_path / "other" / "best.json").read_text())["checkpoint"] == "checkpoint-4"
    assert "the validation loss 0.0000 of step 3 does not compare with what comes" in capsys.readouterr().err


def test_resuming_with_other_data_is_refused(run, tmp_path, samples):
    run(tmp_path, max_steps=3)
    changed = [replace(samples[0], id="another"), *samples[1:]]
    with pytest.raises(InputError, match="other data"):
        run(tmp_path, data=changed)
    with pytest.raises(InputError, match="other data, batch size"):
        run(tmp_path, per_device_train_batch_size=2)


def test_accumulation_does_not_change_the_gradient(mini, processor, samples):
    features = [processor.encode(sample.turns, with_glyphs=True) for sample in samples]
    pad = processor.chat_tokens.pad
    gradients = []
    for groups in ([features], [features[:5], features[5:12], features[12:]]):
        objective = Objective(hf.new_model(mini, processor, 0), 0.5)
        torch.manual_seed(7)
        objective.glyph_head.classify.reset_parameters()
        batches = [collate(group, pad) for group in groups]
        counts = StepCounts.of(batches)
        loss = 0.0
        for batch in batches:
            share = objective(batch, counts)
            share.total.backward()
            loss += float(share.total.detach())
        gradients.append((loss, {name: p.grad for name, p in objective.named_parameters()}))
    (loss, one), (other_loss, other) = gradients
    assert loss == pytest.approx(other_loss, abs=1e-5)
    assert all((one[name] - other[name]).abs().max() <= 1e-5 for name in one)


def test_the_loss_is_the_mean_cross_entropy_of_supervised_positions(mini, processor, samples):
    model = hf.new_model(mini, processor, 0).eval()
    batch = collate([processor.encode(sample.turns) for sample in samples], processor.chat_tokens.pad)
    with torch.no_grad():
        loss = model(**batch.model_inputs()).loss
        logits = model(**batch.model_inputs(with_labels=False)).logits
    total, count = 0.0, 0
    for row in range(len(samples)):
        for position in range(1, batch.labels.shape[1]):
            label = int(batch.labels[row, position])
            if label != -100:
                total -= float(logits[row, position - 1].double().log_softmax(-1)[label])
                count += 1
    assert float(loss) == pytest.approx(total / count, abs=1e-5)


def test_a_batch_without_supervised_positions_has_zero_loss_and_zero_gradients(mini, processor, samples):
    model = hf.new_model(mini, processor, 0).train()
    batch = collate([processor.encode(samples[0].turns)], processor.chat_tokens.pad)
    inputs = batch.model_inputs() | {"labels": torch.full_like(batch.labels, -100), "label_positions": None}
    loss = model(**inputs).loss
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("parts", "moved"),
    [
        ("mm_mlp_adapter", {"mm_projector", "image_newline"}),
        ("mm_vision_tower", {"vision_tower"}),
        ("mm_language_model,mm_mlp_adapter", {"mm_projector", "image_newline", "language_model"}),
    ],
)
def test_only_the_tunable_parts_move(run, tmp_path, mini, processor, parts, moved):
    before = {key: value.clone() for key, value in hf.new_model(mini, processor, 0).state_dict().items()}
    model = hf.new_model(mini, processor, 0)
    run(tmp_path, model=model, mm_tunable_parts=parts, glyph_loss_weight=0.0, max_steps=3)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".")[0] for key in changed} == moved
    expected = {key for key in before if key.split(".")[0] in moved and not key.endswith("k_proj.bias")}
    assert expected <= changed


def test_the_part_report_counts_what_is_trained(mini, processor):
    reports = {r.name: r for r in set_tunable(hf.new_model(mini, processor, 0), ["mm_mlp_adapter"])}
    assert reports["projector"].parameters == 32 * 48 + 48 + 2 * 48 + 48 * 48 + 48
    assert reports["projector"].trainable == reports["projector"].parameters
    assert reports["image_newline"].trainable == 48
    assert reports["vision_tower"].trainable == reports["language_model"].trainable == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_stops_before_the_update(run, tmp_path, mini, processor, bad):
    model = hf.new_model(mini, processor, 0)
    with torch.no_grad():
        model.mm_projector[0].weight[0, 0] = bad
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ParsitError, match=r"step 1: loss is nan.*stopped before the update"):
        run(tmp_path, model=model)
    assert all(torch.equal(value, before[key]) or "mm_projector.0" in key for key, value in model.state_dict().items())
    assert not list(tmp_path.glob("checkpoint-*"))


def test_the_best_checkpoint_is_kept_and_named(run, tmp_path):
    run(tmp_path, max_steps=8, eval_steps=2, save_steps=2, save_total_limit=1, learning_rate=3e-3)
    evals = {entry["step"]: entry["eval_loss"] for entry in metrics(tmp_path) if "eval_loss" in entry}
    assert sorted(evals) == [2, 4, 6, 8]
    best = min(evals, key=evals.get)
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "checkpoint": f"checkpoint-{best}",
        "eval_loss": evals[best],
    }
    kept = {path.name for path in tmp_path.glob("checkpoint-*")}
    # one checkpoint besides the best: the newest (or, where the newest is the best, the one before it)
    assert kept == {f"checkpoint-{best}", "checkpoint-6" if best == 8 else "checkpoint-8"}


def test_gradient_checkpointing_and_bf16_train_the_same_model(run, tmp_path):
    run(tmp_path / "plain")
    run(tmp_path / "recomputed", gradient_checkpointing=True)
    plain, recomputed = learnt(tmp_path / "plain"), learnt(tmp_path / "recomputed")
    assert [row[1] for row in plain] == pytest.approx([row[1] for row in recomputed], abs=1e-5)
    run(tmp_path / "bf16", bf16="true")
    assert [row[1] for row in plain] == pytest.approx([row[1] for row in learnt(tmp_path / "bf16")], rel=0.05)
    assert [row[1] for row in plain] != [row[1] for row in learnt(tmp_path / "bf16")]


def test_tensorboard_gets_the_same_numbers(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, report_to="tensorboard", logging_steps=2)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    told = {event.step: event.value for event in events.Scalars("train/loss")}
    assert sorted(told) == [2, 4, 6]
    assert all(told[e["step"]] == pytest.approx(e["loss"], rel=1e-6) for e in metrics(tmp_path) if e["step"] in told)


def test_a_config_has_its_nonsense_refused():
    from parsit.types import UsageError

    for flags, message in (
        ({"mm_tunable_parts": "mm_mlp_adaptor"}, "did you mean mm_mlp_adapter"),
        ({"mm_tunable_parts": ""}, "nothing would be trained"),
        ({"learning_rate": 0.0}, "--learning_rate"),
        ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps"),
        ({"max_steps": 0}, "--max_steps"),
        ({"warmup_ratio": 2.0}, "--warmup_ratio"),
        ({"architecture": "qwen3-1.7"}, "qwen3-1.7b"),
        ({"mm_vision_tower_lr": 0.0}, "--mm_vision_tower_lr is 0.0: .*left out of --mm_tunable_parts: mm_vision_tower"),
        ({"mm_projector_lr": -1e-4}, "--mm_projector_lr is -0.0001: it must be more than 0"),
        ({"mm_projector_lr": float("nan")}, "--mm_projector_lr is nan"),
        ({"learning_rate": float("inf")}, "--learning_rate is inf"),
        ({"weight_decay": float("inf")}, "--weight_decay is inf"),
        ({"adam_beta2": 1.0}, "--adam_beta2 is 1.0: it must be 0 or more and less than 1"),
        ({"adam_epsilon": 0.0}, "--adam_epsilon"),
        ({"lora_alpha": 0}, "--lora_alpha"),
        ({"lora_dropout": 1.0}, "--lora_dropout"),
    ):
        with pytest.raises(UsageError, match=message):
            TrainConfig(**flags)
