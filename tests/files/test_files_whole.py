"""Files and folders are there whole or not at all, and nothing but a regular file is ever replaced."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from parsit.files import WholeFile, refuse_inputs, refuse_other_content, whole_folder, write_whole
from parsit.files import whole as whole_module
from parsit.files.whole import put_folder
from parsit.types import ParsitError, UsageError


def test_a_file_is_replaced_at_once_and_may_be_read_by_others(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    before = os.umask(0o022)
    try:
        assert write_whole(path, "one") == path
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with path.open() as opened:
        write_whole(path, b"two")
        assert opened.read() == "one"
    assert path.read_text() == "two"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_a_lone_surrogate_becomes_its_escape(tmp_path):
    assert json.loads(write_whole(tmp_path / "a.json", '"\udc80"').read_text()) == "\udc80"


def test_without_keep_nothing_is_left_and_the_old_file_stays(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), WholeFile(path) as draft:
        draft.file.write(b"half" * (1 // 0))
    with WholeFile(path) as draft:
        draft.file.write(b"whole, but not kept")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("name", ["a_folder", "a_file/below", "n\0l", "loop"])
def test_what_cannot_be_written_is_one_line(tmp_path, name):
    (tmp_path / "a_folder" / "full").mkdir(parents=True)
    (tmp_path / "a_file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ParsitError, match="cannot be written") as caught:
        write_whole(tmp_path / name, "x")
    assert "\n" not in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a_file", "a_folder", "loop"]


@pytest.mark.parametrize("link", ["there", "not_there_yet"])
def test_a_symbolic_link_is_written_through(tmp_path, link):
    real = tmp_path / "data" / "real.txt"
    real.parent.mkdir()
    if link == "there":
        real.write_text("old")
    (tmp_path / "link").symlink_to("second")
    (tmp_path / "second").symlink_to(real)
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "second").is_symlink()
    assert not real.is_symlink()
    assert real.read_text() == "new"


def test_a_pipe_is_written_into_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_whole(pipe, "x" * 200_000)
    reader.join(60)
    assert got == [b"x" * 200_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_a_device_stays_a_device(tmp_path):
    (tmp_path / "link").symlink_to("/dev/null")
    write_whole(tmp_path / "link", "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert (tmp_path / "link").is_symlink()
    with pytest.raises(ParsitError, match=r"/dev/full: cannot be written: No space left"):
        write_whole(Path("/dev/full"), "x")


def test_standard_output_is_written_in_turn_even_where_it_is_a_file(tmp_path):
    code = (
        "import pathlib; from parsit.files import write_whole; print('before', flush=True);"
        "write_whole(pathlib.Path('/dev/stdout'), 'whole\\n'); print('after')"
    )
    with (tmp_path / "out.txt").open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out.txt").read_text() == "before\nwhole\nafter\n"


def test_an_output_may_not_be_an_input_by_any_name(tmp_path):
    data = tmp_path / "d.jsonl"
    data.write_text("x")
    (tmp_path / "link").symlink_to(data)
    os.link(data, tmp_path / "hard")
    for name in ("d.jsonl", "../" + tmp_path.name + "/d.jsonl", "link", "hard"):
        with pytest.raises(UsageError, match="would overwrite the input"):
            refuse_inputs(tmp_path / name, [data])
    with pytest.raises(UsageError, match=r"--output .* is a folder that holds the input"):
        refuse_inputs(tmp_path, [data], "--output")
    with pytest.raises(UsageError, match="would overwrite the input"):
        refuse_inputs(tmp_path / "not_there", [tmp_path / "not_there"])
    refuse_inputs(tmp_path / "other", [data, tmp_path / "none"])


def test_only_an_older_output_of_the_kind_is_replaced(tmp_path):
    def is_page(head: bytes) -> bool:
        return head.startswith(b"<!doctype")

    for name, content in (("data", "{}"), ("image", "\x89PNG")):
        (tmp_path / name).write_text(content)
        with pytest.raises(UsageError, match="exists and holds no page"):
            refuse_other_content(tmp_path / name, is_page, "page")
    for name, content in (("page", "<!doctype html>"), ("empty", "")):
        (tmp_path / name).write_text(content)
        refuse_other_content(tmp_path / name, is_page, "page")
    os.mkfifo(tmp_path / "pipe")
    refuse_other_content(tmp_path / "pipe", is_page, "page")  # and does not wait for a writer
    refuse_other_content(tmp_path / "none", is_page, "page")


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), whole_folder(out) as draft:
        (draft / "a").write_text("half" * (1 // 0))
    assert list(tmp_path.iterdir()) == []
    with whole_folder(out) as draft:
        (draft / "a").write_text("one")
        assert not out.exists()
    assert (out / "a").read_text() == "one"
    with pytest.raises(OSError), whole_folder(out) as draft:
        (draft / "a").write_text("two")
    assert (out / "a").read_text() == "one"
    with whole_folder(out, replaces=True) as draft:
        (draft / "b").write_text("three")
    assert [entry.name for entry in out.iterdir()] == ["b"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_that_is_replaced_is_never_missing_where_the_system_can(tmp_path, monkeypatch, exchanges):
    """The moment of deletion is when a kill would hurt most: by then the new folder has its name."""
    old, new = tmp_path / "out", tmp_path / "draft"
    for folder in (old, new):
        folder.mkdir()
        (folder / folder.name).write_text("")
    seen = []
    delete = whole_module.shutil.rmtree
    monkeypatch.setattr(
        whole_module.shutil, "rmtree", lambda path: (seen.append([entry.name for entry in old.iterdir()]), delete(path))
    )
    if not exchanges:
        monkeypatch.setattr(whole_module, "_exchanged", lambda one, other: False)
    put_folder(new, old, replaces=True)
    assert seen == [["draft"]]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o027])
def test_files_of_a_folder_can_be_read_as_the_umask_has_it(tmp_path, umask):
    """safetensors writes 0600; a script keeps its execute bit."""
    before = os.umask(umask)
    try:
        with whole_folder(tmp_path / "model") as draft:
            (draft / "inner").mkdir()
            for name in ("model.safetensors", "inner/private"):
                (draft / name).touch()
                (draft / name).chmod(0o600)
            (draft / "run.sh").touch()
            (draft / "run.sh").chmod(0o700)
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "model").rglob("*") if p.is_file()}
    wanted = 0o666 & ~umask
    assert modes == {"model.safetensors": wanted, "private": wanted, "run.sh": 0o700 | wanted}
