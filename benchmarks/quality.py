"""How well, and how fast, Parsit, tesseract, RapidOCR and a classical reader read the same lines and pages.

    python benchmarks/quality.py --tesseract --rapidocr build/rapidocr/bin/python --model runs/tiny
    python benchmarks/quality.py --tesseract --rapidocr build/rapidocr/bin/python --model runs/better --keep
    python benchmarks/quality.py --peer build/ctc.safetensors --model runs/tiny --keep

Figures are in docs/quality.md; the peer's file is one that benchmarks/from_scratch.py has saved, and reads lines alone.
The sets (benchmarks/quality_sets.py) are made below --folder where they are not there yet. Every reader reads every
set in one run on this machine, one thread each, one after the other; seconds are of the processor (what other programs
take does not count) and of the clock. CER is edits over characters, summed over a set; case, punctuation and spaces
count, line breaks are spaces. How far a model's confidence can be believed is counted over all lines: a table and
calibration.png. What was read lies in --folder/readings; with --keep only what is not there yet is read, so that a new
model gets its column quickly. Needs the extras `eval` and `synth`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import quality_sets
from quality_readers import Answers, System, Unit
from quality_sets import SETS, Item

from parsit.scores import char_edits, normalize, ratio_interval

BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0 + 1e-9)
SURE = 0.9
NOT_READ = "–"
Readings = dict[str, Answers | None]  # by system; None: it cannot read such a set


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def unit_of(name: str) -> Unit:
    return "line" if name.startswith("lines") else "page"


def pairs(items: Sequence[Item], answers: Answers) -> list[tuple[str, str]]:
    """What stands there and what was read, white space as single spaces."""
    return [(normalize(item.text), normalize(text)) for item, text in zip(items, answers.texts, strict=True)]


def score(found: Sequence[tuple[str, str]] | None, is_line: bool, with_interval: bool) -> str:
    """CER with its 95 % interval, and of lines the share that is right to the character; a dash if nothing was read."""
    if found is None:
        return NOT_READ
    edits, lengths = [char_edits(*pair) for pair in found], [len(reference) for reference, _ in found]
    rate = ratio_interval(edits, lengths)
    text = f"{100 * rate.value:.1f} %"
    if with_interval:
        text += f" ({100 * rate.low:.1f}–{100 * rate.high:.1f})"
    if is_line:
        text += f", {100 * edits.count(0) / len(edits):.0f} % exact"
    return text


def score_rows(name: str, items: Sequence[Item], readings: Readings) -> Iterator[list[str]]:
    """A row for the set, and one for each kind in it."""
    scored = {system: pairs(items, answers) if answers else None for system, answers in readings.items()}
    is_line = unit_of(name) == "line"
    yield [f"**{name}**", str(len(items)), *(score(found, is_line, True) for found in scored.values())]
    for kind in dict.fromkeys(item.kind for item in items):
        places = [place for place, item in enumerate(items) if item.kind == kind]
        chosen = [[found[place] for place in places] if found else None for found in scored.values()]
        yield [kind, str(len(places)), *(score(found, is_line, False) for found in chosen)]


def speed_row(name: str, count: int, readings: Readings) -> list[str]:
    speeds = [
        f"{count / one.processor_s:.2f}, {count / one.wall_s:.2f}" if one else NOT_READ for one in readings.values()
    ]
    return [f"{name}, {unit_of(name)}s a second", *speeds]


def sure_lines(
    all_items: dict[str, list[Item]], readings: dict[str, Readings], system: str
) -> list[tuple[float, bool]]:
    """Of every line that a system read: how sure it was, and whether it was right."""
    found = []
    for name, items in all_items.items():
        if unit_of(name) == "line":
            answers = readings[name][system]
            assert answers, "every reader reads lines"
            for (reference, read), confidence in zip(pairs(items, answers), answers.confidences, strict=True):
                found += [(confidence, read == reference)] if confidence is not None else []
    return found


def calibration_rows(lines: Sequence[tuple[float, bool]]) -> Iterator[list[str]]:
    """For each span of confidence: how many lines, how sure on average, how many right."""
    for low, high in pairwise(BINS):
        inside = [line for line in lines if low <= line[0] < high]
        if inside:
            sure = sum(confidence for confidence, _ in inside) / len(inside)
            right = sum(is_right for _, is_right in inside) / len(inside)
            span = f"{low:g} to {min(high, 1):g}"
            yield [span, str(len(inside)), f"{100 * sure:.1f} %", f"{100 * right:.1f} %"]


def plot(rows: dict[str, list[list[str]]], file: Path) -> None:
    """How sure against how many right, a curve for each system; on the diagonal confidence is what it says."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel="confidence, %", ylabel="lines that are right, %", xlim=(0, 100), ylim=(0, 100))
    axes.plot([0, 100], [0, 100], linestyle=":", color="grey")
    for system, spans in rows.items():
        points = [(float(sure.rstrip(" %")), float(right.rstrip(" %"))) for _, _, sure, right in spans]
        axes.plot(*zip(*points, strict=True), marker="o", label=system)
    axes.legend()
    figure.savefig(file, dpi=150)


