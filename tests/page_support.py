"""Typeset pages as pictures, and what PDFium knows about them: which characters stand where, and in what order."""

from pathlib import Path

import pypdfium2 as pdfium
from PIL import Image

from parsit.parse.pages import PageFile

DPI = 150


def drawn(path: Path, number: int = 1) -> Image.Image:
    with PageFile(path, dpi=DPI) as file:
        return file.page(number).image


def lines_of(path: Path, number: int = 1) -> list[list[tuple[str, float, float]]]:
    """PDFium's lines: each character that is not a space with the pixel in the middle of its box."""
    with pdfium.PdfDocument(path) as pdf:
        page = pdf[number - 1]
        text, height, scale = page.get_textpage(), page.get_height(), DPI / 72
        lines: list[list[tuple[str, float, float]]] = [[]]
        for index in range(text.count_chars()):
            character = text.get_text_range(index, 1)
            if character in ("\r", "\n", "\r\n", "\x02", "\ufffe"):
                lines.append([])
            elif character.strip():
                left, bottom, right, top = text.get_charbox(index)
                lines[-1].append((character, (left + right) / 2 * scale, (height - (top + bottom) / 2) * scale))
    return [line for line in lines if line]


def read_through(boxes, path: Path, number: int = 1) -> list[str]:
    """What a perfect model would read in each box: the characters whose middle lies inside."""
    characters = [character for line in lines_of(path, number) for character in line]
    return ["".join(c for c, x, y in characters if b.x0 <= x < b.x1 and b.y0 <= y < b.y1) for b in boxes]


def texts(path: Path, number: int = 1) -> list[str]:
    return ["".join(c for c, _, _ in line) for line in lines_of(path, number)]
