"""What a reading depends on, as keys: the set (model, prompt, how pages are read), the file's content, the page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from parsit.files.manifest import MANIFEST, STATE_FOLDER
from parsit.types import InputError

FORMAT = 1  # of records; a higher number begins new sets
_SHOWN = 12  # hexadecimal digits of a set's folder


@dataclass(frozen=True, slots=True)
class ReadingSet:
    """All that decides what is read on a page, but for the page. Another value anywhere is another set of results.

    Args:
        model: what the model is called, for people.
        model_digest: of its files; see `model_digest`.
        prompt: said after each image.
        split: `page` or `lines`.
        max_new_tokens: the most tokens for one image.
        dpi: at which PDF pages are drawn.
        retry_flagged: whether what loops, is cut or upside down is read again.
        text_layer: `auto`, `never` or `only`.
    """

    model: str
    model_digest: str
    prompt: str
    split: str
    max_new_tokens: int
    dpi: float
    retry_flagged: bool = True
    text_layer: str = "never"
    format: int = FORMAT

    @property
    def id(self) -> str:
        """A hash of everything but the model's name, in hexadecimal."""
        facts = {name: value for name, value in asdict(self).items() if name != "model"}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def folder(self) -> str:
        """The name of its folder: the model's name and the beginning of the hash."""
        name = "".join(char if char.isalnum() or char in "-_." else "-" for char in Path(self.model).name)
        return f"{name[:60].lstrip('.-') or 'model'}-{self.id[:_SHOWN]}"

    def key(self, digest: str, page: int) -> str:
        """The key of one page's record; page 0 stands for a file that cannot be opened."""
        return hashlib.sha256(f"{self.id}/{digest}/{page}".encode()).hexdigest()[:32]


def model_digest(folder: Path) -> str:
    """A hash of a model's files: of its manifest's checksums where it has one, else of the bytes.

    What resuming a training needs besides, and hidden files, do not count.

    Raises:
        InputError: a file that cannot be read.
    """
    try:
        sums = _of_manifest(folder) if (folder / MANIFEST).is_file() else _of_files(folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: its files cannot be read: {error}") from error
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def _of_manifest(folder: Path) -> Mapping[str, str]:
    entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    return {name: entry["sha256"] for name, entry in entries.items() if not name.startswith(f"{STATE_FOLDER}/")}


def _of_files(folder: Path) -> Mapping[str, str]:
    sums = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            with path.open("rb") as file:
                sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums
