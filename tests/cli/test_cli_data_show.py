"""`parsit data show` and `parsit data stats`: pages and tables of real files."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from parsit.cli import data_show
from parsit.cli.main import dispatch
from parsit.types import InputError, UsageError


@pytest.fixture
def folder(tmp_path):
    records = []
    for number in range(8):
        image = Image.new("RGB", (60 + 20 * number, 30), "white")
        ImageDraw.Draw(image).text((5, 8), f"N{number}", fill="black")
        image.save(tmp_path / f"{number}.png")
        talk = [
            {"from": "human", "value": "<image>\nRead <b>it</b>."},
            {"from": "gpt", "value": f"N{number} <|im_end|>"},
        ]
        records.append({"id": f"r{number}", "image": f"{number}.png", "conversations": talk})
    records[2]["image"] = "gone.png"
    records[5] = {"id": "r5", "text": "no talk"}
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return tmp_path


def test_the_page_shows_tiles_tokens_and_faults(folder, capsys):
    out = folder / "page.html"
    assert dispatch(["data", "show", str(folder / "d.jsonl"), "--n", "7", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("7 samples, 2 with a fault:")
    html = out.read_text()
    sections = html.split("<section")[1:]
    assert len(sections) == 7
    assert 'class="learnt"' in sections[0]
    learnt = re.findall(r'<span class="learnt"[^>]*>([^<]*)</span>', sections[0])
    # The answer's own "<|im_end|>" is text that is learnt; the real one closes the turn.
    assert learnt == ["N0 &lt;|im_end|&gt;&lt;|im_end|&gt;"]
    assert "Read &lt;b&gt;it&lt;/b&gt;." in sections[0]
    assert re.search(r"image_pad\|&gt; × \d+", sections[0])
    assert "gone.png" in sections[2]
    assert "not trained on" in sections[2]
    assert "conversations-missing" in sections[5]
    assert "d.jsonl:6" in sections[5]


def test_the_picture_is_what_the_tower_gets_with_its_tiles_outlined(folder):
    out = folder / "page.html"
    tiled = str(Path(__file__).parents[1] / "tiled.yaml")
    data_show.show([str(folder / "d.jsonl"), "--n", "1", "--out", str(out), "--model", tiled])
    uri = re.search(r'src="data:image/png;base64,([^"]+)"', out.read_text())[1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB")).astype(int)
    edge = np.abs(pixels - (214, 73, 51)).sum(-1) < 30
    assert edge.all(axis=0).sum() >= 4  # two tiles of 32 pixels beside each other: four vertical edges
    assert (pixels.sum(-1) < 100).any()  # the letters are there


def test_random_choice_repeats_and_differs_from_the_first(folder):
    def ids(*more):
        data_show.show([str(folder / "d.jsonl"), "--n", "3", "--out", str(folder / "p.html"), *more])
        return re.findall(r"d\.jsonl:(\d)", (folder / "p.html").read_text())

    assert ids() == ["1", "2", "3"]
    assert ids("--random", "5") == ids("--random", "5") != ids("--random", "6")


def test_stats_count_each_set(folder, capsys):
    (folder / "mix.yaml").write_text(
        "datasets:\n  - json_path: d.jsonl\n    name: all\n  - json_path: d.jsonl\n    name: few\n"
        "    sampling_strategy: first:2\n"
    )
    out = folder / "stats.html"
    assert dispatch(["data", "stats", str(folder / "mix.yaml"), "--json", "--out", str(out)]) == 0
    every, few = json.loads(capsys.readouterr().out)
    assert (every["name"], every["records"], every["samples"]) == ("all", 8, 6)
    assert every["set_aside"] == {"image-missing": 1, "conversations-missing": 1}
    assert (few["samples"], few["images"]) == (2, 2)
    from parsit.data.files import read_files
    from parsit.hf import processor_named

    (folder / "first.jsonl").write_text("\n".join((folder / "d.jsonl").read_text().splitlines()[:2]))
    features = [processor_named("tiny").encode(s.turns) for s in read_files([folder / "first.jsonl"])]
    assert few["tokens"]["total"] == sum(len(f.input_ids) for f in features)
    assert few["learnt"]["total"] == sum(f.num_supervised for f in features)
    assert few["tiles"]["total"] == sum(len(f.pixel_values) for f in features)
    assert out.read_text().count("<svg") == 2


def test_stats_print_a_table(folder, capsys):
    data_show.stats([str(folder / "d.jsonl")])
    head, row, aside = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["set", "records", "samples"]
    assert row.split()[:3] == ["d", "8", "6"]
    assert aside == "d: set aside: image-missing 1, conversations-missing 1"


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (["show", "d.jsonl", "--n", "0", "--out", "p.html"], UsageError, "--n is 0"),
        (["stats", "d.jsonl", "--batch_size", "0"], UsageError, "--batch_size is 0"),
        (["stats", "d.jsonl", "--model", "tinny"], InputError, "tiny"),
        (["stats", "d.jsonl", "--model", "tiny/scrach"], UsageError, "did you mean tiny/scratch"),
        (["show", "none.jsonl", "--out", "p.html"], InputError, "none.jsonl"),
    ],
)
def test_wrong_usage_is_one_line(folder, monkeypatch, argv, error, message):
    monkeypatch.chdir(folder)
    with pytest.raises(error, match=re.escape(message)) as caught:
        dispatch(["data", *argv])
    assert "\n" not in str(caught.value)


def test_what_the_model_would_set_aside_is_no_good_sample(folder, capsys):
    long = {"id": "long", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "word " * 600}]}
    with (folder / "d.jsonl").open("a") as file:
        file.write("\n" + json.dumps(long))
    out = folder / "page.html"
    data_show.show([str(folder / "d.jsonl"), "--model", "tiny/scratch", "--out", str(out)])
    assert capsys.readouterr().out.startswith("9 samples, 3 with a fault:")
    assert "more than --model_max_length 512" in out.read_text()
    data_show.show([str(folder / "d.jsonl"), "--model_max_length", "5000", "--out", str(out)])
    assert capsys.readouterr().out.startswith("9 samples, 2 with a fault:")
    for more, aside in (([], 1), (["--model_max_length", "5000"], 0)):
        data_show.stats([str(folder / "d.jsonl"), "--json", *more])
        assert json.loads(capsys.readouterr().out)[0]["set_aside"].get("over-long", 0) == aside


def test_a_runs_folder_has_its_own_limit(folder, tmp_path):
    from parsit.cli.data_model import max_length_of

    checkpoint = tmp_path / "run" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    assert max_length_of(str(tmp_path / "run"), None) is None
    (checkpoint / "train_config.yaml").write_text("model_max_length: 77\n")
    assert max_length_of(str(tmp_path / "run"), None) == max_length_of(str(checkpoint), None) == 77
    (checkpoint / "train_config.yaml").write_text("[")
    with pytest.raises(InputError, match="give --model_max_length"):
        max_length_of(str(checkpoint), None)


def test_stats_of_samples_that_are_all_too_long_are_shown_and_said(folder, capsys):
    out = folder / "stats.html"
    short = ["data", "stats", str(folder / "d.jsonl"), "--model_max_length", "4"]
    assert dispatch([*short, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    _, row, aside = printed.out.splitlines()
    assert row.split()[:5] == ["d", "8", "0", "0", "0"]
    assert "over-long 6" in aside
    assert re.search(
        r"d: no sample is left of 8 records: the shortest has \d+ tokens, more than --model_max_length 4", printed.err
    )
    assert "<svg" not in out.read_text()
    assert dispatch([*short, "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["samples"], one["packs"], one["set_aside"]["over-long"]) == (0, 0, 6)
    (folder / "bad.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="the files hold no good one"):
        dispatch(["data", "stats", str(folder / "bad.jsonl")])
