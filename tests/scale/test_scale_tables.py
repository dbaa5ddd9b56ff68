"""Tables in readings, between Markdown and HTML."""

import pytest

from parsit.scale.tables import Cell, tables_in, to_html, to_markdown, with_tables

SPANNED = """<table>
<tr><th rowspan="2">Item</th><th colspan="2">Price</th></tr>
<tr><th>net</th><th>gross</th></tr>
<tr><td>Nuts &amp; bolts</td><td>3.40</td><td>4.05</td></tr>
</table>"""
PIPES = "| Item | Price |\n| --- | ---: |\n| a \\| b | 1 |\n| c |  |"


def test_spans_survive_html():
    (table,) = tables_in(SPANNED)
    assert table[0] == [Cell("Item", 2, 1, True), Cell("Price", 1, 2, True)]
    assert to_html(table) == SPANNED
    assert with_tables(f"before\n{SPANNED}\nafter", "html") == f"before\n{SPANNED}\nafter"


def test_in_markdown_a_spanning_cell_stands_in_its_first_place():
    assert with_tables(f"before\n{SPANNED}\nafter", "markdown") == (
        "before\n| Item | Price |  |\n| --- | --- | --- |\n|  | net | gross |\n| Nuts & bolts | 3.40 | 4.05 |\nafter"
    )


def test_pipes_become_html_with_a_header():
    assert with_tables(f"{PIPES}\n\ntext | with | pipes", "html") == (
        "<table>\n<tr><th>Item</th><th>Price</th></tr>\n<tr><td>a | b</td><td>1</td></tr>\n"
        "<tr><td>c</td><td></td></tr>\n</table>\n\ntext | with | pipes"
    )


def test_there_and_back_is_the_same():
    html = with_tables(PIPES, "html")
    assert with_tables(html, "markdown") == PIPES.replace("---:", "---")


def test_as_read_changes_nothing():
    assert with_tables(SPANNED + PIPES, "as-read") == SPANNED + PIPES


@pytest.mark.parametrize(
    ("html", "rows"),
    [
        ("<table><tr><td>a<td>b<tr><td>c</table>", [["a", "b"], ["c"]]),
        (
            "<TABLE id='x'><thead><tr><td>a</td></tr></thead><tr><td>b</td></tr></TABLE>",
            [["a"], ["b"]],
        ),
        ("<table><td>no row</td></table>", [["no row"]]),
        ("<table><tr><td>a<br>b</td></tr></table>", [["a\nb"]]),
        ("<table></table>", []),
    ],
)
def test_what_models_write(html, rows):
    (table,) = tables_in(html)
    assert [[cell.text for cell in row] for row in table] == rows


@pytest.mark.parametrize(("said", "span"), [("0", 1), ("-3", 1), ("x", 1), ("", 1), ("99999999999", 1000), ("²", 1)])
def test_spans_that_mean_nothing_are_one_and_endless_ones_end(said, span):
    (table,) = tables_in(f'<table><tr><td colspan="{said}">a</td></tr></table>')
    assert table[0][0].columns == span


def test_a_table_without_an_end_and_pipes_in_text_are_text():
    for text in ("<table><tr><td>a", "a | b\n--- | ---", "| a | b |\nno rule", ""):
        assert not tables_in(text)
        assert with_tables(text, "html") == text


def test_a_row_that_is_too_short_is_filled_up():
    (table,) = tables_in("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>")
    assert to_markdown(table) == "| a | b |\n| --- | --- |\n| c |  |"
