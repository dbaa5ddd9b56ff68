"""`make demo`: the shipped model reads a PDF, meets paper that it is bad at, is fine-tuned on it, and reads it.

At most eight minutes on two busy cores: training stops when its time is up, wherever it stands. Every step is a verb of
the command line, printed before it runs, so that each can be tried alone. Afterwards demo/ holds what was read
(demo/licence.md), the data, the run (demo/run) and demo/report.html. `make demo PDF=file.pdf` reads the first pages
of a PDF of yours as well and shows in the report how well, by its own text layer.
"""

from __future__ import annotations

import _thread
import json
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parsit.eval import Evaluation, PageReading
    from parsit.parse.engine import ModelEngine

DEMO = Path("demo")
LICENCE = Path(__file__).parents[1] / "LICENSE"
SEED = 0
PAGES = 80
TRAINED, EVALUATED, VALIDATED = 400, 200, 60
NOTE_ROWS, NOTE_COLUMN = 14, 26  # of the delivery note that is read whole
TRAINING_SECONDS = float(os.environ.get("PARSIT_DEMO_TRAINING_SECONDS", "150"))
# When training is stopped that was meant to take TRAINING_SECONDS: a machine may be busier than when it was measured.
MOST_TRAINING_SECONDS = 1.2 * TRAINING_SECONDS
TIMED_STEPS, WARM_UP_STEPS, MOST_TIMING_SECONDS = 30, 10, 40.0
MAX_NEW_TOKENS = 48
READ_PAGES = 2
# Ordinary crops among those that are learnt, so that the rest is not forgotten.
ORDINARY = 400

