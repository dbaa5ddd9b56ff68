"""A set in olmOCR-bench's layout, made from documents whose sources are known.

    mkdir -p build/deb && (cd build/deb && apt-get download debian-faq debian-policy debmake-doc developers-reference)
    python benchmarks/bench_set.py --out build/bench --debian build/deb

Writes pdfs/CATEGORY/NAME.pdf (a page each), CATEGORY.jsonl with its tests, and truth/CATEGORY/NAME_pg1_repeat1.md,
what a perfect reader writes: as a candidate it passes every test, or the test is wrong. Of Debian's pages the truth
holds what is tested. The tests depend on the seed, on Parsit's version and on those of the packages, all of which
set.txt names.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from bench_debian import PACKAGES, debian_pages, unpack
from bench_pages import BenchPage, synthetic_pages

from parsit.files import whole_folder


def write_page(folder: Path, category: str, page: BenchPage) -> None:
    for path, data in (
        (folder / "pdfs" / page.pdf, page.data),
        (folder / "truth" / f"{page.pdf.removesuffix('.pdf')}_pg1_repeat1.md", page.markdown.encode()),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with (folder / f"{category}.jsonl").open("a", encoding="utf-8") as tests:
        tests.writelines(json.dumps(test, ensure_ascii=False) + "\n" for test in page.tests)


def make_set(folder: Path, seed: int, count: int, debian: Path | None) -> Counter[str]:
    """Write all pages; the number of tests of each kind, and of pages."""
    counts: Counter[str] = Counter()
    pages = list(synthetic_pages(seed, count))
    if debian is not None:
        with unpack(debian) as unpacked:
            pages += [("debian", page) for page in debian_pages(Path(unpacked), seed, max(1, count // 4))]
    for category, page in pages:
        write_page(folder, category, page)
        counts["pages"] += 1
        counts.update(str(test["type"]) for test in page.tests)
    return counts


def about(seed: int, debian: Path | None, counts: Counter[str]) -> str:
    lines = [f"seed {seed}"] + [f"{name} {version(name)}" for name in ("parsit", "typst", "pypdfium2", "pillow")]
    lines += [path.name for name in PACKAGES for path in sorted(debian.glob(f"{name}_*.deb"))[-1:]] if debian else []
    return "\n".join([*lines, *(f"{number} {what}" for what, number in counts.items())]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--pages", type=int, default=120, help="synthetic pages; a quarter as many of Debian's come on top"
    )
    parser.add_argument(
        "--debian", type=Path, help="folder of the packages; without it there are synthetic pages alone"
    )
    args = parser.parse_args()
    if args.out.exists():
        raise SystemExit(f"{args.out} exists: remove it or choose another --out")
    with whole_folder(args.out, synced=False) as folder:
        counts = make_set(folder, args.seed, args.pages, args.debian)
        (folder / "set.txt").write_text(about(args.seed, args.debian, counts))
    tests = counts.total() - counts["pages"]
    print(f"{counts['pages']} pages, {tests} tests in {args.out}: {dict(counts)}")


if __name__ == "__main__":
    main()
