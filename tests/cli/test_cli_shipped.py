"""The model in the package: put there, found there, used where none is named, and held to what it can do."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

import parsit
from parsit import hf, hub
from parsit.cli import export
from parsit.cli.main import dispatch
from parsit.config import TrainConfig
from parsit.hub.card import version_of
from parsit.train.prepare import prepare
from parsit.train.stages import _named
from parsit.train.world import World
from parsit.types import InputError, ParsitError, UsageError

ROOT = Path(__file__).parents[2]
SAID = "parsit: the model is parsit-tiny, which comes with Parsit, as no other is named"
NONE = "parsit: no model is named, and this package was built without one: name a trained model's folder, or ORG/NAME"


@pytest.fixture(scope="module")
def script():
    """scripts/ship_model.py as a module."""
    spec = importlib.util.spec_from_file_location("ship_model", ROOT / "scripts" / "ship_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def plain(mini, tmp_path_factory) -> Path:
    """An untrained model of lines, and a page with two of them."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    architecture = replace(mini, processing=mini.processing | {"reading_unit": "line", "read_prompt": "Read the text."})
    processor = hf.new_processor(architecture)
    hf.new_model(architecture, processor, seed=3).save_pretrained(folder)
    processor.save_pretrained(folder)
    page = Image.new("RGB", (200, 80), "white")
    for top in (10, 45):
        ImageDraw.Draw(page).text((20, top), "Total 12.50", fill="black", font_size=18)
    page.save(folder.parent / "page.png")
    return folder


@pytest.fixture(scope="module")
def site(script, plain, tmp_path_factory) -> Path:
    """Where the package is as it was installed, with that model in it; the package's files are links."""
    site = tmp_path_factory.mktemp("site")
    linked(site)
    script.ship(str(plain), "Nothing: it was not trained.", site / "parsit" / "models" / "parsit-tiny")
    return site


def linked(site: Path) -> None:
    """The package, without the model that this checkout may have."""
    (site / "parsit").mkdir()
    for entry in Path(parsit.__file__).parent.iterdir():
        if entry.name not in ("models", "__pycache__"):
            (site / "parsit" / entry.name).symlink_to(entry)