def report(all_items: dict[str, list[Item]], readings: dict[str, Readings], systems: Sequence[System]) -> str:
    """All tables in Markdown."""
    names = [system.name for system in systems]
    scores = [row for name, items in all_items.items() for row in score_rows(name, items, readings[name])]
    speeds = [speed_row(name, len(items), readings[name]) for name, items in all_items.items()]
    parts = [table(["CER", "n", *names], scores), table(["by the processor, by the clock", *names], speeds)]
    for name in names:
        lines = sure_lines(all_items, readings, name)
        if lines:
            above = [is_right for confidence, is_right in lines if confidence > SURE]
            parts.append(f"{name}: of {len(above)} lines above {SURE} (of {len(lines)}), {sum(above)} are right.")
            parts.append(table([f"confidence of {name}", "lines", "mean", "right"], list(calibration_rows(lines))))
    return "\n\n".join(parts) + "\n"


def systems_of(options: argparse.Namespace) -> list[System]:
    systems = [System(f"parsit {Path(model).name}", "parsit", model) for model in options.model]
    systems += [System("tesseract", "tesseract")] if options.tesseract else []
    systems += [System("RapidOCR", "rapidocr", options.rapidocr)] if options.rapidocr else []
    return systems + ([System("CNN + LSTM + CTC", "ctc", str(options.peer.absolute()))] if options.peer else [])


def read(options: argparse.Namespace, name: str, items: Sequence[Item], system: System) -> Answers | None:
    """What a system reads of a set; from its file, where that is wanted and there."""
    if not system.reads(unit_of(name)):
        return None
    file = options.folder / "readings" / f"{name}--{system.name.replace(' ', '-')}.json"
    if options.keep and file.exists():
        return Answers(**json.loads(file.read_text()))
    images = [(options.folder / name / item.image).absolute() for item in items]
    answers = system.read(images, unit_of(name), options.threads)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(asdict(answers), ensure_ascii=False, indent=1))
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[], metavar="FOLDER", help="models of ours")
    parser.add_argument("--tesseract", action="store_true", help="tesseract 5 (Debian: tesseract-ocr)")
    parser.add_argument("--rapidocr", metavar="PYTHON", help="the Python of an environment with rapidocr, onnxruntime")
    parser.add_argument("--peer", type=Path, metavar="FILE", help="a classical reader of benchmarks/from_scratch.py")
    parser.add_argument("--folder", type=Path, default=Path("build/quality"), help="for the sets and what was read")
    parser.add_argument("--sets", nargs="*", choices=SETS, default=SETS, help="all by default")
    parser.add_argument("--keep", action="store_true", help="read only what was not read before")
    parser.add_argument("--lines", type=int, default=240, help="lines of each set")
    parser.add_argument("--pages", type=int, default=60, help="pages of each set")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1, help="of each reader")
    options = parser.parse_args()
    systems = systems_of(options)
    if not systems:
        parser.error("name a reader: --model, --tesseract, --rapidocr, --peer")
    quality_sets.build(options.folder, options.sets, options.lines, options.pages, options.seed)
    all_items = {name: quality_sets.read(options.folder / name) for name in options.sets}
    readings: dict[str, Readings] = {}
    for name, items in all_items.items():
        readings[name] = {system.name: read(options, name, items, system) for system in systems}
        print(table([name, "n", *readings[name]], list(score_rows(name, items, readings[name]))), "\n", flush=True)
    text = report(all_items, readings, systems)
    print(text)
    (options.folder / "report.md").write_text(text)
    curves = {one.name: list(calibration_rows(sure_lines(all_items, readings, one.name))) for one in systems}
    if any(curves.values()):
        plot({name: rows for name, rows in curves.items() if rows}, options.folder / "calibration.png")


if __name__ == "__main__":
    main()
