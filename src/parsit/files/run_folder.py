"""The folder of a training run: which checkpoints it holds, which of them are whole, which is the newest and the best.

output_dir/
  checkpoint-500/
    config.json, model.safetensors, tokenizer.json, …   an ordinary Hugging Face folder
    train_state/                                         what resuming needs besides
    ema/                                                 the moving average as a model's folder, with --ema_decay
    train_config.yaml                                    the resolved configuration
    manifest.json                                        every file with its size and checksum
  best.json                                              which checkpoint validated best, and the next best
  metrics.jsonl
  superseded-1/                                          what lay beyond an older checkpoint that was gone on from
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from parsit.files.manifest import EMA_FOLDER, verify
from parsit.files.whole import write_whole
from parsit.types import InputError

BEST_FILE = "best.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# What a save that was cut short leaves: drafts of checkpoints and of a base's folder, old checkpoints on their way out,
# and files that had not been renamed yet (`WholeFile`).
_LEFTOVER = re.compile(r"\.(checkpoint-\d+\.(partial|partial\.old|old)|base\..{8}|\w+\.jsonl?\..{8})")


def checkpoint_path(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return output_dir / f"checkpoint-{step}"


def list_checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """(step, path) of the folders named checkpoint-N, oldest first; they may or may not verify."""
    found = []
    for path in output_dir.glob("checkpoint-*"):
        match = _CHECKPOINT.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match.group(1)), path))
    return sorted(found)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run: it has a checkpoint, or says which one is best."""
    return (folder / BEST_FILE).is_file() or bool(list_checkpoints(folder))


