"""`make demo`: documents, a model from scratch, its scores, a PDF that it reads, a report.

Under ten minutes on two cores: training stops when its time is up, wherever it stands. Every step is a verb of the
command line, printed before it runs, so that each can be tried alone. Afterwards demo/ holds the data, the run
(demo/run), what was read (demo/sample.md) and demo/report.html. `make demo PDF=file.pdf` reads the first pages of a PDF
of yours as well and shows in the report how well, by its own text layer.
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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parsit.eval import PageReading
    from parsit.parse.reader import Reader

DEMO = Path("demo")
SEED = 0
PAGES = 900
EVALUATED = 300
TRAINING_SECONDS = float(os.environ.get("PARSIT_DEMO_TRAINING_SECONDS", "300"))
# When training is stopped that was meant to take TRAINING_SECONDS: a machine may be busier than when it was measured.
MOST_TRAINING_SECONDS = 1.2 * TRAINING_SECONDS
TIMED_STEPS, WARM_UP_STEPS, MOST_TIMING_SECONDS = 40, 10, 60.0
MAX_NEW_TOKENS = 32
READ_PAGES = 3

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


def train(data: Path, output_dir: Path, max_steps: int, most_seconds: float, *more: str) -> list[dict[str, float]]:
    """Train, at most so long; the entries of metrics.jsonl, fewer than `max_steps` where time ran out."""
    with time_limit(most_seconds):
        verb(
            "train", "tiny", "--data", str(data), "--output_dir", str(output_dir), "--max_steps", str(max_steps), *more
        )
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


def measured_steps(data: Path) -> int:
    """As many steps as fit into TRAINING_SECONDS on this machine, by a short run that is thrown away.

    The steps are fixed before training starts, so that the learning rate follows the steps and the
    same number of steps gives the same model.
    """
    timing = DEMO / "timing"
    timing.mkdir()
    head = data.read_text(encoding="utf-8").splitlines(keepends=True)[: 16 * TIMED_STEPS]
    (data.parent / "timing.jsonl").write_text("".join(head), encoding="utf-8")
    entries = train(data.parent / "timing.jsonl", timing, TIMED_STEPS, MOST_TIMING_SECONDS)
    entries = entries[WARM_UP_STEPS:] or entries
    shutil.rmtree(timing)
    seconds = sum(entry["samples"] / entry["samples_per_s"] for entry in entries)
    return max(50, int(TRAINING_SECONDS * len(entries) / seconds))


def main(own_pdf: Path | None) -> None:
    """The whole demo."""
    if DEMO.exists():
        shutil.rmtree(DEMO)
    DEMO.mkdir()
    from parsit.cli.console import quiet_libraries, say
    from parsit.cli.process import wait_passively

    wait_passively()
    quiet_libraries()
    data = DEMO / "data"
    with step("Make documents"):
        verb(
            "data", "synth", "--out", str(data), "--pages", str(PAGES), "--seed", str(SEED), "--unit", "line",
            "--dpi", "144-144", "--degrade", "light", "--validation_fraction", "0.1", "--test_fraction", "0.1",
        )  # fmt: skip
        write_pdf(DEMO / "sample.pdf", data)
    with step("Measure this machine"):
        max_steps = measured_steps(data / "train.jsonl")
        say(f"{max_steps} steps fit into {TRAINING_SECONDS:.0f} s")
    with step("Train parsit-tiny from scratch"):
        evaluated = held_out(data / "validation.jsonl", 256)
        trained_steps = len(train(
            data / "train.jsonl", DEMO / "run", max_steps, MOST_TRAINING_SECONDS,
            "--eval_data", str(evaluated), "--eval_steps", str(max(50, max_steps // 6)),
            "--report_to", "tensorboard", "--logging_steps", "50",
        ))  # fmt: skip
    with step("Evaluate"):
        test = held_out(data / "test.jsonl", EVALUATED)
        verb("eval", str(DEMO / "run"), "--data", str(test), "--out", str(DEMO / "eval"),
             "--max_new_tokens", str(MAX_NEW_TOKENS), "--batch_size", "64")  # fmt: skip
    pdfs = [DEMO / "sample.pdf", *([own_pdf] if own_pdf else [])]
    with step("Read a PDF"):
        for pdf in pdfs:
            verb("parse", str(pdf), "--model", str(DEMO / "run"), "--pages", first_pages(pdf),
                 "--out", str(DEMO / f"{pdf.stem}.md"))  # fmt: skip
    with step("Does it look at the page? And before training?"):
        report = measure(test, data / "train.jsonl", pdfs, cut_short(trained_steps, max_steps))
    write(report(steps))
    say(f"\nreport: {DEMO / 'report.html'}")


def cut_short(trained_steps: int, max_steps: int) -> tuple[str, ...]:
    """What the report says of a run whose time ran out."""
    if trained_steps == max_steps:
        return ()
    return (
        f"Training was stopped after {MOST_TRAINING_SECONDS:.0f} s, at step {trained_steps} of {max_steps}: the "
        "machine was slower than when it was measured. A run that reaches its end, with the lowest learning rate, "
        "reads better.",
    )


def held_out(path: Path, count: int) -> Path:
    """A file with `count` records of `path`, evenly spread, beside it."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    chosen = [lines[i * len(lines) // count] for i in range(min(count, len(lines)))]
    part = path.with_name(f"{path.stem}-{count}.jsonl")
    part.write_text("".join(chosen), encoding="utf-8")
    return part


