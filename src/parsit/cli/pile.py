"""`parsit parse` of a pile: folders, globs, lists and tars, in one process or on a Ray cluster; resumable.

What was read is kept in `--out`, in a folder for each set (a model, a prompt, a way of reading). The same command goes
on where an earlier one ended, and another format is written from what is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parsit.cli.console import say
from parsit.cli.engines import is_address, make_engine
from parsit.files import refuse_inputs, write_whole
from parsit.files.run_lock import run_lock
from parsit.scale.cluster import Cluster, ClusterJob, read_on_cluster
from parsit.scale.drawing import Drawing
from parsit.scale.inputs import Source, sources_of
from parsit.scale.keys import ReadingSet, model_digest
from parsit.scale.publish import FORMATS, Failure, file_results, publish
from parsit.scale.reading import PileReader, Progress, Reading
from parsit.scale.store import Store, json_line
from parsit.scale.workers import default_count
from parsit.types import UsageError

# By name: it is called in the processes that draw, and stands on a floor above them.
GATE = "parsit.synth.from_pdf.text_layer:text_layer"
NO_MODEL = "text-layer"  # what the set is called where no picture is read
FAILURES_FILE = "failures.jsonl"
SHOWN_FAILURES = 20
TELL_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class EngineOf:
    """Where the engine comes from; it goes to other machines as it is.

    `model` is a folder; for an engine at an address what the server calls its model, or None for its only one.
    """

    engine: str
    model: str | None
    device: str | None
    batch_size: int

    def __call__(self) -> Any:
        """Load it."""
        return make_engine(self.engine, self.model, self.device, self.batch_size)


def read_pile(options: Any) -> int:
    """Read a pile; 1 if anything of it failed.

    Raises:
        UsageError, InputError: what cannot be done.
        ParsitError: results cannot be written.
    """
    check(options)
    sources = sources_of(options.files)
    out = Path(options.out)
    refuse_inputs(out, [Path(source.path) for source in sources])
    source_of_engine = None if options.text_layer == "only" else _engine_of(options)
    engine = source_of_engine() if source_of_engine and not options.ray else None
    reading_set = _set(options, source_of_engine, engine)
    drawing = _drawing(options, reading_set)
    store = Store(out, reading_set)
    with run_lock(store.folder, say, option="--out"):
        if drafts := store.clear_drafts():
            say(f"took away {drafts} unfinished part(s) of a run that was killed")
        with progress(len(sources)) as tell:
            if options.ray:
                reading = _read_on_cluster(options, sources, source_of_engine, store, drawing, tell)
            else:
                workers = options.workers or default_count()
                with PileReader(engine, store, drawing, workers, tell, bool(options.retry_failed)) as reader:
                    reading = reader.read(sources)
        store.refresh()
        return _publish(options, sources, reading, store)


def check(options: Any) -> None:
    """Refuse what makes no sense for a pile.

    Raises:
        UsageError: the first such option.
    """
    if options.out is None:
        raise UsageError("a pile needs --out FOLDER: what was read is kept there, and results are written there")
    if Path(options.out).exists() and not Path(options.out).is_dir():
        raise UsageError(f"--out {options.out} is a file; for a pile it must be a folder")
    for name in ("workers", "batch_size", "actors"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: must be at least 1")
    for name in ("actors", "actor_cpus", "actor_gpus"):
        if getattr(options, name) is not None and options.ray is None:
            raise UsageError(f"--{name} is of a cluster: give --ray ADDRESS as well")
    for name in ("actor_cpus", "actor_gpus"):
        if (getattr(options, name) or 0) < 0:
            raise UsageError(f"--{name} {getattr(options, name):g}: must not be negative")
    if options.pages is not None:
        from parsit.parse.selection import parse_selection

        parse_selection(options.pages)


def _engine_of(options: Any) -> EngineOf:
    batch_size = options.batch_size or 8
    if is_address(options.engine):
        return EngineOf(options.engine, options.model, options.device, batch_size)
    from parsit.files.manifest import require_sound_model
    from parsit.hub import model_folder, named_or_default

    folder = require_sound_model(model_folder(named_or_default(options.model)))
    return EngineOf(options.engine, str(folder.absolute()), options.device, batch_size)


def _set(options: Any, engine_of: EngineOf | None, engine: Any) -> ReadingSet:
    """What the readings depend on; on a cluster the model is not loaded here, only asked how it reads."""
    how: dict[str, Any] = {"dpi": options.dpi, "text_layer": options.text_layer or "never"}
    how["retry_flagged"] = options.retry_flagged is not False
    if engine_of is None:
        return ReadingSet(NO_MODEL, NO_MODEL, "", "page", 0, **how)
    from parsit.hub import require_reading
    from parsit.parse.reader import MAX_NEW_TOKENS

    name, digest, reads = _model_of(options, engine_of, engine)
    split = options.split or ("lines" if reads.reading_unit == "line" else "page")
    if options.prompt is not None and reads.tasks:
        require_reading(reads.tasks, options.prompt, reads.read_prompt)
    return ReadingSet(
        model=name,
        model_digest=digest,
        prompt=reads.read_prompt if options.prompt is None else options.prompt,
        split=split,
        max_new_tokens=options.max_new_tokens or MAX_NEW_TOKENS[split],
        **how,
    )


def _model_of(options: Any, engine_of: EngineOf, engine: Any) -> tuple[str, str, Any]:
    """A model's name and digest, and what knows how it was trained to read.

    Of a model at an address nothing but its name is known: another one under the same name is taken for the same.
    """
    if is_address(engine_of.engine):
        served = engine or engine_of()
        return served.model, f"{served.address} {served.model}", served
    folder = Path(str(engine_of.model))
    if engine is None:
        from parsit import hf
        from parsit.cli.console import quiet_libraries

        quiet_libraries()
        engine = hf.load_processor(folder)
    return Path(options.model or folder).name, model_digest(folder), engine


def _drawing(options: Any, reading_set: ReadingSet) -> Drawing:
    from parsit.parse.reader import MAX_LINE_ASPECT

    return Drawing(
        dpi=options.dpi,
        max_line_aspect=MAX_LINE_ASPECT if reading_set.split == "lines" else None,
        selection=options.pages,
        text_layer=reading_set.text_layer,
        gate=GATE,
    )


def _read_on_cluster(
    options: Any,
    sources: list[Source],
    engine_of: EngineOf | None,
    store: Store,
    drawing: Drawing,
    tell: Callable[[Progress], None],
) -> Reading:
    cluster = Cluster(
        options.ray, options.actors, 2 if options.actor_cpus is None else options.actor_cpus, options.actor_gpus
    )
    folder = store.folder.parent.absolute()
    # Other machines have another working folder.
    there = [Source(one.name, str(Path(one.path).absolute()), one.offset, one.size) for one in sources]
    workers = options.workers or max(1, int(cluster.cpus) - 1)
    job = ClusterJob(engine_of, folder, store.reading_set, drawing, workers, bool(options.retry_failed))
    return read_on_cluster(there, job, cluster, tell)


def _publish(options: Any, sources: list[Source], reading: Reading, store: Store) -> int:
    """Write results and failures, say where they are, and show what failed."""
    form = options.format or FORMATS[0]
    results = file_results(sources, reading, store, options.pages)
    failures = [f for result in publish(results, store, form, options.tables or "as-read") for f in result.failures()]
    lines = [json_line({"file": one.name, "page": one.page, "reason": one.reason}) for one in failures]
    write_whole(store.folder / FAILURES_FILE, b"".join(lines))
    say(f"results: {store.folder / ('results' if form == 'jsonl' else form)}")
    if failures:
        _show(failures, store.folder / FAILURES_FILE)
    return 1 if failures else 0


def _show(failures: list[Failure], path: Path) -> None:
    """A table of what failed on stderr."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("file", "page", "reason", title=f"{len(failures)} could not be read", title_justify="left")
    for one in failures[:SHOWN_FAILURES]:
        table.add_row(Text(one.name), str(one.page or "all"), Text(one.reason))
    console = Console(stderr=True)
    console.print(table)
    if len(failures) > SHOWN_FAILURES:
        say(f"and {len(failures) - SHOWN_FAILURES} more: {path}")


@contextmanager
def progress(total: int) -> Iterator[Callable[[Progress], None]]:
    """A bar with pages/s and ETA on a terminal, a line now and then in a pipe; at the end a line in both."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    rate = TextColumn("files  {task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, "ETA", TimeRemainingColumn())
    last, told = Progress(0, 0, 0, 0.0, 0.0), time.monotonic()
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=total, rate="")

        def tell(now: Progress) -> None:
            nonlocal last, told
            last = now
            bar.update(task, completed=now.files, rate=_rate(now))
            if not console.is_terminal and time.monotonic() - told >= TELL_EVERY_S and now.files < total:
                told = time.monotonic()
                left = (total - now.files) * now.seconds / max(1, now.files)
                say(f"reading: {now.files}/{total} files, {_rate(now)}, ETA {left:.0f} s")

        try:
            yield tell
        except KeyboardInterrupt:
            say("what has been read is kept: the same command goes on from here")
            raise
    say(f"read {last.pages} pages of {last.files} files in {last.seconds:.1f} s ({_rate(last)})")


def _rate(now: Progress) -> str:
    return f"{now.pages / max(now.seconds, 1e-9):.2f} pages/s, engine busy {now.busy:.0%}"
