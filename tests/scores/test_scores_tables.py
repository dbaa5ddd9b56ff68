import json
from pathlib import Path

import pytest

from parsit.scores import page_tables_similarity, tables, teds
from parsit.scores.tables import html_table

PUBLISHED = json.loads((Path(__file__).parent / "data" / "teds.json").read_text())
HTML = "<table><tr><td>a</td><td>b</td></tr><tr><td>1</td><td>2</td></tr></table>"


def rows(table):
    return [["".join(cell.content) for cell in row.children] for row in table.children]


def test_teds_is_the_published_one_but_for_the_table_itself():
    """table_recognition_metric counts the table as an element; PubTabNet's own function, and this one, do not."""
    assert len(PUBLISHED["cases"]) == 60
    for case in PUBLISHED["cases"]:
        size = max(html_table(case[side]).size() for side in ("reference", "prediction"))
        for name in ("teds", "teds_structure"):
            ours = teds(case["reference"], case["prediction"], structure_only=name == "teds_structure")
            assert (1 - ours) * size == pytest.approx((1 - case[name]) * (size + 1), abs=1e-9), case


def test_teds_by_hand():
    # 6 elements below the table; one character of one wrong costs 1, a missing cell 1.
    assert teds(HTML, HTML) == 1
    assert teds(HTML, HTML.replace("2", "3")) == pytest.approx(1 - 1 / 6)
    assert teds(HTML, HTML.replace("2", "3"), structure_only=True) == 1
    assert teds(HTML, HTML.replace("<td>2</td>", "")) == pytest.approx(1 - 1 / 6)
    assert teds(HTML, HTML.replace("<td>2", '<td colspan="2">2')) == pytest.approx(1 - 1 / 6)
    assert teds(HTML, "no table at all") == 0


def test_a_header_cell_is_read_as_a_cell():
    assert teds(HTML, HTML.replace("<td>a</td>", "<th>a</th>")) == 1
    assert teds(HTML, HTML.replace("<td>a</td>", "<th>x</th>")) == pytest.approx(1 - 1 / 6)


def test_a_reference_without_a_table_is_a_mistake():
    with pytest.raises(ValueError, match="no <table>"):
        teds("text", HTML)


@pytest.mark.parametrize(
    "broken",
    [
        "<table><tr><td>a<td>b<tr><td>1<td>2",  # nothing is closed
        "<table><td>a</td><td>b</td></tr><tr><td>1</td><td>2</td></table></table></td>",  # no first row
        "<TABLE><TR><TD COLSPAN=x>a</TD><TD rowspan='0'>b</TD></TR>\n<TR><TD>1</TD> <TD>2</TD></TR></TABLE>",
        "<table><tr><td>a</td><td>b</td></tr></tbody><tr><td>1</td><td>2</td></tr></table>",
    ],
)
def test_broken_html_is_read_as_browsers_do(broken):
    assert rows(html_table(broken)) == [["a", "b"], ["1", "2"]]
    assert teds(HTML, broken) == 1


def test_a_table_in_a_cell_is_content_of_the_cell():
    (table,) = tables("<table><tr><td>a<table><tr><td>x</td></tr></table>b</td><td>c</td></tr></table>")
    assert rows(table) == [["a<table><tr><td>x</td></tr></table>b", "c"]]


def test_markup_and_entities_in_cells_are_tokens():
    (table,) = tables("<table><tr><td>a &amp; <b>c</b><br></td></tr></table>")
    assert table.children[0].children[0].content == ["a", " ", "&", " ", "<b>", "c", "</b>", "<br>", "</br>"]


def test_pipe_and_html_tables_are_found_in_order():
    text = f"Text with a | b.\n\n| x | y |\n|:--|--:|\n| 1 | 2 \\| 3 |\n\nMore.\n\n{HTML}\n\np|q\n-|-\n5|\n"
    found = [rows(table) for table in tables(text)]
    assert found == [[["x", "y"], ["1", "2 | 3"]], [["a", "b"], ["1", "2"]], [["p", "q"], ["5", ""]]]


def test_lines_with_pipes_alone_are_no_table():
    assert tables("a | b\nc | d\n") == []
    assert tables("| --- |\n") == []


def test_sections_do_not_part_html_from_markdown():
    written = "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody></table>"
    assert page_tables_similarity(tables("| a | b |\n|---|---|\n| 1 | 2 |"), tables(written)) == 1


def test_tables_of_a_page_are_paired_as_they_fit_and_missing_or_invented_ones_count():
    first, second = tables(HTML)[0], tables("| x |\n|---|\n| y |")[0]
    assert page_tables_similarity([first, second], [second, first]) == 1
    assert page_tables_similarity([first, second], [second]) == pytest.approx(0.5)
    assert page_tables_similarity([first], [first, second]) == pytest.approx(0.5), "a table that is not on the page"
    assert page_tables_similarity([], [first]) == 0
    assert page_tables_similarity([], []) == 1
