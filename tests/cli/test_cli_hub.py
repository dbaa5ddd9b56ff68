"""Every verb that takes a model's folder takes an id on the Hub."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from dist_support import make_data, make_start

from hub_support import NO_HUB, TOKEN, environment, parsit, running_hub

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
scores = parsit.evaluate(sys.argv[2], "d.jsonl", max_new_tokens=2)
print(json.dumps([["load"], 0, parsit.load(sys.argv[2]).ask("0.png", "What?", max_new_tokens=2)]))
# What the model's card says about transformers, as it stands there.
if len(sys.argv) > 3:
    exec(open(sys.argv[3]).read().split("```python")[2].split("```")[0])
    print(json.dumps([["card"], 0, f"{type(model).__name__}, {type(processor).__name__}"]))
"""
RUN = ["--data", "d.jsonl", "--bf16", "false", "--max_steps", "1", "--eval_steps", "0", "--dataloader_num_workers", "0",
       "--per_device_train_batch_size", "2"]  # fmt: skip


def run(hub, folder, verbs, model, *card):
    """[words, exit code or error, stdout] of each verb, of reading with `model` from Python, and of its card's code."""
    command = [sys.executable, "-c", VERBS, json.dumps(verbs), model, *card]
    found = environment(hub.endpoint, folder / "home", TOKEN)
    done = subprocess.run(command, cwd=folder, env=found, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


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
        *results, projector, exported, imported, loaded = run(hub, tmp_path, verbs, model)
    for words, code, out in [*results, exported, loaded]:
        assert code == 0, (words, code, out)
    assert "(192, 768)" in projector[1] or "of another shape" in projector[1]  # the projector was fetched and looked at
    assert "its weights have today's names already" in imported[1]
    assert json.loads(results[0][2])["total"] > 0
    assert "model_name_or_path: acme/mini@v1" in (tmp_path / "out" / "checkpoint-1" / "train_config.yaml").read_text()
    before, after = (tmp_path / name / "model.safetensors" for name in ("mini", "exported"))
    assert before.read_bytes() == after.read_bytes()


@pytest.mark.slow
def test_a_run_is_published_with_a_card_of_what_was_recorded_and_nothing_else(mini, tmp_path):
    make_data(tmp_path)
    make_start(tmp_path, mini, "mini")
    shutil.copy(tmp_path / "d.jsonl", tmp_path / "v.jsonl")
    train = ["train", "tiny/finetune", *RUN, "--eval_data", "v.jsonl", "--model_name_or_path"]
    push = ["--push_to_hub", "acme/reader"]
    verbs = [
        [*train, "mini", "--output_dir", "runs/first"],
        [*train, "runs/first", "--output_dir", "runs/second"],
        ["eval", "runs/second", "--data", "d.jsonl", "--max_new_tokens", "2", "--out", "runs/second/scores"],
        ["export", "runs/second", "--out", "model", *push],
        ["export", "model", *push],
        ["export", "runs/second", "--push_to_hub", "other/reader", "--out", "model2"],
        ["export", "runs/second", *push],
        ["export", "model", "--push_to_hub", "acme/seen", "--public"],
    ]
    with running_hub() as hub:
        hub.refused_uploads = 1
        done = run(hub, tmp_path, verbs, "acme/reader", "model/README.md")
        *_, refused, again, forbidden, not_exported, public, read, card_code = done
        assert card_code[2] == "ParsitForConditionalGeneration, ParsitProcessor"
        assert refused[1] == f"acme/reader: the Hub ({hub.endpoint}) refuses it: 413, storage quota exceeded"
        assert again[1] == 0
        assert "(private)" in again[2]
        assert forbidden[1] == (
            f"other/reader: the Hub ({hub.endpoint}) refuses it: 403, no rights to create a model in other: give the "
            f"token the right to write, at {hub.endpoint}/settings/tokens, or name another ORG"
        )
        assert not_exported[1] == "runs/second/checkpoint-1: has to be exported first: give --out DIR too"
        assert "(public)" in public[2]
        assert read[1] == 0
        assert (hub.repositories["acme/reader"].private, hub.repositories["acme/seen"].private) == (True, False)
        # Weights that the Hub has are not sent again.
        assert sum(line.startswith("PUT /lfs/") for line in hub.asked) == 2
        sent = hub.repositories["acme/reader"].files
    assert not (tmp_path / "model2").exists()
    assert sent.keys() == {path.name for path in (tmp_path / "model").iterdir()} | {".gitattributes"}
    card = sent["README.md"].decode()
    assert "| 1 | model `mini` |" in card
    assert (
        "| 2 | model `first` | mm_vision_tower, mm_mlp_adapter, mm_language_model | 1 | `d.jsonl` (14 samples) |"
        in card
    )
    assert "Stage 2 ended with a validation loss of" in card
    assert "On `d.jsonl` (scores), 14 samples" in card
    assert "auto_map" not in sent["config.json"].decode()
    assert str(tmp_path).encode() not in b"".join(data for name, data in sent.items() if "safetensors" not in name)


@pytest.mark.slow
def test_a_folder_goes_to_the_hub_without_what_is_no_model_and_old_shards_are_removed(mini, tmp_path):
    make_start(tmp_path, mini, "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (tmp_path / "model" / "notes.txt").write_text("for me")
    (tmp_path / "model" / "train_state").mkdir()
    (tmp_path / "model" / "train_state" / "optimizer.safetensors").write_bytes(b"x")
    with running_hub() as hub:
        hub.put("acme/reader", tmp_path / "model").commit(
            {"model-00001-of-00002.safetensors": b"old", "logo.png": b"x"}
        )
        done = parsit(hub.endpoint, tmp_path, "export", "model", "--push_to_hub", "acme/reader", token=TOKEN)
        assert done.returncode == 0, done.stderr
        assert "not sent, as they are no files of a model: notes.txt, train_state/optimizer.safetensors" in done.stderr
        files = hub.repositories["acme/reader"].files
    assert not {"model-00001-of-00002.safetensors", "notes.txt", "train_state/optimizer.safetensors"} & files.keys()
    assert {"model.safetensors", "config.json", "logo.png"} <= files.keys()
    assert b"license: mit" in files["README.md"]


@pytest.mark.slow
def test_a_token_is_asked_for_before_any_work_is_done(tmp_path):
    done = parsit(NO_HUB, tmp_path, "export", "nowhere", "--out", "model", "--push_to_hub", "acme/reader")
    assert done.returncode == 2
    assert done.stderr == (
        f"parsit: --push_to_hub needs a token that may write: make one at {NO_HUB}/settings/tokens, and set HF_TOKEN "
        "to it, or log in with `hf auth login`\n"
    )
    for words, said in [
        (
            ["--push_to_hub", "reader"],
            "--push_to_hub reader: it must be ORG/NAME, with your own name or an organization's first",
        ),
        (["--out", "model", "--public"], "--public says how the repository of --push_to_hub is made: give that too"),
        ([], "parsit export needs --out, a folder to write, or --push_to_hub, for one that was exported"),
    ]:
        done = parsit(NO_HUB, tmp_path, "export", "nowhere", *words, token=TOKEN)
        assert (done.returncode, done.stderr) == (2, f"parsit: {said}\n")
