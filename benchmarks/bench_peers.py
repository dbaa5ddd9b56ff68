"""Other readers over a bench set, each into a folder of Markdown for --candidates of `parsit eval --bench olmocr`.

    python benchmarks/bench_peers.py text-layer --set build/bench --out build/peers/text-layer
    python benchmarks/bench_peers.py tesseract --set build/bench --out build/peers/tesseract
    build/peers-env/bin/python benchmarks/bench_peers.py rapidocr --set build/bench --out build/peers/rapidocr

Needs pypdfium2 and Pillow, and of the readers what is asked for: the program `tesseract`, or the package `rapidocr`
with onnxruntime (in an environment of its own). Nothing of Parsit. Each reader has its defaults; pages are drawn at
--dpi. A page that is there already is not read again.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pypdfium2
from PIL import Image


def tesseract(page: pypdfium2.PdfPage, dpi: int) -> str:
    """English models, automatic segmentation."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.png"
        draw(page, dpi).save(path, dpi=(dpi, dpi))
        command = ["tesseract", str(path), "-", "-l", "eng"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def rapidocr_reader() -> Callable[[pypdfium2.PdfPage, int], str]:
    """The default models, one thread; lines in the order in which they are given out.

    Several threads wait for each other by spinning: beside other programs a page took minutes.
    """
    import numpy as np
    from rapidocr import RapidOCR

    engine = RapidOCR(params={"EngineConfig.onnxruntime.intra_op_num_threads": 1})

    def read(page: pypdfium2.PdfPage, dpi: int) -> str:
        found = engine(np.asarray(draw(page, dpi))[:, :, ::-1])
        return "\n".join(found.txts or ())

    return read


def text_layer(page: pypdfium2.PdfPage, dpi: int) -> str:
    """PDFium's text, as it comes."""
    return page.get_textpage().get_text_bounded().replace("\r\n", "\n")


def draw(page: pypdfium2.PdfPage, dpi: int) -> Image.Image:
    return page.render(scale=dpi / 72).to_pil().convert("RGB")


def processor_seconds() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=("tesseract", "rapidocr", "text-layer"))
    parser.add_argument("--set", type=Path, required=True, dest="bench")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dpi", type=int, default=200)
    args = parser.parse_args()
    readers = {"tesseract": lambda: tesseract, "rapidocr": rapidocr_reader, "text-layer": lambda: text_layer}
    read = readers[args.system]()
    pages, started, used = 0, time.monotonic(), processor_seconds()
    for path in sorted((args.bench / "pdfs").rglob("*.pdf")):
        with pypdfium2.PdfDocument(path) as pdf:
            for number in range(len(pdf)):
                name = path.relative_to(args.bench / "pdfs").with_suffix("")
                out = args.out / f"{name}_pg{number + 1}_repeat1.md"
                if not out.exists():
                    text = read(pdf[number], args.dpi)
                    out.parent.mkdir(parents=True, exist_ok=True)
                    out.write_text(text, encoding="utf-8")
                    pages += 1
    seconds, used = time.monotonic() - started, processor_seconds() - used
    each = used / max(pages, 1)
    print(f"{args.system}: {pages} pages, {used:.0f} processor seconds ({each:.2f} a page), {seconds:.0f} s")


if __name__ == "__main__":
    main()
