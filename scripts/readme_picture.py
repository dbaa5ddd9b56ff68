"""The README's picture: a page of the Apache License as a PDF, and beside it what the model in the package reads on it.

python scripts/readme_picture.py [--model MODEL] [--pdf FILE.pdf] [--page 1] [--out docs/page-and-reading.png]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib
from demo import write_pdf
from PIL import Image, ImageDraw, ImageFont

import parsit
from parsit.parse.pages import PageFile

HEIGHT, MARGIN, TEXT_WIDTH, COLOURS = 760, 24, 660, 32
FONT_WIDTH = 0.602  # of a character of the font below, in font sizes
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"


def beside(page: Image.Image, text: str) -> Image.Image:
    """The page on the left, the text on the right, all of its lines."""
    page = page.convert("L").resize((round(page.width * HEIGHT / page.height), HEIGHT), Image.Resampling.LANCZOS)
    picture = Image.new("L", (page.width + TEXT_WIDTH + 3 * MARGIN, HEIGHT + 2 * MARGIN), 236)
    picture.paste(page, (MARGIN, MARGIN))
    draw, left = ImageDraw.Draw(picture), page.width + 2 * MARGIN
    draw.rectangle((left, MARGIN, left + TEXT_WIDTH, MARGIN + HEIGHT), fill=255)
    lines = text.splitlines()
    step = min(20.0, (HEIGHT - 24) / max(len(lines), 1))
    widest = max(map(len, lines), default=1)
    font = ImageFont.truetype(FONT, min(0.8 * step, (TEXT_WIDTH - 24) / (FONT_WIDTH * widest)))
    for number, line in enumerate(lines):
        draw.text((left + 12, MARGIN + 12 + number * step), line, fill=0, font=font)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: the model in the package")
    parser.add_argument("--pdf", type=Path, help="default: the project's licence")
    parser.add_argument("--page", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/page-and-reading.png"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pdf = options.pdf or Path(folder) / "licence.pdf"
        if options.pdf is None:
            write_pdf(pdf)
        document = parsit.load(options.model).parse(pdf, pages=str(options.page))
        with PageFile(pdf, dpi=110) as file:
            picture = beside(file.page(options.page).image, document.pages[0].text)
    picture.quantize(COLOURS).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
