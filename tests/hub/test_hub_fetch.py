"""A model's name becomes a folder: one that is here, else the Hub's, else its cache's, else one clear line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hub_support import NO_HUB, TOKEN, environment, running_hub
from parsit import hf

# For each word, the folder of that model or why there is none; nothing heavier than huggingface_hub is imported.
ASK = """
import json, os, sys
from parsit import hub
from parsit.types import InputError
for name in sys.argv[1:]:
    try:
        folder = hub.model_folder(name, weights=not name.startswith("small:"))
        print(json.dumps([str(folder), sorted(os.listdir(folder))]))
    except InputError as error:
        print(json.dumps(str(error)))
assert not {"torch", "transformers"} & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def model(mini, tmp_path_factory):
    """A model's folder as `parsit export` leaves it."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    processor = hf.new_processor(mini)
    hf.new_model(mini, processor, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def ask(endpoint, folder, *names, token="", **more):
    found = environment(endpoint, folder / "home", token) | more
    command = [sys.executable, "-c", ASK, *names]
    done = subprocess.run(command, cwd=folder, env=found, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    print(done.stdout)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_an_id_becomes_a_folder_with_a_models_files_alone_and_without_a_hub_its_cache_has_it(model, tmp_path):
    with running_hub() as hub:
        repository = hub.put("acme/reader", model)
        first = dict(repository.files)
        pickles = {"pytorch_model.bin": b"pickle", "modeling_parsit.py": b"code", "train_state/rng.safetensors": b"x"}
        repository.commit(first | pickles | {"README.md": b"# A card"})
        repository.commit({**first, "config.json": first["config.json"] + b"\n"}, ref="v1")
        names = ["acme/reader", "acme/reader@v1", f"acme/reader@{repository.refs['main']}"]
        (newest, files), (tagged, _), (by_commit, _) = ask(hub.endpoint, tmp_path, *names)
        assert files == sorted(["README.md", *(path.name for path in model.iterdir())])
        assert newest == by_commit
        assert newest.endswith(repository.refs["main"])
        assert tagged.endswith(repository.refs["v1"])
        asked = "\n".join(hub.asked)
        assert "pytorch_model.bin" not in asked
        assert "modeling_parsit.py" not in asked
    without = ask(NO_HUB, tmp_path, *names)
    assert [folder for folder, _ in without] == [newest, tagged, newest]
    assert ask(hub.endpoint, tmp_path, "acme/reader", HF_HUB_OFFLINE="1") == [[newest, files]]


@pytest.mark.slow
def test_a_folder_that_is_here_wins(model, tmp_path):
    here = tmp_path / "acme" / "reader"
    here.mkdir(parents=True)
    (here / "config.json").write_text('{"model_type": "parsit"}')
    with running_hub() as hub:
        hub.put("acme/reader", model)
        hub.put("acme/other", model)
        [[folder, _], [other, _]] = ask(hub.endpoint, tmp_path, "acme/reader", "acme/other")
    assert folder == "acme/reader"
    assert other.startswith(str(tmp_path / "home"))  # a folder acme that holds another one is in nobody's way


@pytest.mark.slow
def test_what_is_no_parsit_model_is_refused_before_its_weights_are_fetched(model, tmp_path):
    with running_hub() as hub:
        files = hub.put("acme/language", model).files
        hub.repositories["acme/language"].commit(files | {"config.json": b'{"model_type": "qwen3"}'})
        small = {name: data for name, data in files.items() if not name.endswith(".safetensors")}
        hub.put("acme/pickled", model).commit(small | {"pytorch_model.bin": b"pickle"})
        hub.put("acme/adapters", model).commit(small | {"adapter_config.json": b"{}", "base.json": b"{}"})
        hub.put("acme/run", model).commit({f"checkpoint-2/{name}": data for name, data in files.items()})
        names = ["language", "pickled", "adapters", "run"]
        said = ask(hub.endpoint, tmp_path, *(f"acme/{name}" for name in names))
        assert said == [
            "acme/language: on the Hub, but no Parsit model (its config.json has another model_type)",
            "acme/pickled: the repository on the Hub has no weights in safetensors",
            "acme/adapters: the repository on the Hub has no weights in safetensors; its adapters need their base: put "
            "the merged model there, with `parsit export --push_to_hub`",
            "acme/run: the repository on the Hub has no config.json; it is a run's folder: put a model's there, with "
            "`parsit export --push_to_hub`",
        ]
        assert not any(line.endswith(".safetensors") for line in hub.asked)


@pytest.mark.slow
def test_each_refusal_is_a_line_of_its_own(model, tmp_path):
    (tmp_path / "runs" / "pretrain").mkdir(parents=True)
    with running_hub() as hub:
        hub.put("acme/reader", model)
        hub.put("acme/private", model, private=True)
        hub.put("acme/gated", model, gated=True)
        names = ["acme/nothing", "acme/private", "acme/gated", "acme/reader@v9", "runs/pretrian", "a--b/c"]
        said = ask(hub.endpoint, tmp_path, *names)
        log_in = "for a private one log in (`hf auth login`, or set HF_TOKEN)"
        assert said == [
            f"acme/nothing: no such folder, and no such model on the Hub ({hub.endpoint}/acme/nothing); {log_in}",
            f"acme/private: no such folder, and no such model on the Hub ({hub.endpoint}/acme/private); {log_in}",
            f"acme/gated: gated: ask for access at {hub.endpoint}/acme/gated, and log in (`hf auth login`, or set "
            "HF_TOKEN)",
            f"acme/reader@v9: has no revision 'v9' on the Hub: {hub.endpoint}/acme/reader lists branches and tags",
            "runs/pretrian: no such folder; did you mean runs/pretrain?",
            "a--b/c: no such folder, and no id that a model on the Hub can have",
        ]
        (private, _), (gated, _) = ask(hub.endpoint, tmp_path, "acme/private", "acme/gated", token=TOKEN)
        assert private != gated
        [unknown] = ask(hub.endpoint, tmp_path, "acme/reader", token="hf_old")
        assert unknown == (
            f"acme/reader: the Hub ({hub.endpoint}) does not know this token: log in again (`hf auth login`, or set "
            "HF_TOKEN)"
        )
    silent = f"the Hub ({NO_HUB}) does not answer, and its cache has not got it"
    assert ask(NO_HUB, tmp_path, "acme/reader", "runs/pretrian", "acme/reader@v1") == [
        f"acme/reader: {silent}",
        "runs/pretrian: no such folder; did you mean runs/pretrain?",
        f"acme/reader@v1: {silent}",
    ]
    [offline] = ask(NO_HUB, tmp_path, "acme/reader", HF_HUB_OFFLINE="1")
    assert offline == "acme/reader: HF_HUB_OFFLINE keeps the Hub from being asked, and its cache has not got it"


@pytest.mark.slow
def test_a_cache_that_lacks_a_shard_is_not_taken_for_a_model(model, tmp_path):
    with running_hub() as hub:
        files = hub.put("acme/reader", model).files
        index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
        shard = {"model-00001-of-00002.safetensors": files["model.safetensors"]}
        index["weight_map"]["b"] = "model-00002-of-00002.safetensors"
        whole = {name: data for name, data in files.items() if name != "model.safetensors"}
        whole |= shard | {"model-00002-of-00002.safetensors": b"x"}
        hub.repositories["acme/reader"].commit(whole | {"model.safetensors.index.json": json.dumps(index).encode()})
        assert ask(hub.endpoint, tmp_path, "acme/reader") != []
    next((tmp_path / "home").rglob("model-00002-of-00002.safetensors")).unlink()
    [said] = ask(NO_HUB, tmp_path, "acme/reader")
    assert said == f"acme/reader: the Hub ({NO_HUB}) does not answer, and its cache has not got it"
