"""Fuzzing of everything that reads data from strangers: broken input gives an error of ours, never another one.

    python tests/fuzz_data.py --minutes 10 --seed 1

Each target takes its turn until the time is over. A failure is shrunk by hypothesis, printed, and its input saved under
`fuzz-failures/`; its target rests from then on. Not collected by pytest: `test_data_faults.py` runs it for seconds.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from parsit.data.formats import FORMATS, Context, read_record
from parsit.data.images import check_image
from parsit.data.sources import read_sources
from parsit.data.validate import validate_files
from parsit.processing.images import load_image
from parsit.types import ParsitError

EXAMPLES_A_TURN = 100
TALK = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": "Hello"}]
CHAT = [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "Hi"}]},
    {"role": "assistant", "content": "Hello", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "content": "7"},
    {"role": "assistant", "content": [{"type": "text", "text": "Seven"}]},
]
RECORDS: list[Any] = [
    {"id": "1", "image": "a.png", "conversations": TALK, "glyphs": [[["H", 1, 2, 3, 4]]]},
    {"id": 2, "image": ["a.png"], "conversations": [{"from": "human", "value": [None, "x"]}, TALK[1]]},
    {"id": "3", "images": ["a.png"], "system": "S", "conversations": TALK},
    {"conversation": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    {"id": "4", "messages": CHAT},
    {"images": [{"bytes": None, "path": "a.png"}], "messages": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}]},
    {"images": ["a.png"], "texts": [{"user": "Hi", "assistant": "Hello"}]},
    {"image": "data:image/png;base64,aGVsbG8=", "conversations": TALK},
]  # fmt: skip
MIXTURE = """datasets:
- json_path: a.json
  sampling_strategy: "random:10%"
  image_folder: .
