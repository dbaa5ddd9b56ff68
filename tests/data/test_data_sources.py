"""Mixtures: LLaVA-NeXT's file as it reads it, and a clear error for everything else."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parsit.data.sources import SamplingStrategy, Source, expand_braces, read_sources, select
from parsit.types import InputError, UsageError


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_plain_files_and_braces(tmp_path):
    assert [str(path) for path in expand_braces("data/{a,b , c}.json")] == ["data/a.json", "data/b.json", "data/c.json"]
    assert [str(path) for path in expand_braces("{x,y}/{1,2}.jsonl")] == [
        "x/1.jsonl",
        "x/2.jsonl",
        "y/1.jsonl",
        "y/2.jsonl",
    ]
    assert expand_braces("plain.json") == [Path("plain.json")]
    odd = write(tmp_path / "{a,b}.json")
    assert expand_braces(str(odd)) == [odd]
    sources = read_sources(["a.json", "d/{a,b}.json"], tmp_path)
    assert [source.name for source in sources] == ["a", "a#2", "b"]
    assert {source.image_folder for source in sources} == {tmp_path}
    assert read_sources(["a.json"])[0] == Source(Path("a.json"), None, SamplingStrategy(), 1.0, "a")


def test_mistakes_on_the_command_line():
    with pytest.raises(UsageError, match="no data files"):
        read_sources([])
    with pytest.raises(UsageError, match="empty name"):
        read_sources(["{a,,b}.json"])
    with pytest.raises(UsageError, match="more than 10,000 files"):
        read_sources(["{a,b}" * 20 + ".json"])


def test_a_mixture_names_files_from_its_own_folder_then_from_here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "mix" / "pictures").mkdir(parents=True)
    (tmp_path / "here" / "scans").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    both = [write(tmp_path / folder / "both.json") for folder in ("mix", "here")]
    write(tmp_path / "here" / "only_here.json")
    elsewhere = write(tmp_path / "else.json")
    mixture = write(
        tmp_path / "mix" / "m.yaml",
        f"""
datasets:
  - json_path: both.json
    sampling_strategy: "first:10%"
    image_folder: pictures
  - json_path: only_here.json
    image_root: scans
    weight: 2
    name: mine
  - json_path: {elsewhere}
  - json_path: both.json
