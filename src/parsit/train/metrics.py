"""What a run tells: a bar or lines on the terminal, metrics.jsonl, a tracker.

metrics.jsonl has one object a step and is the record of the run; on resume it is cut back to the
checkpoint's step, so that it never holds a step twice.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from parsit.files import write_whole
from parsit.processing.collate import Batch
from parsit.train.trackers import Tracker

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"


def cut_back(path: Path, step: int) -> str:
    """Drop what a file of objects with a `step` says of steps after `step`, and a half-written last line.

    Returns:
        What to say of lines that are no such objects (a crash of the machine leaves zeros); empty: there are none.
        They are dropped too, and the whole file is kept beside.

    Raises:
        ParsitError: it cannot be written.
    """
    if not path.exists():
        return ""
    content = path.read_bytes()
    kept, damaged = [], []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        found = _step_of(line)
        if found is None:
            damaged.append(number)
        elif found <= step:
            kept.append(line + b"\n")
    write_whole(path, b"".join(kept))
    if not damaged:
        return ""
    copy = write_whole(path.with_name(f"{path.name}.damaged"), content)
    return (
        f"warning: {path}:{damaged[0]}: no entry of a step ({len(damaged)} such lines); dropped, all is kept in {copy}"
    )


def _step_of(line: bytes) -> int | None:
    try:
        step = json.loads(line)["step"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return step if isinstance(step, int) else None


class Record:
    """A file that lines are appended to, at once and each whole; what the disk does not take is kept for the next time.

    The file is opened when the first line comes.

    Args:
        path: the file; None: this process does not write.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._pending = bytearray()
        self._file: FileIO | None = None
        self.was_deleted = False

    def add(self, entry: dict[str, Any]) -> OSError | None:
        """Append an object; the error where it cannot be written yet."""
        if self.path is None:
            return None
        self._pending += json.dumps(entry).encode() + b"\n"
        try:
            self._flush(self.path)
        except OSError as error:
            return error
        return None

    def sync(self) -> None:
        """Force all lines onto the disk.

        Raises:
            OSError: that cannot be done.
        """
        if self.path is None:
            return
        if (file := self._flush(self.path)) is not None:
            os.fsync(file.fileno())

    def _flush(self, path: Path) -> FileIO | None:
        """Write what is pending; the file, if there is one yet. One that was deleted is begun again."""
        if self._file is not None and os.fstat(self._file.fileno()).st_nlink == 0:
            self._file.close()
            self._file, self.was_deleted = None, True
        if self._pending and self._file is None:
            self._file = FileIO(path, "ab")
        while self._pending and self._file is not None:
            del self._pending[: self._file.write(self._pending)]
        return self._file

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class Throughput:
    """Since the last entry: samples, rates a second, the share of time spent waiting for data, and of padding."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.started = time.perf_counter()
        self.tokens = self.samples = self.positions = 0
        self.waited = 0.0

    def add(self, batches: Sequence[Batch], waited: float) -> None:
        """Count one step."""
        self.tokens += sum(batch.num_tokens for batch in batches)
        self.positions += sum(batch.input_ids.numel() for batch in batches)
        self.samples += sum(batch.num_samples for batch in batches)
        self.waited += waited

    def take(self) -> dict[str, float]:
        """The rates, and start again."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        rates = {
            "samples": self.samples,
            "tokens_per_s": self.tokens / seconds,
            "samples_per_s": self.samples / seconds,
            "data_wait": self.waited / seconds,
            "padding": 1 - self.tokens / max(self.positions, 1),
        }
        self._reset()
        return rates


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used so far: on the GPU where there is one, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


