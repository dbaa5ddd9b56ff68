"""The wheel holds all that the code reads, and runs from where it is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from parsit.files.manifest import checksums_of, require_sound_model
from parsit.hub import SHIPPED, tasks_of

ROOT = Path(__file__).parents[2]
MODEL_FILES = ("config.json", "manifest.json", "model.safetensors", "chat_template.jinja", "README.md")
MAX_WHEEL_BYTES = 60_000_000  # PyPI takes 100 MB


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    tree = folder / "tree"  # a copy: setuptools leaves a build folder whose old files would go into the next wheel
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    model = tree / "src" / "parsit" / "models" / "of-the-test"  # as a model has files, whether one is shipped or not
    model.mkdir(parents=True)
    for name in MODEL_FILES:
        (model / name).write_bytes(b"{}")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_package(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    wanted = {
        path.relative_to(source).as_posix()
        for path in (source / "parsit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted - held == set()
    assert "parsit/py.typed" in held
    assert {f"parsit/models/of-the-test/{name}" for name in MODEL_FILES} <= held
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_a_model_in_the_package_is_whole_small_and_only_reads():
    """Of each that this checkout has; its parts are tested with one of their own in tests/cli/test_cli_shipped.py."""
    spec = importlib.util.spec_from_file_location("ship_model", ROOT / "scripts" / "ship_model.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    models = [config.parent for config in (ROOT / "src" / "parsit" / "models").glob("*/config.json")]
    assert [model.name for model in models] in ([], [SHIPPED])
    for model in models:
        script.require_small(require_sound_model(model))
        assert set(checksums_of(model)) == {path.name for path in model.iterdir()} - {"manifest.json"}
        assert tasks_of(model) == ("read",)


def test_weights_are_ordinary_files_of_the_repository():
    assert not (ROOT / ".gitattributes").exists()  # where Git LFS would be told to take them


@pytest.mark.slow
def test_the_installed_wheel_runs_from_there(wheel, tmp_path):
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # Coverage would count the installed copy as well as the source.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")}
    environment = {**inherited, "PYTHONPATH": str(target)}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert Path(run("-c", "import parsit; print(parsit.__file__)").strip()).is_relative_to(target)
    assert '"projector": 6561792' in run("-m", "parsit.cli", "info", "qwen3-1.7b", "--json")
    made = run("-m", "parsit.cli", "data", "synth", "--out", "docs", "--pages", "1", "--workers", "1")
    assert (tmp_path / "docs" / "synth.json").is_file(), made
    zero = "from parsit.config import ZERO_NAMES, zero_settings; print(*(zero_settings(n)['bf16'] for n in ZERO_NAMES))"
    assert run("-c", zero).count("auto") == 3
    shipped = "from parsit import hf; print(*(len(hf.shipped_tokenizer(name)) for name in ('tiny', 'characters')))"
    assert run("-c", shipped).strip() == "4096 346"
    parsit = target / "bin" / "parsit"
    assert subprocess.run(
        [sys.executable, parsit, "--version"], env=environment, check=True, capture_output=True
    ).stdout
