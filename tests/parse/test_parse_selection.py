"""Page selections: what is read, and which part an error names."""

import pytest

from parsit.parse.selection import parse_selection
from parsit.types import InputError, UsageError


@pytest.mark.parametrize(
    ("text", "pages"),
    [("1", [1]), ("1-3,7", [1, 2, 3, 7]), (" 2 - 3 , 1", [2, 3, 1]), ("5-5", [5]), ("9", [9]), ("007", [7])],
)
def test_pages_in_the_order_given(text, pages):
    assert parse_selection(text).pages(9, "a.pdf") == pages


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "an empty part"), ("1,,2", "an empty part"), ("1,", "an empty part"), ("a", "'a'"), ("1-3,x-y", "'x-y'"),
        ("3-", "'3-'"), ("-3", "'-3'"), ("1-2-3", "'1-2-3'"), ("1.5", "'1.5'"), ("²", "'²'"), ("٣", "'٣'"),
        ("1 2", "'1 2'"), ("0", "page 0"), ("0-2", "page 0"), ("3-1", "'3-1' runs backwards"),
        ("1-3,2", "'2' names page 2 a second time"), ("4,2-6", "page 4 a second time"),
        ("9999999999", "'9999999999'"),
    ],
)  # fmt: skip
def test_a_wrong_part_is_named(text, part):
    with pytest.raises(UsageError) as caught:
        parse_selection(text)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "missing"), [("4", "page 4"), ("1-4", "page 4"), ("2-9", "pages 4-9"), ("1,7-8", "pages 7-8")]
)
def test_a_page_beyond_the_end_says_how_many_there_are(text, missing):
    with pytest.raises(InputError, match=f"a.pdf has 3 pages; --pages asks for {missing}$"):
        parse_selection(text).pages(3, "a.pdf")


def test_a_huge_range_is_refused_before_it_is_counted_out():
    with pytest.raises(InputError, match="has 1 page;"):
        parse_selection("1-999999999").pages(1, "a.pdf")
