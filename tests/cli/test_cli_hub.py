"""Every verb that takes a model's folder takes an id on the Hub."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from dist_support import make_data, make_start

from hub_support import environment, running_hub

# Verbs one after the other in one process, which imports torch once. A line for each: its words and its exit code.
VERBS = """
import contextlib, io, json, sys
from parsit.cli.main import dispatch
from parsit.types import ParsitError
for words in json.loads(sys.argv[1]):
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    try:
        with contextlib.redirect_stdout(out):
            code = dispatch(words)
    except ParsitError as error:
        code = str(error)
    out.flush()
    print(json.dumps([words, code, out.buffer.getvalue().decode()]))
import parsit
scores = parsit.evaluate("acme/mini@v1", "d.jsonl", max_new_tokens=2)
print(json.dumps([["load"], 0, parsit.load("acme/mini@v1").ask("0.png", "What?", max_new_tokens=2)]))
"""
RUN = ["--data", "d.jsonl", "--bf16", "false", "--max_steps", "1", "--eval_steps", "0", "--dataloader_num_workers", "0",
       "--per_device_train_batch_size", "2"]  # fmt: skip


@pytest.mark.slow
def test_every_verb_takes_a_model_on_the_hub(mini, tmp_path):
    make_data(tmp_path)
    make_start(tmp_path, mini, "mini")
    with running_hub() as hub:
        repository = hub.put("acme/mini", tmp_path / "mini")
        repository.refs["v1"] = repository.refs["main"]
        repository.commit({"README.md": b"the model is gone from here"})
        model = "acme/mini@v1"
        verbs = [
            ["info", model, "--json"],
            ["parse", "0.png", "--model", model, "--format", "json", "--max_new_tokens", "2"],
            ["ask", "0.png", "What is it?", "--model", model, "--max_new_tokens", "2"],
            ["eval", model, "--data", "d.jsonl", "--max_new_tokens", "2", "--out", "scores"],
            ["data", "stats", "d.jsonl", "--model", model],
            ["data", "validate", "d.jsonl", "--model", model, "--model_max_length", "512"],
            ["check", "tiny/finetune", "--model_name_or_path", model, "--output_dir", "out", *RUN, "--no_step"],
            ["train", "tiny/finetune", "--model_name_or_path", model, "--output_dir", "out", *RUN],
            ["train", "tiny/finetune", "--from_scratch", "true", "--pretrain_mm_mlp_adapter", model,
             "--output_dir", "out2", *RUN],
            ["export", model, "--out", "exported"],
            ["import", model, "--out", "imported"],
        ]  # fmt: skip
        command = [sys.executable, "-c", VERBS, json.dumps(verbs)]
        found = environment(hub.endpoint, tmp_path / "home")
        done = subprocess.run(command, cwd=tmp_path, env=found, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        *results, projector, exported, imported, loaded = [json.loads(line) for line in done.stdout.splitlines()]
    for words, code, out in [*results, exported, loaded]:
        assert code == 0, (words, code, out, done.stderr)
    assert "(192, 768)" in projector[1] or "of another shape" in projector[1]  # the projector was fetched and looked at
    assert "its weights have today's names already" in imported[1]
    assert json.loads(results[0][2])["total"] > 0
    assert "model_name_or_path: acme/mini@v1" in (tmp_path / "out" / "checkpoint-1" / "train_config.yaml").read_text()
    before, after = (tmp_path / name / "model.safetensors" for name in ("mini", "exported"))
    assert before.read_bytes() == after.read_bytes()
