"""`/v1/parse`: at once, as a stream, as a job; what is refused, what is stopped, what is forgotten."""

from __future__ import annotations

import json
import tempfile
import time

import pytest

from parsit.parse.reader import Reader
from pdf_support import ENDLESS, objects_of_pages, pdf_of_objects
from serve_support import HANG_S, noise, png


def post(served, data, name="report.pdf", **fields):
    return served.http.post("/v1/parse", files={"file": (name, data)}, data={"max_tokens": "6"} | fields)


def events_of(text):
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def wait_for(served, id, *states):
    deadline = time.monotonic() + HANG_S
    while (job := served.http.get(f"/v1/jobs/{id}").json())["state"] not in states:
        assert time.monotonic() < deadline, job
        time.sleep(0.02)
    return job


@pytest.fixture(scope="module")
def document(served, pdf):
    """What a reader of one's own gives."""
    return Reader(served.model).parse(pdf, max_new_tokens=6)


def test_a_file_is_read_as_a_reader_reads_it(served, pdf, document):
    answer = post(served, pdf.read_bytes(), name="../a/report.pdf").json()
    assert answer["source"] == "report.pdf"
    assert [page["text"] for page in answer["pages"]] == [page.text for page in document.pages]
    assert [page["flags"] for page in answer["pages"]] == [list(page.flags) for page in document.pages]
    assert answer["pages"][1]["flags"] == ["blank"]
    markdown = post(served, pdf.read_bytes(), format="md")
    assert markdown.headers["content-type"].startswith("text/markdown")
    assert markdown.text == document.to_markdown()
    text = post(served, pdf.read_bytes(), format="txt", pages="3")
    assert text.text == document.pages[2].text.rstrip() + "\n"


def test_lines_come_with_their_boxes_as_they_are_read(served, pdf):
    stream = post(served, pdf.read_bytes(), mode="stream", split="lines", pictures="true")
    assert stream.headers["content-type"].startswith("text/event-stream")
    events = events_of(stream.text)
    assert [value["page"] for name, value in events if name == "drawn"] == [1, 2, 3]
    picture = next(value for name, value in events if name == "drawn")
    assert picture["picture"].startswith("data:image/jpeg;base64,")
    pages = [value for name, value in events if name == "page"]
    assert [len(page["lines"]) for page in pages] == [2, 0, 1]
    streamed: dict = {}
    for name, value in events:
        if name == "text":
            key = (value["page"], value["unit"], value["attempt"])
            streamed[key] = streamed.get(key, "") + value["text"]
            assert len(value["box"]) == 4
    first = pages[0]["lines"][0]
    assert first["text"] in (streamed[1, 0, 0], streamed.get((1, 0, 1)))
    assert events[-1] == ("done", {"source": "report.pdf", "pages": 3})


def test_a_job_has_an_id_progress_and_a_result(served, pdf, document):
    answer = post(served, pdf.read_bytes(), mode="job")
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    done = wait_for(served, job["id"], "done")
    assert (done["pages_done"], done["error"]) == (3, None)
    assert served.http.get(f"/v1/jobs/{job['id']}/result?format=md").text == document.to_markdown()
    assert served.http.delete(f"/v1/jobs/{job['id']}").json()["deleted"]
    assert served.http.get(f"/v1/jobs/{job['id']}").status_code == 404


def test_a_result_expires(start, pdf):
    with start(kept_seconds=0.0) as served:
        id = post(served, pdf.read_bytes(), mode="job", pages="2").json()["id"]
        deadline = time.monotonic() + HANG_S
        while served.http.get(f"/v1/jobs/{id}").status_code != 404:
            assert time.monotonic() < deadline


def test_a_job_that_is_deleted_stops_reading(start, pdf):
    with start(max_parses=1) as served:
        id = post(served, pdf.read_bytes(), mode="job", max_tokens="900", prompt="x").json()["id"]
        assert served.http.delete(f"/v1/jobs/{id}").is_success
        served.wait_until_idle()


def test_files_beyond_the_queue_are_told_to_come_again(start):
    slow = pdf_of_objects(objects_of_pages([(999, 999, ENDLESS)]))
    with start(max_parses=1, max_parse_queue=1) as served:
        jobs = [post(served, slow, mode="job").json()["id"] for _ in range(2)]
        refused = post(served, slow, mode="job")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
        assert [served.http.get(f"/v1/jobs/{id}").json()["state"] for id in jobs] == ["running", "queued"]
        waiting = served.http.get(f"/v1/jobs/{jobs[0]}/result")
        assert (waiting.status_code, waiting.json()["error"]["message"].endswith("is not done: running")) == (409, True)
        for id in jobs:
            served.http.delete(f"/v1/jobs/{id}")


def test_a_file_that_takes_too_long_is_given_up(start, pdf):
    with start(max_parse_seconds=0.0) as served:
        answer = post(served, pdf.read_bytes())
        assert (answer.status_code, answer.json()["error"]["message"]) == (408, "the file was not read within 0 s")


@pytest.mark.parametrize(
    ("data", "fields", "said"),
    [
        (b"%PDF-1.7 nothing more", {}, "bad.bin is a damaged PDF"),
        (b"", {}, "bad.bin is empty"),
        (b"no picture", {}, "bad.bin is neither a PDF nor an image"),
        (png(noise(1)), {"pages": "2"}, "bad.bin has 1 page"),
        (png(noise(1)), {"pages": "0"}, "pages count from 1"),
        (png(noise(1)), {"pages": "1-999"}, "at most 5 at a time"),
        (png(noise(1)), {"dpi": "100000"}, "dpi"),
        (png(noise(1)), {"split": "words"}, "split"),
        (png(noise(1)), {"mode": "later"}, "mode"),
        (png(noise(1)), {"max_tokens": "many"}, "max_tokens"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line_that_names_no_path(served, data, fields, said):
    answer = post(served, data, name="bad.bin", **fields)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert said in message
    assert "/" not in message.replace("1/", "")
    streamed = post(served, data, name="bad.bin", **fields | ({"mode": "stream"} if "mode" not in fields else {}))
    assert streamed.status_code in (200, 400)
    assert said in streamed.text


def test_a_request_without_a_file_is_refused(served):
    assert served.http.post("/v1/parse", data={"mode": "wait"}).json()["error"]["param"] == "file"


def test_a_reading_ends_with_the_server(start, pdf):
    with start() as served:
        served.batcher.stop()
        answer = post(served, pdf.read_bytes())
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, "the server ends")


def test_a_disk_that_takes_no_file_fails_the_job_in_a_sentence(served, pdf, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    id = post(served, pdf.read_bytes(), mode="job").json()["id"]
    job = wait_for(served, id, "failed", "cancelled", "done")
    assert job["state"] == "failed"
    assert "its log says why" in json.dumps(job)
    assert str(tmp_path) not in json.dumps(job)