def find_newest(output_dir: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that verifies; `warn` gets a line for each newer one that does not."""
    for _, path in reversed(list_checkpoints(output_dir)):
        problem = verify(path)
        if problem is None:
            return path
        warn(f"{path}: not a whole checkpoint ({problem}); trying the one before it")
    return None


def find_best(output_dir: Path) -> Path | None:
    """The checkpoint that validated best, if it is said and still there.

    Raises:
        InputError: best.json cannot be read.
    """
    path = output_dir / BEST_FILE
    if not path.is_file():
        return None
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["checkpoint"]
        if not _CHECKPOINT.fullmatch(name):
            raise ValueError(f"{name!r} is none")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: does not name a checkpoint; remove it, or name the checkpoint itself") from error
    best = output_dir / name
    return best if (best / "config.json").is_file() else None


def name_best(output_dir: Path, metric: str, best: Sequence[tuple[int, float]]) -> None:
    """Say in best.json which checkpoint is best, and which others are among the best.

    Args:
        output_dir: the run's folder.
        metric: what they were measured by, as metrics.jsonl names it.
        best: their steps and values, best first; at least one.

    Raises:
        ParsitError: it cannot be written.
    """
    first, *others = ({"checkpoint": checkpoint_path(output_dir, step).name, metric: value} for step, value in best)
    said = first | ({"others": others} if others else {})
    write_whole(output_dir / BEST_FILE, json.dumps(said) + "\n")


def model_in(checkpoint: Path) -> Path:
    """The folder of the model that a run's checkpoint gives to others: the moving average where it has one."""
    average = checkpoint / EMA_FOLDER
    return average if (average / "config.json").is_file() else checkpoint


def model_name(folder: Path) -> str:
    """What a model's folder is called beside others: checkpoint-5, or checkpoint-5/ema for its moving average."""
    return f"{folder.parent.name}/{folder.name}" if folder.name == EMA_FOLDER else folder.name


def find_model(path: str | Path) -> Path:
    """The folder with the model: `path` itself, or in a run's folder that of its best checkpoint, else its newest.

    Raises:
        InputError: there is none.
    """
    folder = Path(path)
    if (folder / "config.json").is_file():
        return folder
    best = find_best(folder)
    if best is not None:
        return model_in(best)
    checkpoints = list_checkpoints(folder)
    if checkpoints:
        return model_in(checkpoints[-1][1])
    raise InputError(f"{path}: no model there (a folder with config.json, or a run's folder, is needed)")


def is_parsit_model(folder: Path) -> bool:
    """Whether the folder's configuration is a Parsit model's.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("model_type") == "parsit"
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: no model's configuration ({error}); was it written or copied whole?") from error


class Retention:
    """Which checkpoints of a run are kept: the newest that verify, and the best ones.

    What was verified once is not read again: its sizes are looked at. What this run wrote counts as verified.

    Args:
        output_dir: the run's folder.
        keep: how many verified checkpoints are kept besides the best ones; 0: all.
    """

    def __init__(self, output_dir: Path, keep: int) -> None:
        self.output_dir, self.keep = output_dir, keep
        self._verified: set[Path] = set()

    def prune(self, written: int, best: Collection[int]) -> None:
        """Delete what is older than the checkpoints that are kept; never the step just `written`, nor the `best` ones.

        Raises:
            OSError: one cannot be deleted.
        """
        self._verified.add(checkpoint_path(self.output_dir, written))
        if not self.keep:
            return
        others = [path for step, path in list_checkpoints(self.output_dir) if step != written and step not in best]
        kept = 0 if written in best else 1
        for number, path in reversed(list(enumerate(others))):
            if kept >= self.keep:
                delete(others[: number + 1])
                return
            kept += self._is_whole(path)

    def _is_whole(self, path: Path) -> bool:
        if verify(path, checksums=path not in self._verified) is not None:
            return False
        self._verified.add(path)
        return True


def delete(checkpoints: Sequence[Path]) -> None:
    """Delete checkpoints, oldest first; each is renamed first, so that none is ever there in part. Raises `OSError`."""
    for path in checkpoints:
        leaving = path.with_name(f".{path.name}.old")
        shutil.rmtree(leaving, ignore_errors=True)
        path.rename(leaving)
        shutil.rmtree(leaving)


def clear_leftovers(output_dir: Path) -> list[Path]:
    """Delete what saves that were cut short left in a run's folder, which nobody else may be writing into.

    A whole checkpoint whose place is empty goes there: a file system that cannot exchange two folders has a moment in
    which the old one has left its place and the new one has not come.

    Returns:
        The checkpoints that were put in their place.
    """
    saved = []
    for path in sorted(path for path in output_dir.glob(".*") if _LEFTOVER.fullmatch(path.name)):
        match = _CHECKPOINT.search(path.name)
        final = output_dir / match.group() if match else None
        if final and not final.exists() and verify(path) is None:
            path.rename(final)
            saved.append(final)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return saved


def supersede(output_dir: Path, checkpoint: Path, step: int, records: Sequence[str]) -> tuple[Path, list[Path]] | None:
    """Move aside what a run no longer is, because it goes on from a checkpoint that is not its newest.

    Args:
        output_dir: the run's folder.
        checkpoint: where the run goes on from; where that is no checkpoint of this folder, all that are give way.
        step: its step.
        records: names of files that will be cut back to that step; they are copied first.

    Returns:
        The folder that they were moved to and what they were; None: nothing was beyond the checkpoint.

    Raises:
        OSError: they cannot be moved.
    """
    here = checkpoint.resolve()
    own = here.parent == output_dir.resolve()
    others = [(number, path) for number, path in list_checkpoints(output_dir) if path.resolve() != here]
    beyond = [path for number, path in others if not own or number > step]
    if not beyond:
        return None
    number = 1 + max((int(p.name.rpartition("-")[2]) for p in output_dir.glob("superseded-[0-9]*")), default=0)
    aside = output_dir / f"superseded-{number}"
    aside.mkdir()
    for name in (*records, BEST_FILE):
        if (output_dir / name).is_file():
            shutil.copy2(output_dir / name, aside / name)
    # The newest first: cut short, the folder still holds a run that ends earlier than it did.
    for path in reversed(beyond):
        path.rename(aside / path.name)
    return aside, beyond


def require_good(checkpoint: Path) -> Path:
    """The checkpoint, if it verifies.

    Raises:
        InputError: it is not there or not whole.
    """
    problem = verify(checkpoint)
    if problem:
        raise InputError(f"{checkpoint}: cannot resume from it: {problem}")
    return checkpoint