class Pace:
    """Samples a second, and seconds a step, over the last steps: one step's own jumps on a busy machine.

    Validation and checkpoints are in it, as they are in the time that is left.

    Args:
        steps: how many of the last steps count.
    """

    def __init__(self, steps: int) -> None:
        # When each step ended, and its samples; the first entry is when the run began.
        self._steps = deque([(time.perf_counter(), 0)], maxlen=steps + 1)

    def add(self, samples: int) -> None:
        """Count a step that ends now."""
        self._steps.append((time.perf_counter(), samples))

    @property
    def step_s(self) -> float:
        """Seconds a step, at least one step having been counted."""
        return max(self._steps[-1][0] - self._steps[0][0], 1e-9) / (len(self._steps) - 1)

    @property
    def samples_per_s(self) -> float:
        """Samples a second, at least one step having been counted."""
        samples = sum(samples for _, samples in self._steps) - self._steps[0][1]
        return samples / (self.step_s * (len(self._steps) - 1))


class Log:
    """The run's record and its progress bar.

    Args:
        output_dir: the run's folder.
        first_step: steps done already.
        total_steps: steps at the end.
        logging_steps: steps between lines in a pipe and between the tracker's entries.
        tracker: is told the numbers every `logging_steps`.
        speaks: False: this is one of several processes, and another writes and speaks for all.
    """

    def __init__(
        self,
        output_dir: Path,
        first_step: int,
        total_steps: int,
        logging_steps: int,
        tracker: Tracker,
        speaks: bool = True,
    ) -> None:
        paths = [output_dir / name for name in (METRICS_FILE, SAMPLES_FILE)]
        damage = [cut_back(path, first_step) for path in paths] if speaks else []
        self._metrics, self._samples = (Record(path if speaks else None) for path in paths)
        self._is_behind = False
        self._tracker = tracker
        self.logging_steps, self.total_steps = logging_steps, total_steps
        self._console = Console(stderr=True, quiet=not speaks)
        self._pace = Pace(logging_steps)
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
        self._progress = Progress(
            *columns, TimeElapsedColumn(), "ETA", TimeRemainingColumn(), console=self._console,
            disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("training", total=total_steps, completed=first_step, state="")
        for line in filter(None, damage):
            self.say(line)

    def __enter__(self) -> Log:
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        self._metrics.close()
        self._samples.close()
        self._tracker.finish(failed=kind is not None)

    def say(self, line: str) -> None:
        """One line for the reader, above the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def write(self, entry: dict[str, Any]) -> None:
        """One step's entry; it has `step`, `loss`, `learning_rate` and `samples`.

        Every `logging_steps` a line says how the run goes, with the mean rate since the last line and what it leaves.
        """
        step = entry["step"]
        self._add(self._metrics, step, entry)
        self._pace.add(entry["samples"])
        state = f"loss {entry['loss']:.4f}"
        for name in ("glyph", "ctc"):
            state += f"  {name} {entry[f'{name}_loss']:.3f}" if f"{name}_loss" in entry else ""
        state += f"  lr {entry['learning_rate']:.1e}  {self._pace.samples_per_s:.1f} samples/s"
        self._progress.update(self._task, completed=step, state=state)
        if step % self.logging_steps and step != self.total_steps:
            return
        self._tracker.log(step, {key: value for key, value in entry.items() if key != "step"})
        if not self._console.is_terminal:
            left_s = self._pace.step_s * (self.total_steps - step)
            self.say(f"step {step}/{self.total_steps}  {state}  ETA {left_s:.0f} s")

    def text(self, step: int, name: str, text: str) -> None:
        """Words that belong to a step: for the tracker, and for samples.jsonl."""
        self._add(self._samples, step, {"step": step, name: text})
        self._tracker.text(step, name, text)

    def _add(self, record: Record, step: int, entry: dict[str, Any]) -> None:
        """Append to a record; that the disk does not take it is said once, and no reason to stop between two saves."""
        error = record.add(entry)
        if record.was_deleted and error is None:
            record.was_deleted = False
            self.say(f"step {step}: {record.path}: was deleted; begun again, without the steps before")
        if error is not None and not self._is_behind:
            reason = error.strerror or error
            self.say(
                f"step {step}: {record.path}: cannot be written: {reason}; what belongs there is kept and tried again"
            )
        self._is_behind = error is not None

    def sync(self) -> None:
        """Force metrics.jsonl onto the disk, so that it is never behind a checkpoint. Raises `OSError`."""
        self._metrics.sync()
        self._samples.sync()