- {json_path: b.jsonl, weight: 1.5, name: b}
"""
WORDS = ["<image>", "a\n.png", "../a", "data:", "data:,", "human", "gpt", "user", "system", "image", "text"]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["replace", "insert", "delete", "cut"]), st.binary(max_size=12)),
    min_size=1,
    max_size=6,
)


def edited(data: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    """Bytes with some of them replaced, put in, taken out or cut off."""
    for share, kind, piece in edits:
        at = int(share * len(data))
        if kind == "cut":
            data = data[:at]
        else:
            start = at if kind == "insert" else at + max(1, len(piece))
            data = data[:at] + (b"" if kind == "delete" else piece) + data[start:]
    return data


def replaced(value: Any, path: list[int], new: Any) -> Any:
    """A value with one of the values in it replaced; the path is taken modulo what there is."""
    if not path or not isinstance(value, (dict, list)) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[path[0] % len(keys)]
    value[key] = replaced(value[key], path[1:], new)
    return value


def images() -> list[bytes]:
    """A small image in each format, and some of their variants."""
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 18, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    variants: list[tuple[str, str, dict[str, Any]]] = [
        ("RGB", "PNG", {"exif": exif}), ("P", "PNG", {"transparency": 3}), ("I;16", "PNG", {}),
        ("RGB", "JPEG", {"exif": exif}), ("CMYK", "JPEG", {"progressive": True}), ("RGB", "GIF", {}),
        ("RGB", "WEBP", {"exif": exif}),
        ("RGBA", "WEBP", {"lossless": True}), ("RGB", "BMP", {}), ("1", "BMP", {}), ("RGB", "TIFF", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("1", "TIFF", {"compression": "group4"}),
        ("F", "TIFF", {}), ("RGB", "TIFF", {"compression": "jpeg"}), ("RGB", "PPM", {}), ("1", "PPM", {}),
        ("I;16", "PPM", {}),
    ]  # fmt: skip
    encoded = []
    for mode, form, options in variants:
        file = io.BytesIO()
        image = pixels.convert("L").convert("I").convert("I;16") if mode == "I;16" else pixels.convert(mode)
        image.save(file, form, **options)
        encoded.append(file.getvalue())
    return [*encoded, b"P3 2 1 255 1 2 3 4 5 6", b"P2 2 1 255 1 2", b"P1 2 1 1 0", b"Pf 1 1 -1\n\0\0\0\0"]


def tar_bytes() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in {"a.png": images()[0], "a.json": json.dumps(RECORDS[0]).encode(), "b.txt": b"Hi"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def parquet_bytes() -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return b"PAR1"
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([RECORDS[2]] * 3), file)
    return file.getvalue()


@dataclass(frozen=True)
class Target:
    """What is fuzzed: inputs, and what is done with one of them in a folder."""

    name: str
    inputs: st.SearchStrategy[Any]
    run: Callable[[Any, Path], None]


def validate_bytes(ending: str) -> Callable[[bytes, Path], None]:
    def run(data: bytes, folder: Path) -> None:
        path = folder / f"train{ending}"
        path.write_bytes(data)
        report = validate_files([path], folder)
        assert report.good <= report.samples
        assert report.good or report.counts
        assert "\n" not in "".join(f.place + f.detail for found in report.examples.values() for f in found)

    return run


def read_mutated(arguments: tuple[Any, list[tuple[list[int], Any]], str | None], folder: Path) -> None:
    record, changes, format_name = arguments
    record = copy.deepcopy(record)
    for path, value in changes:
        record = replaced(record, path, value)
    sample = read_record(record, Context("train.jsonl:1", folder), FORMATS[format_name] if format_name else None)
    assert any(turn.role == "assistant" and turn.text for turn in sample.turns)


def look_at_image(data: bytes, _: Path) -> None:
    """The three ways to open an image agree on whether it is one, and on its size."""
    try:
        size = load_image(data).size
    except ParsitError:
        size = None
    try:
        deep = check_image(data, deep=True)
    except ParsitError:
        deep = None
    assert deep == size, f"a deep check gives {deep}, load_image {size}"
    try:
        header = check_image(data)
    except ParsitError:
        header = None
    assert size is None or header == size, f"the header gives {header}, load_image {size}"


def read_yaml(data: bytes, folder: Path) -> None:
    for name in ("a.json", "b.jsonl"):
        (folder / name).touch()
    (folder / "m.yaml").write_bytes(data)
    assert read_sources([folder / "m.yaml"])


def read_words(text: str, _: Path) -> None:
    read_sources([text])


def targets() -> list[Target]:
    """All of them."""
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
    files = {".jsonl": lines, ".json": json.dumps(RECORDS).encode(), ".tar": tar_bytes(), ".parquet": parquet_bytes()}
    changes = st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=6), JSON_VALUES), min_size=1, max_size=3)
    some_format = st.none() | st.sampled_from(sorted(FORMATS))
    return [
        *(Target(f"any bytes as {end}", st.binary(max_size=200), validate_bytes(end)) for end in files),
        *(
            Target(f"mutated {end}", st.builds(edited, st.just(data), EDITS), validate_bytes(end))
            for end, data in files.items()
        ),
        Target("mutated records", st.tuples(st.sampled_from(RECORDS), changes, some_format), read_mutated),
        Target("any value as a record", st.tuples(JSON_VALUES, st.just([]), some_format), read_mutated),
        Target("any bytes as an image", st.binary(max_size=100), look_at_image),
        Target("mutated images", st.builds(edited, st.sampled_from(images()), EDITS), look_at_image),
        Target("any text as a mixture", st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")), read_yaml),
        Target("mutated mixtures", st.builds(edited, st.just(MIXTURE.encode()), EDITS), read_yaml),
        Target("any word for a file", st.text(alphabet="ab{},./\0~*[]", max_size=30), read_words),
    ]


def turn(target: Target, number: int) -> None:
    """One turn of a target; raises what went wrong, with the smallest input in `last`."""
    with tempfile.TemporaryDirectory() as folder:

        @seed(number)
        @settings(
            max_examples=EXAMPLES_A_TURN,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            print_blob=False,
        )
        @given(target.inputs)
        def check(value: Any) -> None:
            last[target.name] = value  # the last one is the smallest that fails
            message = ""
            try:
                target.run(value, Path(folder))
            except ParsitError as error:
                message = str(error)
            assert "\n" not in message

        check()


last: dict[str, Any] = {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"))
    options = parser.parse_args()
    awake = targets()
    ends, number, failures = time.monotonic() + 60 * options.minutes, 0, 0
    while awake and time.monotonic() < ends:
        target = awake.pop(0)
        number += 1
        try:
            turn(target, options.seed * 1_000_000 + number)
        except Exception:  # whatever it is, it is the finding
            failures += 1
            value = last.get(target.name)
            options.out.mkdir(parents=True, exist_ok=True)
            saved = options.out / f"{target.name.replace(' ', '-')}.txt"
            saved.write_text(f"{value!r}\n\n{traceback.format_exc()}", encoding="utf-8", errors="backslashreplace")
            print(f"{target.name}: failed on {value!r}\n{traceback.format_exc()}saved in {saved}", flush=True)
        else:
            awake.append(target)
    print(f"{number * EXAMPLES_A_TURN:,} inputs, {failures} targets failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
