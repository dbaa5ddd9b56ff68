"""Fonts of the user's own folders: which can be used, and that a page is set in none that lacks a character of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import matplotlib
import pypdfium2
import pytest
from fontTools.feaLib.builder import addOpenTypeFeaturesFromString
from fontTools.ttLib import TTFont

from parsit.synth import SynthSettings, synthesise
from parsit.synth.content import KINDS, make_document
from parsit.synth.fonts import FAMILIES, MONOSPACED, families_in, in_a_family_of
from parsit.synth.records import drawn
from parsit.synth.render import render, to_pdf
from parsit.synth.split import Fractions, Texts
from parsit.synth.tree import leaves
from parsit.types import InputError

SHIPPED = Path(matplotlib.__file__).parent / "mpl-data" / "fonts" / "ttf"
# A family of four faces, one of one width, one without accents or a euro, one of formulas' signs alone.
FILES = ("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf", "DejaVuSansMono.ttf", "cmss10.ttf",
         "STIXSizOneSymReg.ttf")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fonts")
    for name in FILES:
        shutil.copy(SHIPPED / name, folder)
    (folder / "notes.txt").write_text("no font")
    return folder


def documents():
    """Three documents of each kind."""
    texts = Texts(Fractions(0.05, 0.05), "train")
    return [make_document(kind, Random(f"fonts/{kind}/{n}"), texts) for kind in KINDS for n in range(3)]


def test_families_are_those_with_letters_and_digits(folder):
    found = {one.name: one for one in families_in((str(folder),))}
    assert list(found) == ["DejaVu Sans Mono", "DejaVu Serif", "cmss10"]
    assert [one.is_monospaced for one in found.values()] == [True, False, False]
    assert {"ä", "€", "’"} <= found["DejaVu Serif"].characters
    assert not {"ä", "€"} & found["cmss10"].characters


def test_a_page_is_set_in_a_family_that_has_all_its_characters(folder):
    families = families_in((str(folder),))
    has_all = {one.name: one.characters for one in families}
    used = set()
    for number, document in enumerate(documents()):
        for draw in range(8):
            chosen = in_a_family_of(families, document, Random(f"{number}/{draw}")).style.font
            used.add(chosen)
            assert (chosen in MONOSPACED) == (document.style.font in MONOSPACED)
            if chosen in has_all:
                text = "".join(leaf.text for leaf in leaves(document) if not leaf.opaque)
                assert set("".join(text.split())) <= has_all[chosen]
    assert {"DejaVu Serif", "cmss10"} < used
    assert used & (set(FAMILIES) - set(has_all)), "our own are used as well"


def test_what_is_printed_is_in_that_family(folder):
    fonts = (str(folder),)
    [family] = [one for one in families_in(fonts) if one.name == "DejaVu Serif"]
    ours = next(document for document in documents() if document.style.font not in MONOSPACED)
    set_in_it = next(
        document
        for draw in range(100)
        if (document := in_a_family_of([family], ours, Random(draw))).style.font == "DejaVu Serif"
    )
    assert b"DejaVuSerif" in to_pdf(set_in_it, fonts)
    page = render(set_in_it, 100, fonts)  # compares what is printed with the document, one by one
    assert page.leaves
    assert len(pypdfium2.PdfDocument(to_pdf(set_in_it, fonts))) == 1


def test_a_data_set_names_the_families_and_none_of_this_machine_s_places(folder, tmp_path):
    settings = SynthSettings(tmp_path / "set", 2, unit="line", fonts=(str(folder),), kinds=("letter",))
    synthesise(settings)
    summary = (tmp_path / "set" / "synth.json").read_text()
    assert json.loads(summary)["settings"]["fonts"] == ["DejaVu Sans Mono", "DejaVu Serif", "cmss10"]
    assert str(folder) not in summary


def test_folders_without_a_font_are_refused(folder, tmp_path):
    shutil.copy(SHIPPED / "STIXSizOneSymReg.ttf", tmp_path)
    (tmp_path / "broken.ttf").write_bytes((SHIPPED / "cmss10.ttf").read_bytes()[:2000])
    for place, words in ((tmp_path, "no font there"), (tmp_path / "none", "no such folder")):
        with pytest.raises(InputError, match=words):
            synthesise(SynthSettings(tmp_path / "set", 1, fonts=(str(place),)))
    assert not (tmp_path / "set").exists()


@pytest.mark.slow
def test_a_page_that_a_font_draws_with_other_signs_is_set_in_one_of_ours(tmp_path):
    """As fonts of code do, where `...` is a wide glyph after two empty ones, by rules that are on whatever one asks."""
    font = TTFont(SHIPPED / "DejaVuSans.ttf")
    addOpenTypeFeaturesFromString(font, "feature ccmp { sub period' period by space; } ccmp;")
    (tmp_path / "fonts").mkdir()
    font.save(tmp_path / "fonts" / "dots.ttf")
    settings = SynthSettings(tmp_path / "set", 12, kinds=("manual",), fonts=(str(tmp_path / "fonts"),), tasks=("read",))
    texts = Texts(settings.fractions, "train")
    made = [make_document("manual", Random(f"dots/{number}"), texts) for number in range(40)]
    for with_dots in (True, False):
        chosen = [one for one in made if with_dots == any("..." in leaf.text for leaf in leaves(one))]
        fonts = {drawn(settings, one, Random(draw)).document.style.font for one in chosen for draw in range(3)}
        assert ("DejaVu Sans" in fonts) == (not with_dots)