def write_pdf(path: Path, data: Path) -> None:
    """A two-page PDF whose texts belong to the test split."""
    from parsit.synth.sample_pdf import write_sample_pdf
    from parsit.synth.settings import SynthSettings

    settings = SynthSettings(out=data, pages=PAGES, seed=SEED, validation_fraction=0.1, test_fraction=0.1)
    write_sample_pdf(path, ["receipt", "letter"], settings, seed=SEED + 1)


def first_pages(pdf: Path) -> str:
    """The pages that are read, as `--pages` takes them: at most `READ_PAGES`."""
    from parsit.parse.pages import PageFile

    with PageFile(pdf) as file:
        return f"1-{min(file.page_count, READ_PAGES)}"


def page_readings(pdf: Path, reader: Reader) -> list[PageReading]:
    """The first pages of a PDF as the model reads them, beside their text layer."""
    from parsit.eval import PageReading
    from parsit.parse.pages import PageFile
    from parsit.types import ImageRef

    document = reader.parse(pdf, pages=first_pages(pdf))
    with PageFile(pdf, dpi=100) as file:
        return [
            PageReading(
                source=pdf.name, number=page.number, image=ImageRef(file.page(page.number).image), prediction=page.text,
                reference=file.text_layer(page.number), reference_source="the PDF's own text layer", flags=page.flags,
                seconds=page.seconds, how="cut into lines, and long lines into pieces, which the model read one by one",
            )
            for page in document.pages
        ]  # fmt: skip


def measure(
    test: Path, training: Path, pdfs: list[Path], notes: tuple[str, ...]
) -> Callable[[list[tuple[str, float]]], object]:
    """Evaluate the trained and the untrained model; returns what makes the report once all steps are timed."""
    import yaml

    from parsit import hf
    from parsit.cli.eval import evaluate_engine
    from parsit.config import load_architecture
    from parsit.data.files import read_files
    from parsit.eval import DemoReport, StepTime, grounding_report
    from parsit.parse.engine import ModelEngine, load_engine
    from parsit.parse.reader import Reader

    samples = read_files([test])
    candidates = [sample.turns[-1].text for sample in read_files([training])[:2000]]
    architecture = load_architecture("tiny")
    trained = load_engine(DEMO / "run", batch_size=64)
    untrained = ModelEngine(hf.new_model(architecture, trained.processor, SEED), trained.processor, batch_size=64)

    def look(engine: ModelEngine, title: str):
        evaluation = evaluate_engine(engine, samples, MAX_NEW_TOKENS, title)
        looking = grounding_report(
            samples, lambda turns: engine.generate(turns, max_new_tokens=MAX_NEW_TOKENS), engine.nats, candidates,
            batch_size=64, evaluation=evaluation,
        )  # fmt: skip
        return evaluation, looking

    after, looking_after = look(trained, "scoring the trained model")
    before, grounding_before = look(untrained, "scoring the untrained model")
    pages = tuple(reading for pdf in pdfs for reading in page_readings(pdf, Reader(trained)))
    settings = yaml.safe_load((trained_folder() / "train_config.yaml").read_text())
    packages = ("parsit", "torch", "transformers", "tokenizers", "pillow", "pypdfium2", "typst")

    def report(times: list[tuple[str, float]]) -> DemoReport:
        return DemoReport(
            title="parsit-tiny, trained from scratch by make demo",
            introduction=(
                f"A model of {trained.model.num_parameters():,} parameters, drawn at random and trained "
                "on this machine on crops of synthetic documents: lines, cells and fields of up to "
                f"24 characters. All scores are on {len(samples)} crops whose texts are in no training document.",
                *notes,
            ),
            samples=tuple(samples), evaluation=after, grounding=looking_after, metrics=DEMO / "run" / "metrics.jsonl",
            evaluation_before=before, grounding_before=grounding_before, pages=pages, settings=settings,
            versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
            machine={"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
            steps=tuple(StepTime(name, seconds) for name, seconds in times),
        )  # fmt: skip

    return report


def trained_folder() -> Path:
    """The checkpoint that was evaluated."""
    from parsit.files.run_folder import find_model

    return find_model(DEMO / "run")


def write(report: object) -> None:
    """Write demo/report.html."""
    from parsit.eval import write_demo_report

    write_demo_report(DEMO / "report.html", report)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
