"""What words on the command line name: folders, globs, lists, tars."""

import hashlib
import os
import tarfile
from pathlib import Path

import pytest
from pile_support import write_page

from parsit.scale.inputs import Source, is_pile, sources_of
from parsit.types import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("pile/b.png", "pile/a/2.PDF", "pile/a/1.jpg", "pile/.hidden/x.png", "pile/._b.png", "one.png"):
        write_page(Path(name).with_suffix(".png"), "x")
        Path(name).with_suffix(".png").rename(name)
    Path("pile/notes.txt").write_text("no page")
    return tmp_path


def names(*words: str) -> list[str]:
    return [source.name for source in sources_of(words)]


def test_a_folder_is_all_pages_below_it_by_name_without_hidden_ones(folder):
    assert names("pile") == ["pile/b.png", "pile/a/1.jpg", "pile/a/2.PDF"]


def test_a_glob_goes_into_folders_and_takes_what_it_matches(folder):
    assert names("pile/**/*.*") == ["pile/a/1.jpg", "pile/a/2.PDF", "pile/b.png", "pile/notes.txt"]


def test_a_list_names_a_word_a_line(folder):
    Path("list.txt").write_text("one.png\n\npile/a\n")
    assert names("@list.txt") == ["one.png", "pile/a/1.jpg", "pile/a/2.PDF"]


def test_what_is_named_twice_is_one(folder):
    assert names("pile/b.png", "pile", "pile/b.png") == ["pile/b.png", "pile/a/1.jpg", "pile/a/2.PDF"]


def test_members_of_a_tar_are_read_where_they_lie(folder):
    with tarfile.open("pile.tar", "w") as archive:
        archive.add("pile")
    found = sources_of(["pile.tar"])
    assert sorted(source.name for source in found) == [
        "pile.tar::pile/a/1.jpg",
        "pile.tar::pile/a/2.PDF",
        "pile.tar::pile/b.png",
    ]
    for source in found:
        content = Path(source.name.partition("::")[2]).read_bytes()
        assert source.digest() == hashlib.sha256(content).hexdigest()
        with source.as_file() as copy:
            assert copy.read_bytes() == content
        assert not copy.exists()


def test_a_tar_in_a_folder_is_part_of_the_pile(folder):
    with tarfile.open("pile/more.tar", "w") as archive:
        archive.add("one.png")
    assert "pile/more.tar::one.png" in names("pile")


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("*.nothing", "no file matches"),
        ("@nothing", "the list cannot be read"),
        ("@nested.txt", "a list inside a list"),
        ("bad.tar", "no tar archive that can be read in place"),
        ("pile.tar.gz", "no tar archive that can be read in place"),
        ("empty", "no PDF or image there"),
    ],
)
def test_what_names_nothing_is_refused_in_one_line(folder, word, part):
    Path("nested.txt").write_text("@list.txt\n")
    Path("bad.tar").write_text("no tar" * 200)
    with tarfile.open("pile.tar.gz", "w:gz") as archive:
        archive.add("pile")
    Path("empty").mkdir()
    with pytest.raises(InputError, match=part) as error:
        sources_of([word])
    assert word.strip("@*") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_a_source_that_fails_later(folder):
    assert sources_of(["missing.png"]) == [Source("missing.png", "missing.png")]


def test_a_name_that_looks_like_a_glob_and_is_there_is_a_file(folder):
    Path("a[1].png").write_bytes(Path("one.png").read_bytes())
    assert names("a[1].png") == ["a[1].png"]


def test_a_name_that_is_no_text_goes_through_a_list(folder):
    name = os.fsdecode(b"\xff.png")
    Path(name).write_bytes(Path("one.png").read_bytes())
    Path("list.txt").write_bytes(b"\xff.png\n")
    assert names("@list.txt") == [name]


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["one.png"], False), (["one.png", "missing.pdf"], False), (["pile"], True), (["*.png"], True), (["@l"], True)],
)
def test_what_is_a_pile(folder, words, expected):
    assert is_pile(words) is expected
