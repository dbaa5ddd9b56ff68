"""Pages of PDFs in Debian's -doc packages that carry their text beside them, made from the same source.

The truth is the package's text file. Its sentences are looked for on a page by the PDF's text layer, which may differ
in one character in ten: so the layer says where a sentence stands, and not what it says.
"""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pypdfium2
from bench_pages import BenchPage
from bench_tests import MARKUP, PageTests, pick
from rapidfuzz import fuzz

# Package → its PDFs, each with the text of the same source, below usr/share.
PACKAGES = {
    "debian-faq": [("doc/debian/FAQ/debian-faq.en.pdf.gz", "doc/debian/FAQ/debian-faq.en.txt.gz")],
    "debian-policy": [
        ("doc/debian-policy/policy.pdf.gz", "doc/debian-policy/policy.txt.gz"),
        ("doc/debian-policy/fhs/fhs-3.0.pdf.gz", "doc/debian-policy/fhs/fhs-3.0.txt.gz"),
    ],
    "debmake-doc": [
        (f"doc/debmake-doc/debmake-doc.{language}.pdf", f"doc/debmake-doc/debmake-doc.{language}.txt.gz")
        for language in ("en", "de")
    ],
    "developers-reference": [
        ("developers-reference/developers-reference.pdf", "developers-reference/developers-reference.txt.gz")
    ],
}
LEAST_LIKENESS = 90
LENGTHS = range(45, 160)
PER_PAGE = 4


def debian_pages(folder: Path, seed: int, count: int) -> Iterator[BenchPage]:
    """`count` pages with `PER_PAGE` sentences each, spread evenly over the PDFs; see `unpack` for `folder`."""
    pairs = [pair for files in PACKAGES.values() for pair in files]
    for index, (pdf, text) in enumerate(pairs):
        share = count // len(pairs) + (index < count % len(pairs))
        known = source_sentences(read(folder / "usr/share" / text).decode())
        yield from pages_of(read(folder / "usr/share" / pdf), Path(pdf).name.split(".pdf")[0], known, seed, share)


def unpack(packages: Path) -> TemporaryDirectory[str]:
    """The packages' files (PACKAGE_VERSION_all.deb, as `apt-get download` leaves them) in a folder of their own."""
    target = TemporaryDirectory(prefix="parsit-bench-")
    for name in PACKAGES:
        found = sorted(packages.glob(f"{name}_*.deb"))
        if not found:
            target.cleanup()
            raise SystemExit(f"{packages}: no {name}_*.deb: cd {packages} && apt-get download {' '.join(PACKAGES)}")
        subprocess.run(["dpkg-deb", "--extract", str(found[-1]), target.name], check=True)
    return target


def read(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def source_sentences(text: str) -> list[str]:
    """Whole sentences of running text, once each, without what a reader may write otherwise (lists, code, links)."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        words = " ".join(paragraph.split())
        if re.match(r"[^A-ZÄÖÜ]", words) or not words.endswith("."):
            continue
        found += re.split(r"(?<=[a-zäöüß]\.) (?=[A-ZÄÖÜ])", words)
    whole = [
        one for one in found if len(one) in LENGTHS and one.endswith(".") and not re.search(r"[“”\"\[\]()/:]", one)
    ]
    return [one for one in dict.fromkeys(whole) if not MARKUP.search(one)]


def pages_of(data: bytes, title: str, known: list[str], seed: int, count: int) -> Iterator[BenchPage]:
    """Pages in an order that the seed draws, those on which enough of the known sentences stand."""
    rng = Random(f"{seed}/{title}")
    pdf = pypdfium2.PdfDocument(data)
    made = 0
    for number in rng.sample(range(len(pdf)), len(pdf)):
        if made == count:
            break
        standing = on_page(pdf[number].get_textpage().get_text_bounded(), known)
        if len(standing) >= PER_PAGE:
            made += 1
            yield debian_page(pdf, number, f"debian/{title}_{number + 1:03}.pdf", pick(rng, standing, PER_PAGE))
    assert made == count, f"{title} has {made} pages with {PER_PAGE} known sentences, {count} are asked for"
    pdf.close()


def debian_page(pdf: pypdfium2.PdfDocument, number: int, name: str, standing: list[str]) -> BenchPage:
    with TemporaryDirectory() as folder:
        single = pypdfium2.PdfDocument.new()
        single.import_pages(pdf, [number])
        single.save(Path(folder) / "page.pdf")
        single.close()
        data = (Path(folder) / "page.pdf").read_bytes()
    tests = PageTests(name)
    tests.present(standing)
    tests.order([standing[0], standing[-1]])
    return BenchPage(name, data, tuple(tests.found), "\n\n".join(standing))


def on_page(layer: str, known: list[str]) -> list[str]:
    """The known sentences that stand on a page, from its top to its end."""
    words = " ".join(re.sub(r"[-\u00ad\ufffe\x02]\s*\n", "", layer).split())
    found = []
    for sentence in known:
        # Cheap first: a sentence whose longest word is nowhere does not stand there.
        if max(sentence.split(), key=len).strip(".,;") in words:
            place = fuzz.partial_ratio_alignment(sentence, words)
            if place is not None and place.score >= LEAST_LIKENESS and len(sentence) <= len(words):
                found.append((place.dest_start, sentence))
    return [sentence for _, sentence in sorted(found)]
