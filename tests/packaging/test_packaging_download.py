"""scripts/download_pretrain_data.sh: a real git repository with LFS, fetched over file://, interrupted and mended."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

# Each is a process that imports torch, or several programs.
pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "scripts" / "download_pretrain_data.sh"
STAND_IN = Path(__file__).with_name("git_lfs.py")
SEEN = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": "Hello"}]


@pytest.fixture(autouse=True)
def git_lfs(tmp_path_factory, monkeypatch) -> None:
    """The machine's git-lfs, or a stand-in on the PATH where it has none."""
    if shutil.which("git-lfs") is None:
        tools = tmp_path_factory.mktemp("git-lfs")
        (tools / "git-lfs").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
        (tools / "git-lfs").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")


def run(folder: Path, *options: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script, with a home of its own, started in a folder; no terminal."""
    (folder / "home").mkdir(exist_ok=True)
    variables = os.environ | {"HOME": str(folder / "home"), "PYTHON": sys.executable, "LC_ALL": "C"} | environment
    return subprocess.run(
        ["bash", SCRIPT, *map(str, options)],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_help_and_wrong_usage(tmp_path):
    done = run(tmp_path, "--help", HF_ENDPOINT="https://mirror.example")
    assert done.returncode == 0
    assert "--required_bytes" in done.stdout
    assert "liuhaotian/LLaVA-Pretrain" in done.stdout
    assert "https://mirror.example" in done.stdout
    for options in (["--nope"], ["--dir"], ["--required_bytes", "much"]):
        done = run(tmp_path, *options)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert options[0] in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_too_little_room_is_said_before_anything_is_fetched(tmp_path):
    done = run(tmp_path, "--dir", tmp_path / "a" / "b", "--required_bytes", str(2**60))
    assert done.returncode == 1
    assert "not enough room" in done.stderr
    assert f"{2**40 + 1} MiB are needed" in done.stderr
    assert not (tmp_path / "a").exists()


def test_a_folder_with_other_files_is_not_overwritten(tmp_path):
    target = tmp_path / "data"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    done = run(tmp_path, "--dir", target, "--url", f"file://{tmp_path}/none")
    assert done.returncode == 1
    assert "holds other files" in done.stderr
    assert "--yes" in done.stderr
    subprocess.run(["git", "init", "--quiet", target], check=True)
    done = run(tmp_path, "--dir", target, "--url", f"file://{tmp_path}/none", "--yes")
    assert done.returncode == 1
    assert "a clone of something else" in done.stderr
    done = run(tmp_path, "--dir", target / "mine.txt")
    assert "is a file" in done.stderr
    assert (target / "mine.txt").read_text() == "mine"


def test_a_terminal_is_asked(tmp_path):
    target = tmp_path / "data"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    here, there = pty.openpty()
    os.write(here, b"n\n")
    done = subprocess.run(
        ["bash", SCRIPT, "--dir", target],
        stdin=there,
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    os.close(here)
    os.close(there)
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert [path.name for path in target.iterdir()] == ["mine.txt"]


def test_a_missing_git_lfs_is_explained(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "git", "df", "awk", "ls", "dirname", "cat"):
        (tools / name).symlink_to(str(shutil.which(name)))
    empty = tmp_path / "no-git-core"
    empty.mkdir()
    done = run(tmp_path, "--dir", tmp_path / "data", PATH=str(tools), GIT_EXEC_PATH=str(empty))
    assert done.returncode == 1
    assert "git-lfs is missing" in done.stderr
    assert "Without sudo" in done.stderr
    assert not (tmp_path / "data").exists()


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def published(tmp_path) -> str:
    """A repository like the Hub's: a JSON file and a zip of images, both in LFS."""
    source = tmp_path / "published"
    source.mkdir()
    records = [{"id": name, "image": f"0/{name}.png", "conversations": SEEN} for name in ("red", "blue")]
    (source / "train data.json").write_text(json.dumps(records))
    with zipfile.ZipFile(source / "images.zip", "w") as archive:
        for name in ("red", "blue"):
            archive.writestr(f"0/{name}.png", png(name))
    (source / "README.md").write_text("words")
    git = ["git", "-C", str(source), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (
        ["init", "--quiet"], ["lfs", "install", "--local"], ["lfs", "track", "*.json", "*.zip"], ["add", "."],
        ["commit", "--quiet", "-m", "data"],
    ):  # fmt: skip
        subprocess.run(
            [*git, *command], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"HOME": str(tmp_path)}
        )
    return f"file://{source}"


def options(tmp_path: Path, url: str) -> list[str]:
    return ["--url", url, "--dir", str(tmp_path / "data"), "--data", "train data.json"]


@pytest.mark.parametrize("verify", [[], ["--verify"]])
def test_everything_arrives_is_unpacked_and_validated(tmp_path, published, verify):
    done = run(tmp_path, *options(tmp_path, published), *verify)
    assert done.returncode == 0, done.stderr
    data = tmp_path / "data"
    assert len(json.loads((data / "train data.json").read_text())) == 2
    assert (data / "images" / "0" / "red.png").read_bytes() == png("red")
    assert "2 of 2 samples would be trained on" in done.stdout
    assert not list((tmp_path / "home").iterdir()), "the user's own git configuration stays as it was"
    again = run(tmp_path, *options(tmp_path, published), *verify)
    assert again.returncode == 0
    assert "going on with commit" in again.stderr


def test_an_interrupted_run_goes_on(tmp_path, published):
    arguments = [*options(tmp_path, published), "--no_validate"]
    assert run(tmp_path, *arguments).returncode == 0
    data = tmp_path / "data"
    whole = (data / "images.zip").read_bytes()
    # A file that was half written, one that is a pointer again, an object that is gone, an image half unpacked.
    (data / "images.zip").write_bytes(whole[:100])
    pointer = subprocess.run(["git", "-C", data, "cat-file", "blob", "HEAD:train data.json"], capture_output=True)
    (data / "train data.json").write_bytes(pointer.stdout)
    shutil.rmtree(data / ".git" / "lfs" / "objects")
    (data / "images" / "0" / "red.png").write_bytes(b"half")
    (data / "images" / "0" / "blue.png").unlink()
    (data / ".git" / "parsit-unpacked-images.zip").unlink()
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert (data / "images.zip").read_bytes() == whole
    assert len(json.loads((data / "train data.json").read_text())) == 2
    for name in ("red", "blue"):
        assert (data / "images" / "0" / f"{name}.png").read_bytes() == png(name)


def test_verify_finds_a_file_of_the_right_size_with_other_bytes(tmp_path, published):
    arguments = [*options(tmp_path, published), "--no_validate"]
    assert run(tmp_path, *arguments).returncode == 0
    path = tmp_path / "data" / "train data.json"
    whole = path.read_bytes()
    path.write_bytes(b"x" * len(whole))
    assert run(tmp_path, *arguments).returncode == 0
    assert path.read_bytes() != whole, "sizes alone do not tell"
    done = run(tmp_path, *arguments, "--verify")
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == whole


def test_faults_in_the_data_are_the_exit_code(tmp_path, published):
    assert run(tmp_path, *options(tmp_path, published)).returncode == 0
    (tmp_path / "data" / "images" / "0" / "red.png").write_bytes(b"")
    done = run(tmp_path, *options(tmp_path, published))
    assert done.returncode == 1
    assert "image-empty" in done.stdout


def test_a_zip_that_leads_out_of_its_folder_is_refused(tmp_path, published):
    source = tmp_path / "published"
    with zipfile.ZipFile(source / "images.zip", "w") as archive:
        archive.writestr("../../escaped.txt", "x")
    git = ["git", "-C", str(source), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run([*git, "commit", "--quiet", "-am", "bad"], check=True, env=os.environ | {"HOME": str(tmp_path)})
    done = run(tmp_path, *options(tmp_path, published), "--no_validate")
    assert done.returncode == 1
    assert "leads out of its folder" in done.stderr
    assert not (tmp_path / "escaped.txt").exists()


def test_an_address_without_a_repository(tmp_path):
    done = run(tmp_path, "--url", f"file://{tmp_path}/none", "--dir", tmp_path / "data")
    assert done.returncode == 1
    assert "cannot be fetched" in done.stderr