def run(site: Path, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site)} | variables
    command = [sys.executable, "-m", "parsit.cli", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_it_reads_where_no_model_is_named_and_says_so(site, plain, tmp_path):
    done = run(site, plain.parent, "parse", "page.png", "--max_new_tokens", "4", "--format", "json")
    assert done.stderr.splitlines() == [SAID]
    [page] = json.loads(done.stdout)["pages"]
    assert len(page["lines"]) == 2
    info = run(site, plain.parent, "info")
    assert info.stderr.splitlines() == [SAID]
    assert f"folder: {site / 'parsit' / 'models' / 'parsit-tiny'}" in info.stdout
    [digest] = [line.split()[1] for line in info.stdout.splitlines() if line.startswith("sha256:")]
    assert len(digest) == 64
    (tmp_path / "parsit-tiny").mkdir()  # somebody's own, which is no model: it is not what the default means
    assert run(site, tmp_path, "parse", str(plain.parent / "page.png"), "--max_new_tokens", "1").returncode == 0


def test_damaged_weights_are_not_used(site, tmp_path):
    copy = shutil.copytree(site / "parsit" / "models" / "parsit-tiny", tmp_path / "model")
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(InputError, match=r"is not as it was saved: model.safetensors has another checksum"):
        parsit.load(copy)
    with pytest.raises(InputError, match="has another checksum"):
        export.find_checkpoint(copy)


@pytest.mark.parametrize(
    "words", [["ask", "page.png", "Total?"], ["ask", "page.png", "Total?", "--model", "parsit-tiny"]]
)
def test_a_question_is_refused_in_one_line(site, plain, words):
    done = run(site, plain.parent, *words)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("parsit: parsit-tiny: a question is not for this model, which only reads pages")


@pytest.mark.parametrize("words", [["parse", "page.png"], ["ask", "page.png", "Total?"], ["serve"], ["info"]])
def test_a_package_without_a_model_says_so_in_one_line(plain, tmp_path, words):
    linked(tmp_path)
    done = run(tmp_path, plain.parent, *words)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(NONE)


def test_the_demo_without_a_model_ends_in_one_line(plain, tmp_path):
    linked(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, ROOT / "scripts" / "demo.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"make demo: {NONE.removeprefix('parsit: ')}")
    assert [path.name for path in tmp_path.iterdir()] == ["parsit"]


def test_a_variable_names_another_default_in_python_too(plain, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv(hub.MODEL_VARIABLE, str(plain))
    reader = parsit.load()
    assert capsys.readouterr().err == f"parsit: the model is {plain} (PARSIT_MODEL)\n"
    assert reader.engine.tasks == ()
    assert reader.ask(plain.parent / "page.png", "Total?", max_new_tokens=1) is not None
    monkeypatch.setenv(hub.MODEL_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nowhere: no model there"):
        parsit.load()


def test_a_folder_of_the_name_goes_before_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_shipped("parsit-tiny")
    (tmp_path / "parsit-tiny").mkdir()
    assert hub.is_shipped(hub.shipped_folder() or "parsit-tiny") == (hub.shipped_folder() is not None)
    assert not hub.is_shipped("parsit-tiny")
    with pytest.raises(InputError, match="parsit-tiny: no model there"):
        hub.model_folder("parsit-tiny")


def test_a_reader_refuses_what_its_model_cannot_do(site, plain):
    reader = parsit.load(site / "parsit" / "models" / "parsit-tiny")
    page = plain.parent / "page.png"
    assert reader.engine.tasks == ("read",)
    with pytest.raises(UsageError, match="a question is not for this model"):
        reader.ask(page, "Total?")
    with pytest.raises(UsageError, match=r"a prompt other than 'Read the text\.' is not for this model"):
        reader.parse(page, prompt="Translate.")
    assert reader.parse(page, prompt=" Read the text.\n", max_new_tokens=1).pages[0].lines


def test_it_is_exported_again_with_what_it_can_do_and_its_card(site, tmp_path, capsys):
    shipped = site / "parsit" / "models" / "parsit-tiny"
    card = (shipped / "README.md").read_text()
    assert "Nothing: it was not trained." in card
    assert "reader.ask" not in card
    assert card.count("from_pretrained(parsit.hub.shipped_folder())") == 2
    assert "It reads, and nothing else" in card
    assert f"parsit {version_of('parsit')}" in card
    assert dispatch(["export", str(shipped), "--out", str(tmp_path / "again"), "--dtype", "float32"]) == 0
    assert hub.tasks_of(tmp_path / "again") == ("read",)
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert {weight.dtype for weight in again.values()} == {torch.float32}
    for name, weight in load_file(shipped / "model.safetensors").items():
        assert torch.equal(again[name], weight.float())
    assert (tmp_path / "again" / "README.md").read_text() == card
    assert export.find_checkpoint(shipped) == shipped
    with pytest.raises(UsageError, match=r"--note: .*README.md is there already"):
        dispatch(["export", str(shipped), "--out", str(tmp_path / "third"), "--note", "New."])


def test_what_is_trained_further_may_learn_to_answer(site, tmp_path):
    from dist_support import make_data

    make_data(tmp_path)
    shipped = str(site / "parsit" / "models" / "parsit-tiny")
    config = TrainConfig(data=[str(tmp_path / "d.jsonl")], output_dir=str(tmp_path / "run"), model_name_or_path=shipped)
    assert prepare(config, World()).processor.tasks == ()
    assert _named("parsit-tiny") == {"name": "parsit-tiny", "on_hub": False}


def test_a_large_or_wide_model_is_not_shipped_and_the_old_one_stays(script, plain, tmp_path, monkeypatch):
    place = tmp_path / "models" / "parsit-tiny"
    script.ship(str(plain), "None.", place)
    held = (place / "manifest.json").read_bytes()
    for name, limit in (("MAX_PARAMETERS", "parameters are more than 100"), ("MAX_BYTES", "bytes are more than 100")):
        with monkeypatch.context() as patch:
            patch.setattr(script, name, 100)
            with pytest.raises(ParsitError, match=limit):
                script.ship(str(plain), "None.", place)
    with pytest.raises(ParsitError, match="its weights are F32, not BF16 alone"):
        script.require_small(plain)
    assert (place / "manifest.json").read_bytes() == held
    assert [path.name for path in place.parent.iterdir()] == ["parsit-tiny"]


def test_tasks_that_are_unknown_refuse_nothing(tmp_path):
    assert hub.tasks_of(tmp_path) == ()
    hub.require_asking(())
    hub.require_asking(("read", "ask"))
    hub.require_reading((), "Anything", "Read.")
    hub.require_reading(("read",), "Read.\n", "Read.")
