"""What makes another set of readings, and what does not."""

import json
import shutil
from dataclasses import fields, replace

from parsit.files.manifest import write_manifest
from parsit.scale.keys import ReadingSet, model_digest

BASE = ReadingSet("runs/tiny", "abc", "Read.", "page", 100, 150.0)


def test_every_fact_but_the_name_makes_another_set():
    other = {"model_digest": "d", "prompt": "x", "split": "lines", "max_new_tokens": 9, "dpi": 72.0}
    other |= {"retry_flagged": False, "text_layer": "auto", "format": 99}
    assert {field.name for field in fields(ReadingSet)} == {"model", *other}
    ids = {BASE.id, *(replace(BASE, **{name: value}).id for name, value in other.items())}
    assert len(ids) == 1 + len(other)
    assert replace(BASE, model="elsewhere/tiny").id == BASE.id


def test_a_key_is_of_set_content_and_page():
    keys = {BASE.key("d", 1), BASE.key("d", 2), BASE.key("e", 1), replace(BASE, dpi=72.0).key("d", 1)}
    assert len(keys) == 4
    assert BASE.key("d", 1) == replace(BASE).key("d", 1)


def test_a_folder_is_called_after_the_model():
    assert BASE.folder == f"tiny-{BASE.id[:12]}"
    assert replace(BASE, model="..").folder.startswith("model-")


def test_a_flipped_byte_of_the_weights_is_another_model(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    assert model_digest(copy) == model_digest(model)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert model_digest(copy) != model_digest(model)


def test_a_checkpoints_state_of_training_does_not_count(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "train_state").mkdir()
    digests = set()
    for step in range(2):
        (copy / "train_state" / "state.json").write_text(json.dumps({"step": step}))
        write_manifest(copy)
        digests.add(model_digest(copy))
    assert len(digests) == 1
