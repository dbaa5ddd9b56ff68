"""The page in a real browser, by Playwright: `make test-page`, as neither it nor a Chromium comes with Parsit."""

from __future__ import annotations

import json
import shutil

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, served):
    """The page, with what its console said."""
    opened = browser.new_page(viewport={"width": 360, "height": 740})
    opened.said = []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.goto(served.url)
    opened.get_by_text("mini").wait_for()
    yield opened
    opened.close()


def test_a_pdf_is_read_beside_its_pages_copied_and_downloaded(page, pdf):
    assert page.get_by_role("button", name="Read").is_disabled()
    page.get_by_label("Drop a PDF").set_input_files(pdf)
    page.get_by_label("How").select_option("lines")
    page.get_by_role("button", name="Read").click()
    page.get_by_text("report.pdf is read: 3 pages.").wait_for()
    sheets = page.get_by_role("article")
    assert sheets.count() == 3
    assert sheets.nth(0).get_by_role("img").get_attribute("alt") == "Picture of page 1"
    assert sheets.nth(0).locator("rect").count() == sheets.nth(0).get_by_role("listitem").count() == 2
    assert "confidence" in sheets.nth(0).inner_text()
    assert "blank" in sheets.nth(1).inner_text()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    document = json.loads(download.value.path().read_text())
    assert download.value.suggested_filename == "report.json"
    assert [line["text"] for line in document["pages"][0]["lines"]] == [
        sheets.nth(0).get_by_role("listitem").nth(n).text_content() for n in range(2)
    ]
    with page.expect_download() as download:
        page.get_by_role("button", name="Download Markdown").click()
    assert download.value.path().read_text().startswith("<!-- page 1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.said == []


def test_an_error_is_shown_and_a_reading_can_be_stopped(page, pdf, tmp_path, served):
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.7 nothing more")
    page.get_by_label("Drop a PDF").set_input_files(tmp_path / "bad.pdf")
    page.get_by_role("button", name="Read").click()
    page.get_by_role("alert").get_by_text("bad.pdf is a damaged PDF").wait_for()
    page.get_by_label("Drop a PDF").set_input_files(pdf)
    page.get_by_role("button", name="Read").click()
    page.locator("#stop").click()
    page.get_by_text("Stopped after").wait_for()
    served.wait_until_idle()


def test_a_question_is_answered_and_a_broken_schema_is_said(page, pdf):
    page.get_by_label("Drop a PDF").set_input_files(pdf)
    page.get_by_label("Question").fill("What is it?")
    page.get_by_role("button", name="Ask").press("Enter")
    page.locator("#answer-note").get_by_text("confidence").wait_for()
    assert page.locator("#answer").text_content()
    page.get_by_text("Answer in the form of").click()
    page.get_by_label("Schema").fill("{")
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("alert").get_by_text("The schema is not JSON").wait_for()


def test_a_token_is_asked_for_where_one_is_needed(browser, start):
    with start(token="secret") as guarded:
        page = browser.new_page()
        page.goto(guarded.url)
        page.get_by_label("This server asks for a token").fill("secret")
        page.get_by_role("button", name="Use it").click()
        page.get_by_text("mini").wait_for()
        assert not page.get_by_label("This server asks for a token").is_visible()
        page.close()
