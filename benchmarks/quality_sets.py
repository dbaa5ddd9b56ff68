"""What benchmarks/quality.py has read: pictures of lines and pages, with what stands on them, that nobody trained on.

Synthetic texts belong to the test split, which their own hash decides, so that no training data of `parsit data synth`
holds them, whatever its seed; `lines-fonts` sets such texts in fonts that `synth` does not have. Pages of PDFs are
those of recipes/tiny/held-out-packages.txt that pass the gate of `parsit data from-pdf`. Packages are fetched by
`apt-get download` and unpacked below the set's folder; nothing is installed.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from parsit.parse.lines import split_lines
from parsit.parse.reader import MAX_LINE_ASPECT
from parsit.synth.content import DEFAULT_KINDS, make_document
from parsit.synth.degrade import Degrade, cut, draw_damage, encode, wear
from parsit.synth.from_pdf import FromPdfSettings, make_from_pdfs
from parsit.synth.records import make_page, page_kind, page_split
from parsit.synth.render import render
from parsit.synth.settings import SynthSettings
from parsit.synth.split import Texts
from parsit.synth.tree import leaves

HELD_OUT = Path(__file__).parents[1] / "recipes" / "tiny" / "held-out-packages.txt"
FONT_PACKAGES = ("fonts-liberation2", "fonts-courier-prime", "fonts-ebgaramond", "fonts-open-sans", "fonts-inconsolata")
# Names of translations: NAME.de.pdf, refcard-pt_BR-a4.pdf; and groff's French example.
NOT_ENGLISH = re.compile(r"[-._](?!en\b)[a-z]{2}([-_][A-Za-z]{2})?(-a4)?$|^mon_premier_doc$")
STYLES = ("-Regular", "-Bold", "-Italic")
DPI = 150
LINE_SETS: dict[str, tuple[Degrade, tuple[str, ...]]] = {
    "lines-clean": ("none", DEFAULT_KINDS),
    "lines-degraded": ("full", DEFAULT_KINDS),
    "lines-manual": ("light", ("manual",)),
}
PAGE_SETS: dict[str, Degrade] = {"pages-clean": "none", "pages-degraded": "full"}
SETS = (*LINE_SETS, "lines-fonts", *PAGE_SETS, "pages-pdf")


@dataclass(frozen=True)
class Item:
    """A picture (its path from the set's folder), what stands on it, and what kind of thing it is."""

    image: str
    text: str
    kind: str


def build(folder: Path, names: Sequence[str], lines: int, pages: int, seed: int) -> None:
    """Make sets below `folder`, each as large as asked for; those that are there stay.

    Raises `FileNotFoundError` without `apt-get`, and `CalledProcessError` where a package cannot be fetched.
    """
    for name in names:
        if (folder / name / "truth.jsonl").exists():
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        if name in LINE_SETS:
            items = synthetic_lines(folder / name, lines, *LINE_SETS[name], seed)
        elif name in PAGE_SETS:
            items = synthetic_pages(folder / name, pages, PAGE_SETS[name], seed)
        elif name == "lines-fonts":
            items = other_fonts(folder, lines, seed)
        else:
            items = pdf_pages(folder, pages, seed)
        write(folder / name, items)


def write(folder: Path, items: Iterable[Item]) -> None:
    rows = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items)
    (folder / "truth.jsonl").write_text(rows, encoding="utf-8")


def read(folder: Path) -> list[Item]:
    """The items of one set."""
    return [Item(**json.loads(row)) for row in (folder / "truth.jsonl").read_text(encoding="utf-8").splitlines()]


def held_out_numbers(settings: SynthSettings, kind: str) -> Iterator[int]:
    """The numbers of pages of a kind whose texts are all of the test split."""
    for number in itertools.count():
        if page_split(settings, number) == "test" and page_kind(settings, number) == kind:
            yield number