steps: list[tuple[str, float]] = []


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step and note how long it took."""
    print(f"\n=== {title}", file=sys.stderr, flush=True)
    started = time.perf_counter()
    yield
    steps.append((title, time.perf_counter() - started))


def verb(*arguments: str) -> None:
    """Run `parsit VERB …` in this process, shown as it would be typed."""
    from parsit.cli.main import dispatch

    print("$ parsit " + " ".join(arguments), file=sys.stderr, flush=True)
    code = dispatch(list(arguments))
    if code:
        sys.exit(code)


def fine_tune(
    model: str, data: list[Path], output_dir: Path, max_steps: int, most_seconds: float, *more: str
) -> list[dict[str, float]]:
    """Train a model further, at most so long; the entries of metrics.jsonl, fewer than `max_steps` if time ran out."""
    files = [str(file) for file in data]
    with time_limit(most_seconds):
        verb(
            "train", "tiny/finetune", "--model_name_or_path", model, "--data", *files, "--output_dir", str(output_dir),
            "--max_steps", str(max_steps), *more,
        )  # fmt: skip
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop a training run within, after so many seconds: as SIGTERM would, so that it saves where it stands."""
    done, asked = threading.Event(), threading.Event()

    def wait_and_ask() -> None:
        done.wait(seconds)
        # A run that still prepares does not listen yet.
        while not done.is_set() and not callable(signal.getsignal(signal.SIGTERM)):
            done.wait(0.1)
        if not done.is_set():
            asked.set()
            _thread.interrupt_main(signal.SIGTERM)

    threading.Thread(target=wait_and_ask, daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        if not asked.is_set():
            raise
    finally:
        done.set()


def measured_steps(model: str, data: list[Path]) -> int:
    """As many steps as fit into TRAINING_SECONDS on this machine, by a short run that is thrown away.

    The steps are fixed before training starts, so that the learning rate follows the steps and the
    same number of steps gives the same model.
    """
    timing = DEMO / "timing"
    entries = fine_tune(model, data, timing, TIMED_STEPS, MOST_TIMING_SECONDS)
    entries = entries[WARM_UP_STEPS:] or entries
    shutil.rmtree(timing)
    seconds = sum(entry["samples"] / entry["samples_per_s"] for entry in entries)
    return max(50, int(TRAINING_SECONDS * len(entries) / seconds))


def main(own_pdf: Path | None) -> None:
    """The whole demo."""
    from parsit.cli.console import quiet_libraries, say
    from parsit.cli.process import wait_passively
    from parsit.hub import default_model
    from parsit.types import UsageError

    try:
        model, _ = default_model()
    except UsageError as error:
        sys.exit(f"make demo: {error}")
    if DEMO.exists():
        shutil.rmtree(DEMO)
    DEMO.mkdir()
    wait_passively()
    quiet_libraries()
    pdfs = [DEMO / "licence.pdf", *([own_pdf] if own_pdf else [])]
    with step("Read a PDF with the model that comes with Parsit"):
        write_pdf(pdfs[0])
        for pdf in pdfs:
            verb("parse", str(pdf), "--pages", first_pages(pdf), "--out", str(DEMO / f"{pdf.stem}.md"))
    data = DEMO / "data"
    with step("Make what it is bad at: delivery notes of a dot-matrix printer"):
        verb(
            "data", "synth", "--out", str(data), "--pages", str(PAGES), "--seed", str(SEED), "--unit", "line",
            "--kinds", "invoice,form,receipt", "--validation_fraction", "0.15", "--test_fraction", "0.25",
        )  # fmt: skip
        counts = {"train": TRAINED, "validation": VALIDATED, "test": EVALUATED}
        notes = {split: write_crops(data / f"{split}.jsonl", count) for split, count in counts.items()}
        tests = {"notes": notes["test"], "ordinary": some_of(data / "test.jsonl", EVALUATED)}
        learnt = [notes["train"], some_of(data / "train.jsonl", ORDINARY)]
    with step("Score it on held-out crops"):
        before = {name: score(model, file) for name, file in tests.items()}
    with step("Measure this machine"):
        max_steps = measured_steps(model, learnt)
        say(f"{max_steps} steps fit into {TRAINING_SECONDS:.0f} s")
    with step(f"Fine-tune on {TRAINED} crops of delivery notes and {ORDINARY} of other documents"):
        trained_steps = len(fine_tune(
            model, learnt, DEMO / "run", max_steps, MOST_TRAINING_SECONDS, "--eval_data", str(notes["validation"]),
            "--eval_steps", str(max(25, max_steps // 6)), "--logging_steps", "50",
        ))  # fmt: skip
    with step("Score it again"):
        after = {name: score(str(DEMO / "run"), file) for name, file in tests.items()}
    with step("Read a whole delivery note, before and after. Does it look at the page?"):
        report = measure(model, pdfs, notes, before, after, cut_short(trained_steps, max_steps))
    write(report(steps))
    say(gain(before["notes"], after["notes"]))
    say(f"report: {DEMO / 'report.html'}")


def cut_short(trained_steps: int, max_steps: int) -> tuple[str, ...]:
    """What the report says of a run whose time ran out."""
    if trained_steps == max_steps:
        return ()
    return (
        f"Training was stopped after {MOST_TRAINING_SECONDS:.0f} s, at step {trained_steps} of {max_steps}: the "
        "machine was slower than when it was measured. A run that reaches its end, with the lowest learning rate, "
        "reads better.",
    )


def some_of(path: Path, count: int) -> Path:
    """A file with `count` records of `path`, evenly spread, beside it."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    chosen = [lines[i * len(lines) // count] for i in range(min(count, len(lines)))]
    part = path.with_name(f"{path.stem}-{count}.jsonl")
    part.write_text("".join(chosen), encoding="utf-8")
    return part


def texts_of(path: Path) -> list[str]:
    """The true texts of a file of records, in order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["conversations"][1]["value"] for line in lines]


def write_crops(path: Path, count: int) -> Path:
    """Crops of delivery notes with texts of `path`, so that the splits share none; the file of their records."""
    from dot_matrix import print_crop, printable

    rng = Random(f"{SEED}/{path.stem}")
    texts = list(dict.fromkeys(text for text in texts_of(path) if printable(text)))
    folder = path.parent / "notes" / path.stem
    folder.mkdir(parents=True)
    with (path.parent / f"notes-{path.stem}.jsonl").open("w", encoding="utf-8") as file:
        for number, text in enumerate(rng.sample(texts, min(count, len(texts)))):
            image = folder / f"{number:03}.png"
            print_crop(text, rng).save(image)
            turns = [{"from": "human", "value": "<image>\nRead the text."}, {"from": "gpt", "value": text}]
            record = {"id": image.stem, "image": str(image.relative_to(path.parent)), "conversations": turns}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return Path(file.name)


def write_note(path: Path, texts: list[str]) -> str:
    """A delivery note of held-out texts in two columns, as a picture; what stands on it."""
    from dot_matrix import Printer, print_rows

    short = [text for text in texts if len(text) <= NOTE_COLUMN - 4]
    short = short[: 2 * min(NOTE_ROWS, len(short) // 2)]
    rows = [
        "DELIVERY NOTE",
        "",
        *(f"{one:<{NOTE_COLUMN}}{two}" for one, two in zip(short[::2], short[1::2], strict=True)),
    ]
    note = print_rows(rows, Printer(2.3, 0.45, 50, 245, 0.01), Random(SEED))
    note.save(path)
    return "\n".join(["DELIVERY NOTE", *short])


def write_pdf(path: Path) -> None:
    """The project's licence as an A4 PDF: real prose, which is in no training data."""
    import typst

    text = LICENCE.read_text(encoding="utf-8")
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    body = "\n\n".join(f"#{json.dumps(part, ensure_ascii=False)}" for part in paragraphs)
    head = '#set page(paper: "a4", margin: 22mm)\n#set text(font: "Libertinus Serif", size: 11pt)\n'
    path.write_bytes(typst.compile((head + body).encode()))


def first_pages(pdf: Path) -> str:
    """The pages that are read, as `--pages` takes them: at most `READ_PAGES`."""
    from parsit.parse.pages import PageFile

    with PageFile(pdf) as file:
        return f"1-{min(file.page_count, READ_PAGES)}"


def score(model: str, data: Path) -> Evaluation:
    """What `parsit eval` prints and writes, shown as that command."""
    from parsit.cli.eval import evaluate_engine, print_scores
    from parsit.data.files import read_files
    from parsit.parse.engine import load_engine

    print(f"$ parsit eval {model} --data {data} --max_new_tokens {MAX_NEW_TOKENS}", file=sys.stderr, flush=True)
    engine = load_engine(model, batch_size=16)
    evaluation = evaluate_engine(engine, read_files([data]), MAX_NEW_TOKENS, "scoring")
    print_scores(evaluation)
    return evaluation


def pdf_readings(pdf: Path, engine: ModelEngine) -> list[PageReading]:
    """The first pages of a PDF as the model reads them, beside their text layer."""
    from parsit.eval import PageReading
    from parsit.parse.pages import PageFile
    from parsit.parse.reader import Reader
    from parsit.types import ImageRef

    document = Reader(engine).parse(pdf, pages=first_pages(pdf))
    with PageFile(pdf, dpi=100) as file:
        return [
            PageReading(
                source=f"{pdf.name}, by the model that comes with Parsit", number=page.number,
                image=ImageRef(file.page(page.number).image), prediction=page.text,
                reference=file.text_layer(page.number), reference_source="the PDF's own text layer", flags=page.flags,
                seconds=page.seconds, how="cut into lines, and long lines into pieces, which the model read one by one",
            )
            for page in document.pages
        ]  # fmt: skip


def note_reading(note: Path, truth: str, engine: ModelEngine, when: str) -> PageReading:
    """The delivery note as a model reads it."""
    from parsit.eval import PageReading
    from parsit.parse.reader import Reader
    from parsit.types import ImageRef

    (page,) = Reader(engine).parse(note).pages
    return PageReading(
        source=f"{note.name}, {when}", number=1, image=ImageRef(note), prediction=page.text, reference=truth,
        reference_source="what was printed", flags=page.flags, seconds=page.seconds,
    )  # fmt: skip


def measure(
    model: str,
    pdfs: list[Path],
    notes: dict[str, Path],
    before: dict[str, Evaluation],
    after: dict[str, Evaluation],
    remarks: tuple[str, ...],
) -> Callable[[list[tuple[str, float]]], object]:
    """Read whole pages with both models; returns what makes the report once all steps are timed."""
    import yaml

    from parsit.data.files import read_files
    from parsit.eval import DemoReport, StepTime, grounding_report
    from parsit.files.run_folder import find_model
    from parsit.parse.engine import load_engine

    shipped, tuned = load_engine(model, batch_size=16), load_engine(DEMO / "run", batch_size=16)
    truth = write_note(DEMO / "note.png", texts_of(notes["test"]))
    pages = [reading for pdf in pdfs for reading in pdf_readings(pdf, shipped)]
    pages += [
        note_reading(DEMO / "note.png", truth, shipped, "before fine-tuning"),
        note_reading(DEMO / "note.png", truth, tuned, "after fine-tuning"),
    ]
    samples = read_files([notes["test"]])
    looking = grounding_report(
        samples, lambda turns: tuned.generate(turns, max_new_tokens=MAX_NEW_TOKENS), tuned.nats,
        texts_of(notes["train"]), batch_size=16, evaluation=after["notes"],
    )  # fmt: skip
    settings = yaml.safe_load((find_model(DEMO / "run") / "train_config.yaml").read_text())
    packages = ("parsit", "torch", "transformers", "tokenizers", "pillow", "pypdfium2", "typst")

    def report(times: list[tuple[str, float]]) -> DemoReport:
        return DemoReport(
            title="parsit-tiny reads, and learns to read a printer of its own in minutes",
            introduction=(*introduction(shipped.model.num_parameters(), before, after), *remarks),
            samples=tuple(samples), evaluation=after["notes"], grounding=looking,
            metrics=DEMO / "run" / "metrics.jsonl", evaluation_before=before["notes"], pages=tuple(pages),
            settings=settings, versions={"python": platform.python_version(), **{p: version(p) for p in packages}},
            machine={"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
            steps=tuple(StepTime(name, seconds) for name, seconds in times),
        )  # fmt: skip

    return report


def introduction(num_parameters: int, before: dict[str, Evaluation], after: dict[str, Evaluation]) -> tuple[str, ...]:
    """What was done, and what it cost where nothing was to change."""
    count = after["notes"].summary.count
    elsewhere = [f"{scores['ordinary'].summary.normalized.cer.value:.3f}" for scores in (before, after)]
    return (
        f"The model that comes with Parsit ({num_parameters:,} parameters) read the pages below as it is. Then it was "
        f"fine-tuned on this machine on {TRAINED} crops of delivery notes from dot-matrix printers, which it had never "
        f"met, beside {ORDINARY} of other documents. Scores are on {count} crops of such notes whose texts were in "
        "none of them.",
        f"On {after['ordinary'].summary.count} held-out crops of other documents its CER was {elsewhere[0]} before and "
        f"{elsewhere[1]} after: what the new kind did to what it could read already.",
    )


def gain(before: Evaluation, after: Evaluation) -> str:
    """What fine-tuning won, in a line."""
    (cer, exact), (new_cer, new_exact) = (
        (scores.cer.value, scores.exact_match.value) for scores in (before.summary.normalized, after.summary.normalized)
    )
    return (
        f"\n{after.summary.count} held-out crops of delivery notes: CER {cer:.3f} -> {new_cer:.3f}, exactly right "
        f"{exact:.1%} -> {new_exact:.1%}"
    )


def write(report: object) -> None:
    """Write demo/report.html."""
    from parsit.eval import write_demo_report

    write_demo_report(DEMO / "report.html", report)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
