"""What a run is trained on: data files, lists of them in braces, and mixtures in YAML.

The mixture file is LLaVA-NeXT's (`LazySupervisedDataset` in its `llava/train/train.py`):

    datasets:
      - json_path: a.json
        sampling_strategy: random:10%     # all (default), first:N, end:N, random:N; N% is rounded up, as there
      - json_path: b.jsonl
        image_folder: images/b            # ours: each entry may have its own folder (image_root is the same),
        weight: 1.5                       # how often an epoch sees it: once, and a random half again
        name: b                           # and a name for reports

Where it differs: an unknown key or strategy is an error there is none for in LLaVA, `end:` of nothing is nothing (a
slice `[-0:]` is everything), and random choices depend on the seed and the entry's name alone, so every process makes
the same ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import yaml

from parsit.config.architecture import unknown
from parsit.data.faults import DataFault
from parsit.data.selection import SamplingStrategy, Source, select
from parsit.types import InputError, UsageError

MAX_WEIGHT = 1000
_KEYS = ["json_path", "sampling_strategy", "image_folder", "image_root", "weight", "name"]
_YAML_ENDINGS = (".yaml", ".yml")
_MAX_FILES_IN_BRACES = 10_000

__all__ = ["SamplingStrategy", "Source", "expand_braces", "files_read", "read_mixture", "read_sources", "select"]


def read_sources(args: Sequence[str | Path], image_folder: str | Path | None = None) -> list[Source]:
    """What the command line names: data files, `{a,b}.json`, `dir/{x,y}.jsonl`, mixtures `.yaml`.

    Args:
        args: as they were typed.
        image_folder: the folder for every file whose mixture names none.

    Raises:
        UsageError: no file, or braces around nothing.
        InputError: a mixture that cannot be read, with its place. That a data file outside a mixture exists is not
            asked here.
    """
    folder = Path(image_folder) if image_folder is not None else None
    sources: list[Source] = []
    for path in (path for arg in args for path in expand_braces(str(arg))):
        if path.suffix in _YAML_ENDINGS:
            sources += read_mixture(path, folder)
        else:
            sources.append(Source(path, folder, name=path.stem))
    if not sources:
        raise UsageError("no data files: name at least one")
    return _with_own_names(sources)


def files_read(args: Sequence[str | Path], sources: Sequence[Source]) -> list[Path]:
    """Every file that is read for some words of the command line: mixtures, data files, the files of data folders.

    Args:
        args: as they were typed.
        sources: what `read_sources` made of them.
    """
    named = [path for arg in args for path in expand_braces(str(arg))]
    data = [source.path for source in sources]
    return [*named, *data, *(file for path in data if path.is_dir() for file in path.rglob("*"))]


def expand_braces(arg: str) -> list[Path]:
    """The files that a word names; one that exists as it is written is itself.

    Raises:
        UsageError: an empty name between the braces' commas.
    """
    pieces = re.split(r"\{([^{}]*)\}", arg)
    if len(pieces) == 1 or _exists(Path(arg)):
        return [Path(arg)]
    choices = [
        [name.strip() for name in piece.split(",")] if number % 2 else [piece] for number, piece in enumerate(pieces)
    ]
    if any(not name for names in choices[1::2] for name in names):
        raise UsageError(f"{arg}: an empty name in braces; write {{a,b}}.json")
    if math.prod(map(len, choices)) > _MAX_FILES_IN_BRACES:
        raise UsageError(f"{arg[:60]}: more than {_MAX_FILES_IN_BRACES:,} files in braces; name a mixture instead")
    return [Path("".join(words)) for words in product(*choices)]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL character
        return False


def _with_own_names(sources: list[Source]) -> list[Source]:
    """The sources, each with a name of its own: `a`, `a#2`."""
    taken: set[str] = set()
    named = []
    for source in sources:
        name, number = source.name, 1
        while name in taken:
            number += 1
            name = f"{source.name}#{number}"
        taken.add(name)
        named.append(replace(source, name=name))
    return named


def read_mixture(path: Path, image_folder: Path | None = None) -> list[Source]:
    """The sources of one YAML file.

    Raises:
        InputError: what is wrong with it, with the entry or the line.
    """
    content = _load(path)
    if not isinstance(content, dict) or "datasets" not in content:
        raise InputError(f"{path}: a mixture must be a mapping with 'datasets': a list of entries with 'json_path'")
    for key in content:
        if key != "datasets":
            raise InputError(f"{path}: {unknown('key', _name(key), ['datasets'])}")
    entries = content["datasets"]
    if not isinstance(entries, list) or not entries:
        what = "is empty" if entries in ([], None, {}, "") else f"is {_kind(entries)}"
        raise InputError(f"{path}: 'datasets' {what}; it must be a list of entries with 'json_path'")
    return [_source(entry, f"{path}: datasets[{number}]", path, image_folder) for number, entry in enumerate(entries)]


class _Loader(yaml.SafeLoader):
    """YAML without objects and without keys that are given twice, of which PyYAML would drop one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        keys = (
            [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if isinstance(node, yaml.MappingNode)
            else []
        )
        for number, key in enumerate(keys):
            if any(key.value == other.value for other in keys[:number]):
                problem = f"the key {_kind(key.value)} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


def _load(path: Path) -> object:
    try:
        return yaml.load(path.read_bytes(), _Loader)
    except OSError as error:
        raise DataFault(
            "file-missing" if isinstance(error, FileNotFoundError) else "file-unreadable",
            f"the mixture cannot be opened: {error.strerror}",
            str(path),
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(
            f"{path}{line}: not valid YAML: {_one_line(error.problem or error)}; mend that line"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid YAML: {_one_line(error)}") from error


def _source(entry: object, place: str, mixture: Path, image_folder: Path | None) -> Source:
    if not isinstance(entry, dict):
        raise InputError(f"{place} is {_kind(entry)}; an entry must have 'json_path'")
    for key in entry:
        if key not in _KEYS:
            raise InputError(f"{place}: {unknown('key', _name(key), _KEYS)}")
    path = _find(_text(entry, "json_path", place), mixture, place, "data file")
    if path.suffix in _YAML_ENDINGS:
        raise InputError(f"{place}: 'json_path' is a mixture; name its data files here")
    if "image_folder" in entry and "image_root" in entry:
        raise InputError(f"{place}: 'image_folder' and 'image_root' are the same; give one")
    for key in ("image_folder", "image_root"):
        if entry.get(key) is not None:
            image_folder = _find(_text(entry, key, place), mixture, place, "image folder")
    try:
        strategy = SamplingStrategy.parse(_text(entry, "sampling_strategy", place, "all"))
    except ValueError as error:
        raise InputError(f"{place}: 'sampling_strategy' {_kind(entry.get('sampling_strategy'))} {error}") from error
    return Source(path, image_folder, strategy, _weight(entry, place), _text(entry, "name", place, path.stem))


def _text(entry: dict[str, object], key: str, place: str, default: str | None = None) -> str:
    value = entry.get(key, default)
    if value is None:
        raise InputError(f"{place} has no '{key}'")
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{place}: '{key}' is {_kind(value)}; it must be text")
    return value


def _weight(entry: dict[str, object], place: str) -> float:
    value = entry.get("weight", 1.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_WEIGHT:  # also NaN
        raise InputError(f"{place}: 'weight' is {_kind(value)}; it must be a number above 0, at most {MAX_WEIGHT}")
    return float(value)


def _find(text: str, mixture: Path, place: str, what: str) -> Path:
    """A path in a mixture: from the mixture's folder, else from where the command was started, as LLaVA has it."""
    beside, here = mixture.parent / text, Path(text)
    for path in (beside, here):
        if _exists(path) and (what == "data file" or path.is_dir()):
            return path
    tried = str(beside) if beside == here or here.is_absolute() else f"{beside} nor {here.absolute()}"
    tried = tried if tried.isprintable() else repr(tried)
    if what == "data file":
        raise DataFault("file-missing", f"no data file {tried}", place)
    raise InputError(f"{place}: no image folder {tried}: check the path")


def _name(key: object) -> str:
    return key[:60] if isinstance(key, str) else _kind(key)


def _kind(value: object) -> str:
    """A value as an error shows it, never more than a few words of it."""
    if isinstance(value, (dict, list, set, bytes, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) > 10**30:  # Python refuses to write very long numbers
        return "a number of more than 30 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
