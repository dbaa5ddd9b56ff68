"""The pictures of a comparison: where the results say that they lie, and what is said where they no longer do."""

import base64
import io
import json
import re
import tarfile

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from parsit.data.files import read_files
from parsit.eval import evaluate
from parsit.eval.compare import PICTURE_HEIGHT, PICTURE_WIDTH, compare_results, read_result, write_comparison
from parsit.eval.image_places import image_at
from parsit.types import Generation, InputError

RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 150, 0), (0, 0, 220), (99, 99, 99)


def png(color, size=(60, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def record(name, **more):
    turns = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": f"The text of {name}."}]
    return {"id": name, "conversations": turns} | more


@pytest.fixture
def data(tmp_path):
    """One sample of each kind: an image file, a tar's member, a data URL, bytes in Parquet."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "red.png").write_bytes(png(RED, (1200, 900)))
    (folder / "file.jsonl").write_text(json.dumps(record("file", image="red.png")) + "\n")
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for name, content in (("0001.png", png(GREEN)), ("0001.json", json.dumps(record("tar")).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    url = f"data:image/png;base64,{base64.b64encode(png(BLUE)).decode()}"
    first = json.dumps(record("other", image="red.png"))
    (folder / "url.jsonl").write_text(f"{first}\n\n{json.dumps(record('url', image=url))}\n")
    rows = [record("none", image={"bytes": png(RED)}), record("row", image={"bytes": png(GREY)})]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return folder


FILES = ("file.jsonl", "shard.tar", "url.jsonl", "rows.parquet")


def results(folder, data, out=("a", "b")):
    """What two models gave, both of which are wrong, the second less so."""
    samples = read_files([data / name for name in FILES])
    for name, text in zip(out, ("", "The text"), strict=True):
        evaluate(samples, lambda turns, text=text: [Generation(text, 1)] * len(turns), batch_size=9).write_results(
            folder / name
        )
    return [read_result(folder / name) for name in out]


def page(folder, pair):
    return write_comparison(folder / "page.html", compare_results(*pair)).read_text()


def colors(html):
    """The pictures of a page by their alternative texts: their sizes, and the colour in their middles."""
    found = {}
    for uri, name in re.findall(r'src="data:image/\w+;base64,([^"]+)"[^>]* alt="([^"]+)"', html):
        image = Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB")
        found[name] = (image.size, image.getpixel((image.width // 2, image.height // 2)))
    return found


def errors(html):
    return [line for line in re.findall(r'class="error">([^<]*)<', html) if "cannot be shown" in line]


def test_pictures_are_drawn_from_files_tars_data_urls_and_parquet(tmp_path, data):
    html = page(tmp_path, results(tmp_path, data))
    scale = min(PICTURE_WIDTH / 1200, PICTURE_HEIGHT / 900)
    assert colors(html) == {
        "image 1 of file": ((round(1200 * scale), round(900 * scale)), RED),
        "image 1 of other": ((round(1200 * scale), round(900 * scale)), RED),
        "image 1 of tar": ((60, 30), GREEN),
        "image 1 of url": ((60, 30), BLUE),
        "image 1 of none": ((60, 30), RED),
        "image 1 of row": ((60, 30), GREY),
    }
    assert f"at most {PICTURE_WIDTH} × {PICTURE_HEIGHT} pixels" in html
    assert errors(html) == []


def test_places_do_not_depend_on_where_a_command_was_started(tmp_path, data, monkeypatch):
    monkeypatch.chdir(data)
    results(tmp_path, data.relative_to(data))
    monkeypatch.chdir("/")
    html = page(tmp_path, [read_result(tmp_path / name) for name in "ab"])
    assert len(colors(html)) == 6


def test_what_cannot_be_drawn_any_more_is_said_in_a_line_and_the_page_is_made(tmp_path, data):
    pair = results(tmp_path, data)
    (data / "red.png").unlink()
    (data / "shard.tar").write_bytes(b"another")
    lines = (data / "url.jsonl").read_text().splitlines()
    (data / "url.jsonl").write_text("\n".join(reversed(lines)))
    (data / "rows.parquet").unlink()
    html = page(tmp_path, pair)
    assert colors(html) == {}
    said = errors(html)
    assert len(said) == 6
    wanted = ("red.png: no such file", "shard.tar at byte 512 is cut off", "record 3 of", "no such data file")
    for words in wanted:
        assert any(words in line for line in said), words
    assert html.count('class="card case"') == 6


def test_another_records_image_is_not_shown(tmp_path, data):
    """The third line is a good record with a picture, and not the sample's."""
    pair = results(tmp_path, data)
    lines = (data / "url.jsonl").read_text().splitlines()
    (data / "url.jsonl").write_text("\n".join([*lines[:2], lines[2].replace("The text of url", "Something else")]))
    html = page(tmp_path, pair)
    assert "image 1 of url" not in colors(html)
    assert any("record 3 of" in line and "another one by now" in line for line in errors(html))


def test_the_other_results_place_is_tried(tmp_path, data):
    pair = results(tmp_path, data)
    (data / "kept.png").write_bytes(png(BLUE))
    path = tmp_path / "b" / "predictions.jsonl"
    path.write_text(path.read_text().replace("red.png", "kept.png"))
    (data / "red.png").unlink()
    assert colors(page(tmp_path, [pair[0], read_result(tmp_path / "b")]))["image 1 of file"] == ((60, 30), BLUE)


def test_results_that_do_not_say_where_their_images_are(tmp_path, data):
    results(tmp_path, data)
    for name in "ab":
        path = tmp_path / name / "predictions.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "images"}) + "\n" for line in lines))
    html = page(tmp_path, [read_result(tmp_path / name) for name in "ab"])
    assert "do not say where their images lie" in html
    assert colors(html) == {}


@pytest.mark.parametrize(
    "images", ["a.png", ["a.png"], [{"path": 1}], [{"file": "a"}], [{"path": "a", "offset": -1, "size": 2}], {}]
)
def test_places_that_are_none_are_an_error_with_their_line(tmp_path, data, images):
    results(tmp_path, data)
    path = tmp_path / "a" / "predictions.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"images": images})
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"predictions\.jsonl:2: 'images' is no list of places"):
        read_result(tmp_path / "a")


def test_more_images_than_are_shown_are_counted(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(RED))
    names = [f"{number}.png" for number in range(4)]
    turns = [{"from": "human", "value": "<image>" * 4 + "\nRead."}, {"from": "gpt", "value": "Four."}]
    (tmp_path / "d.jsonl").write_text(json.dumps({"id": "many", "image": names, "conversations": turns}))
    samples = read_files([tmp_path / "d.jsonl"])
    for name, text in (("a", "One."), ("b", "Four.")):
        evaluate(samples, lambda _, text=text: [Generation(text, 1)], batch_size=1).write_results(tmp_path / name)
    html = page(tmp_path, [read_result(tmp_path / name) for name in "ab"])
    assert len(colors(html)) == 2
    assert "and 2 more image(s)" in html


def test_an_image_that_was_never_in_a_file_is_not_looked_for():
    with pytest.raises(InputError, match="in memory alone"):
        image_at({}, "")