def synthetic_lines(folder: Path, count: int, level: Degrade, kinds: tuple[str, ...], seed: int) -> Iterator[Item]:
    """Crops of pages, cut as `parsit parse` cuts them (`parsit data synth --cut reader`), equally many of each kind."""
    settings = SynthSettings(folder, 1, seed, kinds=kinds, unit="line", cut="reader", degrade=level)
    for kind in kinds:
        made = (item for number in held_out_numbers(settings, kind) for item in crops(settings, number, kind))
        yield from itertools.islice(made, count // len(kinds))


def crops(settings: SynthSettings, number: int, kind: str) -> Iterator[Item]:
    for row in make_page(settings, settings.out, number).lines:
        record = json.loads(row)
        yield Item(record["image"], record["conversations"][1]["value"], kind)


def other_fonts(folder: Path, count: int, seed: int) -> Iterator[Item]:
    """The texts of `lines-clean` that are ASCII, in fonts that `synth` lacks, 8 to 13 points at 96 to 200 dpi.

    In a wide font a text may be wider than `parsit parse` lets a crop be: then its end is left out.
    """
    build(folder, ["lines-clean"], count, 0, seed)
    files = [file for package in FONT_PACKAGES for file in font_files(unpacked(folder / "packages", package))]
    texts = [item.text for item in read(folder / "lines-clean") if item.text.isascii()]
    rng = Random(f"{seed}/fonts")
    for number, text in enumerate(itertools.islice(itertools.cycle(texts), count)):
        file = files[number % len(files)]
        font = ImageFont.truetype(str(file), round(rng.uniform(8, 13) * rng.randint(96, 200) / 72))
        while (picture := drawn(text, font)).width > MAX_LINE_ASPECT * picture.height:
            text = text[:-1].rstrip()
        picture.save(folder / "lines-fonts" / f"{number:04}.png")
        yield Item(f"{number:04}.png", text, file.stem.split("-")[0].rstrip("0123456789"))


def font_files(package: Path) -> list[Path]:
    found = sorted(file for file in package.rglob("*") if file.suffix in (".ttf", ".otf"))
    return [file for file in found if file.stem.endswith(STYLES)]


def drawn(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """A line in black on white paper, cut as `parsit parse` cuts it."""
    left, _, right, _ = font.getbbox(text)
    height = sum(font.getmetrics())
    paper = Image.new("RGB", (round(right - left) + 2 * height, 3 * height), "white")
    ImageDraw.Draw(paper).text((height - left, height), text, font=font, fill="black")
    boxes = split_lines(paper)
    picture = paper.crop((boxes[0].x0, min(b.y0 for b in boxes), boxes[-1].x1, max(b.y1 for b in boxes)))
    return picture


def synthetic_pages(folder: Path, count: int, level: Degrade, seed: int) -> Iterator[Item]:
    """Whole pages at 150 dpi, equally many of each kind, without formulas: their text has no agreed plain form."""
    settings = SynthSettings(folder, 1, seed, degrade=level)
    for kind in DEFAULT_KINDS:
        made = (synthetic_page(settings, number, kind) for number in held_out_numbers(settings, kind))
        yield from itertools.islice((item for item in made if item), count // len(DEFAULT_KINDS))


def synthetic_page(settings: SynthSettings, number: int, kind: str) -> Item | None:
    rng = Random(f"{settings.seed}/{number}")
    document = make_document(kind, rng, Texts(settings.fractions, "test"))
    if any(leaf.opaque for leaf in leaves(document)):
        return None
    page = render(document, DPI)
    damage = draw_damage(rng, settings.degrade, DPI)
    turned, _ = cut(page.image, (0, 0, page.image.width, page.image.height), damage.skew_deg)
    name = f"{number:06}.{damage.suffix}"
    (settings.out / name).write_bytes(
        encode(wear(turned, damage, np.random.default_rng([settings.seed, number])), damage)
    )
    return Item(name, "\n".join(leaf.text for leaf in page.leaves), kind)


def pdf_pages(folder: Path, count: int, seed: int) -> Iterator[Item]:
    """Pages at 150 dpi of the held-out packages, from each package in turn."""
    packages = held_out_packages()
    for package in packages:
        copy_pdfs(unpacked(folder / "packages", package), folder / "pdfs", package)
    most = 2 * -(-count // len(packages))
    out = folder / "pages-pdf"
    whole = {"validation_fraction": 0.0, "test_fraction": 0.0, "overwrite": True}
    make_from_pdfs(FromPdfSettings(folder / "pdfs", out, (DPI, DPI), most, seed=seed, **whole))
    items: dict[str, list[Item]] = {package: [] for package in packages}
    for row in (out / "train.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(row)
        package = record["id"].partition("--")[0]
        items[package].append(Item(record["image"], record["conversations"][1]["value"], package))
    for package in packages:
        Random(f"{seed}/{package}").shuffle(items[package])
    turns = itertools.zip_longest(*items.values())
    return itertools.islice((item for turn in turns for item in turn if item), count)


def held_out_packages() -> list[str]:
    rows = HELD_OUT.read_text().splitlines()
    return [row.strip() for row in rows if row.strip() and not row.startswith("#")]


def unpacked(folder: Path, package: str) -> Path:
    """A Debian package's files, fetched where they are not there yet."""
    target = folder / package
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package], cwd=folder, check=True)
        [archive] = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", archive, target], check=True)
    return target


def copy_pdfs(source: Path, target: Path, package: str) -> None:
    """The English PDFs of an unpacked package as PACKAGE--NAME.pdf, those that Debian has compressed as well."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.rglob("*.pdf*")):
        if file.is_symlink() or not file.name.endswith((".pdf", ".pdf.gz")):
            continue
        name = file.name.removesuffix(".gz")
        if NOT_ENGLISH.search(name.removesuffix(".pdf")):
            continue
        data = file.read_bytes()
        (target / f"{package}--{name}").write_bytes(gzip.decompress(data) if file.suffix == ".gz" else data)
