import itertools
import json
import random
import subprocess
import sys

import anls_star as published
import pytest
from munkres import Munkres, make_cost_matrix

from parsit.scores import anls_star, blocks, count_fields, invented_words, reading_order_distance, score_page
from parsit.scores.assignment import best_assignment

LEAVES = ["hello", "hallo", "abc", "xyz", 12, "Invoice 12", True, "a  b", None]


def trees(rng, depth, alternatives):
    """A tree of fields, without invented nulls and empty containers, which the package scores otherwise."""
    kind = rng.random()
    if depth == 0 or kind < 0.4:
        return rng.choice(LEAVES if alternatives else LEAVES[:-1])
    if kind < 0.6:
        return [trees(rng, depth - 1, alternatives) for _ in range(rng.randint(1, 3))]
    if kind < 0.7 and alternatives:
        return tuple(trees(rng, depth - 1, False) for _ in range(rng.randint(1, 2)))
    return {key: trees(rng, depth - 1, alternatives) for key in rng.sample("abc", rng.randint(1, 3))}


def test_anls_star_is_the_packages():
    rng = random.Random(0)
    for _ in range(1000):
        true, given = {"k": trees(rng, 3, True)}, {"k": trees(rng, 3, False)}
        assert anls_star(true, given) == pytest.approx(published.anls_score(true, given), abs=1e-9), (true, given)


def test_where_anls_star_differs_from_the_package():
    assert (anls_star("abcd", "abxy"), published.anls_score("abcd", "abxy")) == (0, 0.5)
    assert (anls_star({"a": "x"}, {"a": "x", "b": None}), published.anls_score({"a": "x"}, {"a": "x", "b": None})) == (
        1,
        0.5,
    )


def test_anls_star_counts_what_is_missing_and_what_is_not_there():
    assert anls_star({"a": "x", "b": "y"}, {"a": "x"}) == 0.5
    assert anls_star({"a": "x"}, {"a": "x", "b": "y"}) == 0.5
    assert anls_star({"a": ["x", "y"]}, {"a": ["y", "x", "z"]}) == pytest.approx(2 / 3)
    assert anls_star({"a": ("x", "y")}, {"a": "y"}) == 1
    assert anls_star({}, {}) == 1


@pytest.mark.parametrize(("true", "given"), [("x", ("x",)), ((), "x")])
def test_tuples_where_they_mean_nothing_are_mistakes(true, given):
    with pytest.raises(ValueError, match="tuple"):
        anls_star(true, given)


def test_the_assignment_is_the_best_one():
    rng = random.Random(1)
    for _ in range(300):
        height, width = rng.randint(1, 6), rng.randint(1, 6)
        merits = [[rng.choice((0.0, 0.5, 1.0, rng.random())) for _ in range(width)] for _ in range(height)]
        pairs = best_assignment(merits)
        assert len(pairs) == len({row for row, _ in pairs}) == len({column for _, column in pairs})
        expected = Munkres().compute(make_cost_matrix(merits))
        total = sum(merits[row][column] for row, column in pairs)
        assert total == pytest.approx(sum(merits[row][column] for row, column in expected))
    assert best_assignment([]) == best_assignment([[]]) == []


def test_fields_are_counted_once_each():
    true = {"total": "12.50", "items": [{"name": "Tea", "price": "2"}, {"name": "Bun", "price": "2"}], "note": None}
    assert count_fields(true, true).f1 == 1
    assert count_fields(true, {}).f1 == 0
    wrong = count_fields(true, {"total": "12.5", "items": [{"name": "Bun", "price": " 2 "}, {"name": "Bun"}], "tax": 1})
    # Right: one Bun, one price. Given: total, name, price, name, tax. There: total, two names, two prices.
    assert (wrong.right, wrong.prediction, wrong.reference) == (2, 5, 5)
    assert (wrong.precision, wrong.recall, wrong.f1) == (0.4, 0.4, 0.4)
    assert count_fields({}, {}).f1 == 1
    assert count_fields({}, {"a": "x"}).f1 == count_fields({}, {"a": "x"}).recall == 0