""",
    )
    first, second, third, fourth = read_sources([mixture], "/images")
    assert first == Source(both[0], tmp_path / "mix" / "pictures", SamplingStrategy.parse("first:10%"), 1.0, "both")
    assert second == Source(Path("only_here.json"), Path("scans"), SamplingStrategy(), 2.0, "mine")
    assert (third.path, third.image_folder) == (elsewhere, Path("/images"))
    assert fourth.name == "both#2"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["a mixture must be a mapping with 'datasets'"]),
        ("- a\n- b", ["a mixture must be a mapping"]),
        ("just text", ["a mixture must be a mapping"]),
        ("data:\n  - json_path: a.json", ["a mixture must be a mapping with 'datasets'"]),
        ("datasets: []\n", ["'datasets' is empty"]),
        ("datasets:\n", ["'datasets' is empty"]),
        ("datasets: a.json", ["'datasets' is 'a.json'", "a list of entries"]),
        ("datasets: {json_path: a.json}", ["'datasets' is a dict of 1"]),
        ("datasets:\n- json_path: a.json\nseed: 3", ["unknown key 'seed'"]),
        ("datasets:\n- a.json", ["datasets[0] is 'a.json'", "'json_path'"]),
        ("datasets:\n- json_path: a.json\n- name: x", ["datasets[1] has no 'json_path'"]),
        ("datasets:\n- json_path: 7", ["datasets[0]: 'json_path' is 7; it must be text"]),
        ("datasets:\n- json_path: ''", ["'json_path' is ''; it must be text"]),
        ("datasets:\n- json_pth: a.json", ["unknown key 'json_pth'; did you mean json_path?"]),
        ("datasets:\n- {json_path: a.json, images_folder: x}", ["did you mean image_folder?"]),
        (
            "datasets:\n- {json_path: a.json, sampling_strategy: some}",
            ["'sampling_strategy' 'some' must be all, first:N"],
        ),
        ("datasets:\n- {json_path: a.json, sampling_strategy: 'first:'}", ["must be all, first:N"]),
        ("datasets:\n- {json_path: a.json, sampling_strategy: 'first:-3'}", ["must be all, first:N"]),
        ("datasets:\n- {json_path: a.json, sampling_strategy: 'first:2.5'}", ["must be all, first:N"]),
        ("datasets:\n- {json_path: a.json, sampling_strategy: 'all:3'}", ["must be all, first:N"]),
        ("datasets:\n- {json_path: a.json, sampling_strategy: 'random:0%'}", ["takes no sample"]),
        ("datasets:\n- {json_path: a.json, sampling_strategy: 'random:200%'}", ["more than 100%"]),
        ("datasets:\n- {json_path: a.json, sampling_strategy: 3}", ["'sampling_strategy' is 3; it must be text"]),
        ("datasets:\n- {json_path: a.json, weight: -1}", ["'weight' is -1; it must be a number above 0"]),
        ("datasets:\n- {json_path: a.json, weight: 0}", ["'weight' is 0"]),
        ("datasets:\n- {json_path: a.json, weight: .nan}", ["'weight' is nan"]),
        ("datasets:\n- {json_path: a.json, weight: .inf}", ["'weight' is inf"]),
        ("datasets:\n- {json_path: a.json, weight: yes}", ["'weight' is True"]),
        ("datasets:\n- {json_path: a.json, weight: two}", ["'weight' is 'two'"]),
        (
            "datasets:\n- {json_path: a.json, weight: 0x" + "f" * 5000 + "}",
            ["'weight' is a number of more than 30 digits"],
        ),
        ("datasets:\n- json_path: a.json\n  weight: 1\n  weight: 2", [".yaml:4: ", "'weight' is given twice"]),
        ("datasets:\n- {json_path: a.json, image_folder: ., image_root: .}", ["are the same; give one"]),
        ("datasets:\n- {json_path: m.yaml}", ["'json_path' is a mixture"]),
        ("datasets:\n  - json_path: a.json\n bad", [".yaml:3: not valid YAML"]),
        ("datasets: [\n", [".yaml:2: not valid YAML"]),
        ("datasets:\n- json_path: !!python/object:os.system a", [".yaml:2: not valid YAML"]),
        ("a: \x01", ["not valid YAML"]),
        ("d: 2001-99-99", ["not valid YAML"]),
        ("[" * 5000, ["not valid YAML"]),
    ],
)
def test_each_mistake_in_a_mixture_is_named(tmp_path, text, messages):
    write(tmp_path / "a.json")
    path = write(tmp_path / "m.yaml", text)
    with pytest.raises(InputError) as caught:
        read_sources([path])
    error = str(caught.value)
    assert error.startswith(str(path))
    assert "\n" not in error
    assert len(error) < 600
    for message in messages:
        assert message in error


def test_files_that_are_not_there_are_named_in_both_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "mix" / "m.yaml", "datasets:\n- json_path: x/a.json\n")
    with pytest.raises(InputError) as caught:
        read_sources([path])
    assert f"no data file {tmp_path}/mix/x/a.json nor {tmp_path}/x/a.json" in str(caught.value)
    assert f"{path}: datasets[0]" in str(caught.value)
    write(tmp_path / "a.json")
    write(path, "datasets:\n- json_path: a.json\n  image_folder: pics\n")
    with pytest.raises(InputError, match=f"no image folder {tmp_path}/mix/pics nor {tmp_path}/pics"):
        read_sources([path])
    write(path, "datasets:\n- json_path: a.json\n  image_folder: a.json\n")
    with pytest.raises(InputError, match="no image folder"):
        read_sources([path])
    with pytest.raises(InputError, match="the mixture cannot be opened"):
        read_sources([tmp_path / "none.yaml"])
    write(path, "")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not valid YAML"):
        read_sources([path])


def reference(strategy: str, n: int) -> list[int]:
    """What LLaVA-NeXT keeps of a list, by its rule: percentages rounded up, slices from either end."""
    kind, _, amount = strategy.partition(":")
    keep = -(-int(amount[:-1]) * n // 100) if amount.endswith("%") else int(amount)
    return list(range(n))[:keep] if kind == "first" else list(range(n))[-keep:]


@pytest.mark.parametrize("n", [1, 7, 100, 101])
@pytest.mark.parametrize(
    "strategy", ["first:3", "end:3", "first:10%", "end:10%", "first:1000", "end:1000", "first:100%"]
)
def test_first_and_end_are_llavas(n, strategy):
    source = Source(Path("a"), strategy=SamplingStrategy.parse(strategy), name="a")
    assert select(source, n, 0).tolist() == reference(strategy, n)


@pytest.mark.parametrize(
    ("strategy", "n", "count"),
    [("random:10", 100, 10), ("random:10%", 101, 11), ("random:2.5%", 40, 1), ("random:500", 100, 100)],
)
def test_random_takes_so_many_without_repeating(strategy, n, count):
    rows = select(Source(Path("a"), strategy=SamplingStrategy.parse(strategy), name="a"), n, 0)
    assert rows.dtype == np.int64
    assert len(rows) == len(set(rows.tolist())) == count
    assert set(rows.tolist()) <= set(range(n))


@pytest.mark.parametrize(
    ("weight", "times"), [(1.0, {1}), (2.0, {2}), (0.5, {0, 1}), (1.5, {1, 2}), (2.25, {2, 3}), (0.001, {0})]
)
def test_a_weight_says_how_often_each_sample_comes(weight, times):
    rows = select(Source(Path("a"), weight=weight, name="a"), 200, 0)
    counts = np.bincount(rows, minlength=200)
    assert set(counts.tolist()) == times
    assert len(rows) == round(200 * weight)


def test_strategy_comes_before_weight():
    source = Source(Path("a"), strategy=SamplingStrategy.parse("first:4"), weight=1.5, name="a")
    counts = np.bincount(select(source, 100, 0), minlength=100)
    assert counts[4:].sum() == 0
    assert sorted(counts[:4].tolist()) == [1, 1, 2, 2]


@pytest.mark.parametrize(("strategy", "weight"), [("random:10", 1.0), ("all", 0.5), ("all", 1.5)])
def test_choices_depend_on_seed_and_name_alone(strategy, weight):
    def rows(seed: int, name: str, path: str = "a") -> list[int]:
        source = Source(Path(path), strategy=SamplingStrategy.parse(strategy), weight=weight, name=name)
        return select(source, 1000, seed).tolist()

    random.seed(3)
    np.random.seed(3)
    assert rows(0, "a") == rows(0, "a", "other/path")
    assert rows(0, "a") != rows(1, "a")
    assert rows(0, "a") != rows(0, "b")


def test_another_process_chooses_the_same():
    source = Source(Path("a"), strategy=SamplingStrategy.parse("random:10"), weight=0.5, name="a")
    code = (
        "from pathlib import Path; from parsit.data.sources import SamplingStrategy as Strategy, Source, select;"
        "print(select(Source(Path('a'), strategy=Strategy.parse('random:10'), weight=0.5, name='a'), 1000, 0).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout == f"{select(source, 1000, 0).tolist()}\n"
