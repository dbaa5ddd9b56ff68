"""Training on packs, and on data that breaks while it is read."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from parsit.types import InputError


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder, step):
    return load_file(folder / f"checkpoint-{step}" / "model.safetensors")


def test_packed_and_padded_steps_over_the_same_samples_learn_the_same(run, tmp_path):
    flags = {"per_device_train_batch_size": 14, "max_steps": 3, "glyph_loss_weight": 0.0}
    run(tmp_path / "padded", **flags)
    run(tmp_path / "packed", packing=True, model_max_length=512, **flags)
    padded, packed = metrics(tmp_path / "padded"), metrics(tmp_path / "packed")
    for a, b in zip(padded, packed, strict=True):
        assert a["supervised_tokens"] == b["supervised_tokens"]
        assert abs(a["loss"] - b["loss"]) < 1e-5
        assert abs(a["grad_norm"] - b["grad_norm"]) < 1e-4
    assert padded[0]["padding"] > 0.1
    assert packed[0]["padding"] == 0


@pytest.mark.slow
def test_packs_with_glyphs_and_accumulation_resume_to_the_bit(run, tmp_path):
    flags = {"packing": True, "model_max_length": 64, "per_device_train_batch_size": 2, "max_steps": 6}
    flags |= {"gradient_accumulation_steps": 2}
    run(tmp_path / "whole", **flags)
    run(tmp_path / "parts", **flags | {"max_steps": 6, "save_steps": 2})
    for late in ("checkpoint-4", "checkpoint-6"):
        for file in sorted((tmp_path / "parts" / late).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        (tmp_path / "parts" / late).rmdir()
    run(tmp_path / "parts", **flags)
    assert [entry["loss"] for entry in metrics(tmp_path / "whole")] == [e["loss"] for e in metrics(tmp_path / "parts")]
    one, two = weights(tmp_path / "whole", 6), weights(tmp_path / "parts", 6)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def breaking(samples):
    """A hook that cuts the image of the fourth sample off when the run begins, after the data was counted."""
    image = samples[3].images[0].source
    whole = image.read_bytes()
    yield lambda run, step: image.write_bytes(whole[: len(whole) // 2])
    image.write_bytes(whole)


@pytest.mark.parametrize("packing", [False, True])
def test_a_sample_that_breaks_in_mid_run_is_left_out_counted_and_listed(run, tmp_path, breaking, packing, capsys):
    flags = {"eval_steps": 0, "max_bad_fraction": 0.2, "max_steps": 8, "save_steps": 8, "packing": packing}
    with pytest.raises(InputError, match=r"validation sample d\.jsonl:4: .*image-damaged"):
        run(tmp_path / "run", on_step=breaking, model_max_length=128, **flags)
    entries = metrics(tmp_path / "run")
    assert max(entry["left_out"] for entry in entries) == 1
    listed = [json.loads(line) for line in (tmp_path / "run" / "left_out.jsonl").read_text().splitlines()]
    assert {(f["code"], f["place"], f["id"]) for f in listed} == {("image-damaged", "d.jsonl:4", "3")}
    assert len(listed) == (4 if packing else 2)  # once an epoch: an epoch has two packs, or four batches
    assert capsys.readouterr().err.count("left out d.jsonl:4") == 1


def test_too_many_broken_samples_stop_the_run(run, tmp_path, breaking):
    with pytest.raises(InputError, match=r"1 samples could not be read, more than --max_bad_fraction 0\.001 of 14"):
        run(tmp_path / "run", on_step=breaking, max_steps=8)
    assert (tmp_path / "run" / "left_out.jsonl").exists()


def test_what_is_done_again_is_not_listed_twice(run, tmp_path):
    from parsit.train.left_out import LEFT_OUT_FILE
    from parsit.train.metrics import SAMPLES_FILE

    run(tmp_path / "run", max_steps=3)
    for name in (LEFT_OUT_FILE, SAMPLES_FILE):
        entries = [{"step": 2, "place": "d.jsonl:1"}, {"step": 5, "place": "d.jsonl:2"}]
        (tmp_path / "run" / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"step": ')
    run(tmp_path / "run", max_steps=6, max_bad_fraction=0.5)
    for name in (LEFT_OUT_FILE, SAMPLES_FILE):
        lines = (tmp_path / "run" / name).read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [2]
    assert metrics(tmp_path / "run")[-1]["left_out"] == 1