def test_the_place_in_a_list_is_no_key_but_the_path_is():
    assert count_fields({"a": [{"b": "1"}, {"b": "2"}]}, {"a": [{"b": "2"}, {"b": "1"}]}).f1 == 1
    assert count_fields({"a": {"b": "1"}}, {"b": "1"}).f1 == 0


PAGE = [
    "# Report",
    "First paragraph of text.",
    "Second one, about apples.",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "The end.",
]


def test_blocks_are_what_empty_lines_set_apart():
    assert blocks("a\nb\n \t\nc\n\n\n\nd\n") == ["a b", "c", "d"]
    assert blocks(" \n\n") == []


def test_reading_order_by_hand():
    assert reading_order_distance(PAGE, PAGE) == 0
    swapped = [PAGE[0], PAGE[2], PAGE[1], *PAGE[3:]]
    assert reading_order_distance(PAGE, swapped) == pytest.approx(2 / 5)
    assert reading_order_distance(PAGE, PAGE[1:]) == pytest.approx(1 / 5), "one is missing"
    assert reading_order_distance(PAGE, [*PAGE, "Nothing of this stands there at all"]) == pytest.approx(1 / 6)
    assert reading_order_distance(PAGE, []) == 1
    assert reading_order_distance([], []) == 0


def test_misread_words_do_not_change_the_order():
    read = [block.replace("a", "o").replace("e", "c") for block in PAGE]
    assert reading_order_distance(PAGE, read) == 0


def test_reading_order_is_the_edit_distance_of_the_permutation():
    from rapidfuzz.distance import Levenshtein

    for order in itertools.permutations(range(4)):
        expected = Levenshtein.distance(range(4), order) / 4
        assert reading_order_distance(PAGE[:4], [PAGE[place] for place in order]) == pytest.approx(expected)


def test_invented_words():
    assert invented_words("a b  c", "c\nb a") == (0, 3)
    assert invented_words("a b", "a a a b x") == (3, 5)
    assert invented_words("a b", "") == (0, 0)


def test_scores_apply_where_the_reference_has_something_to_compare():
    plain = score_page("Just a line.", "Just a lime.")
    assert (plain.invented_words, plain.words) == (1, 3)
    assert plain.teds is plain.reading_order is plain.fields is plain.anls_star is None
    page = score_page("\n\n".join(PAGE), "\n\n".join(PAGE).replace("| 1", "| 7"))
    assert page.teds == pytest.approx(1 - 1 / 6)
    assert (page.teds_structure, page.reading_order) == (1, 0)
    fields = score_page(json.dumps({"a": "xy", "b": "z"}), json.dumps({"a": "xy"}))
    assert (fields.fields.f1, fields.anls_star) == (pytest.approx(2 / 3), 0.5)
    assert fields.teds is None


def test_an_answer_that_is_nothing_has_the_worst_scores():
    page = score_page("\n\n".join(PAGE), "")
    assert (page.teds, page.reading_order, page.invented_share) == (0, 1, 0)
    form = score_page('{"a": "x"}', "not JSON {")
    assert (form.fields.f1, form.anls_star) == (0, 0)


def test_a_table_that_is_not_on_the_page_counts():
    assert score_page("Just a line.", "Just a line.\n\n| a | b |\n|---|---|\n| 1 | 2 |").teds == 0


def test_without_apted_what_to_install_is_said_before_anything_is_read():
    code = """
import sys
sys.modules["apted"] = None
from parsit.eval import evaluate
from parsit.scores import score_page
from parsit.types import Sample, Turn, UsageError
table = "| a |\\n|---|\\n| 1 |"
assert score_page("text", table).teds == 0, "nothing to compare"
try:
    evaluate([Sample("a", (Turn("user", ("?",)), Turn("assistant", (table,))), "")], print, batch_size=1)
except UsageError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.count("\n") == 1, "the predict function, which prints, was not called"
    assert "pip install 'parsit[scores]'" in said
