"""--deepspeed: names that ship with the package, or a path; what is neither is said in one line."""

from __future__ import annotations

import json

import pytest

from parsit.config import ZERO_NAMES, zero_settings
from parsit.types import InputError


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3), ("zero3_4b", 3)])
def test_the_names_have_a_configuration_wherever_the_program_runs(name, stage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name in ZERO_NAMES
    assert zero_settings(name)["zero_optimization"]["stage"] == stage


def test_a_path_is_read_and_a_file_of_a_names_name_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zero3").write_text(json.dumps({"zero_optimization": {"stage": 1}}))
    assert zero_settings("./zero3") == zero_settings(tmp_path / "zero3") == {"zero_optimization": {"stage": 1}}
    assert zero_settings("zero3")["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "zero3_8b",
            None,
            "--deepspeed zero3_8b: no such file; did you mean zero3_4b? (a path, or one of zero2, zero3,",
        ),
        ("scripts/zero3.json", None, "--deepspeed scripts/zero3.json: no such file; did you mean zero3?"),
        ("mine.json", None, "--deepspeed mine.json: no such file (a path, or one of"),
        ("mine.json", "{", "--deepspeed mine.json: cannot be read: Expecting property name"),
        ("mine.json", "[]", "--deepspeed mine.json: holds no JSON object"),
        ("mine.json", b"\xff\xfe{", "--deepspeed mine.json: cannot be read: "),
    ],
)
def test_what_is_no_configuration_is_one_line(name, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as raised:
        zero_settings(name)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
