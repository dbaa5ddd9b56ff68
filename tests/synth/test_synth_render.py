"""Pages are set and drawn for real; where ink lies is measured in the pixels."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pypdfium2
import pytest
from PIL import Image

from parsit.synth.content import KINDS, make_document
from parsit.synth.crops import move
from parsit.synth.degrade import cut
from parsit.synth.fonts import FAMILIES, check_fonts
from parsit.synth.render import Glyph, OtherGlyphsError, align, render, to_pdf
from parsit.synth.split import Fractions, Texts
from parsit.synth.tree import Heading, Lines, PageTree, Paragraph, Style
from parsit.synth.words import CHARACTERS

NASTY = (
    '#let x = 1; #[*bold*] _it_ `raw` $ y $ <tag> @ref ~ -- --- ... // no /* comment */ \\ \\n "quote" \'s =a + b - c'
    " [x] {y}"
)


def page(*blocks, **style) -> PageTree:
    return PageTree("letter", "en-GB", Style(**style), blocks)


def ink(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")) < 100


def covered(boxes: list[Glyph], shape: tuple[int, ...], slack: int = 1) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for box in boxes:
        left, top = max(int(box.x0) - slack, 0), max(int(box.y0) - slack, 0)
        mask[top : int(box.y1) + 1 + slack, left : int(box.x1) + 1 + slack] = True
    return mask


def test_all_text_is_printed_literally():
    pdf = pypdfium2.PdfDocument(to_pdf(page(Paragraph((NASTY,)), Lines((NASTY,)), Heading(NASTY))))
    assert pdf[0].get_textpage().get_text_range().split() == f"{NASTY} {NASTY} {NASTY}".split()


def test_every_family_resolves():
    check_fonts()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_character_has_a_glyph_with_ink_in_every_font(family: str):
    characters = sorted(CHARACTERS - {" "})
    lines = tuple(" ".join(characters[start : start + 20]) for start in range(0, len(characters), 20))
    rendered = render(page(Lines(lines), font=family, size_pt=14), 150)
    glyphs = [glyph for leaf in rendered.leaves for glyph in leaf.glyphs]
    assert [glyph.text for glyph in glyphs] == characters
    dark = np.asarray(rendered.image.convert("L")) < 128
    empty = [
        glyph.text
        for glyph in glyphs
        if not dark[round(glyph.y0) : round(glyph.y1), int(glyph.x0) : int(glyph.x1) + 1].any()
    ]
    assert empty == []


def test_a_character_without_a_glyph_stops_the_page():
    with pytest.raises(OtherGlyphsError, match="where the document says"):
        render(page(Lines(("abc한def",))), 96)


def test_another_font_never_fills_in():
    assert render(page(Lines(("a∀b",)), font="DejaVu Sans Mono"), 96).leaves[0].text == "a∀b"
    with pytest.raises(OtherGlyphsError, match="where the document says"):
        render(page(Lines(("a∀b",)), font="Caladea"), 96)


@pytest.mark.parametrize("family", FAMILIES)
def test_ligatures_do_not_merge_glyphs_and_words_are_not_hyphenated(family: str):
    words = "office affluent fjord Tiffany waffle difficult refill " * 12
    rendered = render(page(Paragraph((words.strip(),)), font=family, justify=True), 96)
    glyphs = rendered.leaves[0].glyphs
    assert "".join(glyph.text for glyph in glyphs) == words.replace(" ", "")
    same_line = [(a, b) for a, b in pairwise(glyphs) if a.y1 == b.y1]
    assert all(after.x0 - before.x0 > 1 for before, after in same_line)
    assert all(abs(after.x0 - before.x1) < 1.5 for before, after in pairwise(glyphs[:6]))


@pytest.mark.parametrize("kind", ["letter", "invoice", "form", "receipt", "table"])
def test_glyph_boxes_hold_the_ink_of_the_page(kind: str):
    document = make_document(kind, Random(kind), Texts(Fractions(0.05, 0.05), "train"))
    rendered = render(document, 130)
    glyphs = [glyph for leaf in rendered.leaves for glyph in leaf.glyphs]
    dark = ink(rendered.image)
    assert dark[covered(glyphs, dark.shape)].sum() > 0
    filled = [dark[int(g.y0) : int(g.y1) + 1, int(g.x0) : int(g.x1) + 1].any() for g in glyphs]
    assert np.mean(filled) > 0.99
    assert all(0 <= g.x0 < g.x1 <= rendered.image.width and 0 <= g.y0 < g.y1 <= rendered.image.height for g in glyphs)


@pytest.mark.parametrize("family", FAMILIES)
def test_boxes_of_a_text_hold_all_its_ink_and_touch(family: str):
    text = "Größe jumps (quickly), 12% – Ägypten"
    rendered = render(page(Lines((text,)), font=family, size_pt=12), 150)
    (leaf,) = rendered.leaves
    dark = ink(rendered.image)
    assert not dark[~covered(list(leaf.glyphs), dark.shape)].any()
    word = leaf.glyphs[:5]
    gaps = [after.x0 - before.x1 for before, after in pairwise(word)]
    assert max(map(abs, gaps)) < 2.0


@pytest.mark.parametrize("skew_deg", [-1.2, 0.0, 1.2])
def test_boxes_follow_the_skew(skew_deg: float):
    rendered = render(
        page(Lines(("Handgloves",)), Paragraph(("Far below, to the right and on its own.",)), size_pt=16), 150
    )
    image = rendered.image
    turned, forward = cut(image, (0, 0, image.width, image.height), skew_deg)
    glyphs = [move(glyph, forward, turned.size) for leaf in rendered.leaves for glyph in leaf.glyphs]
    dark = ink(turned)
    assert dark[~covered(glyphs, dark.shape, slack=2)].mean() < 1e-6
    unmoved = [glyph for leaf in rendered.leaves for glyph in leaf.glyphs]
    missed = dark & ~covered(unmoved, dark.shape, slack=2)
    assert missed.any() == (skew_deg != 0.0)


def test_a_document_that_is_too_long_is_set_smaller_on_one_page():
    long = page(*(Paragraph(("Sense and sound. " * 40,)) for _ in range(9)), size_pt=12.0)
    rendered = render(long, 96)
    assert rendered.document.style.size_pt < 12.0
    assert len(pypdfium2.PdfDocument(to_pdf(rendered.document))) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_lies_over_other_text_or_outside_the_page(kind: str):
    for number in range(6):
        document = make_document(kind, Random(f"over/{kind}/{number}"), Texts(Fractions(0.05, 0.05), "train"))
        rendered = render(document, 72)
        painted = np.zeros((rendered.image.height + 1, rendered.image.width + 1), np.int16)
        for index, leaf in enumerate(rendered.leaves, start=1):
            for glyph in leaf.glyphs:
                assert 0 <= glyph.x0 <= glyph.x1 <= rendered.image.width, (document.kind, leaf.text)
                assert 0 <= glyph.y0 <= glyph.y1 <= rendered.image.height, (document.kind, leaf.text)
                # The middle of a box, so that the ascents of one line may reach into the descents of the line above.
                middle, height = (glyph.y0 + glyph.y1) / 2, (glyph.y1 - glyph.y0) / 4
                rows = slice(round(middle - height), round(middle + height))
                inside = painted[rows, round(glyph.x0 + 0.5) : round(glyph.x1 - 0.5)]
                assert set(np.unique(inside)) <= {0, index}, (document.kind, leaf.text)
                inside[...] = index


def test_alignment_refuses_text_that_is_not_in_the_document():
    document = page(Lines(("abc",)))
    glyphs = [Glyph(char, 0, 0, 1, 1) for char in "abcd"]
    with pytest.raises(OtherGlyphsError, match="after its last text"):
        align(document, glyphs)
    with pytest.raises(OtherGlyphsError, match="where the document says"):
        align(document, [Glyph(char, 0, 0, 1, 1) for char in "abd"])
