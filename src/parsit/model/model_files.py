"""What a folder of a model holds, before it is written: small files as bytes, and tensors by file.

Whoever writes it decides when, and hashes what it writes (`parsit.files.hashed`); safetensors' own writer can do
neither. The format is safetensors', byte for byte as its writer lays it out.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from parsit.files.hashed import FileEntry, write_hashed

Tensors = dict[str, torch.Tensor]
# Types by their names in files, in the order in which safetensors lays tensors out: what is wider lies first.
_TYPES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_ORDER = {kind: number for number, kind in enumerate(_TYPES)}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a folder, by their paths in it: `small` ones as bytes, and `tensors` of safetensors files."""

    small: dict[str, bytes]
    tensors: dict[str, Tensors]

    def __or__(self, other: ModelFiles) -> ModelFiles:
        return ModelFiles(self.small | other.small, self.tensors | other.tensors)

    def under(self, folder: str) -> ModelFiles:
        """The same files in a folder of that folder."""
        return ModelFiles(
            {f"{folder}/{name}": content for name, content in self.small.items()},
            {f"{folder}/{name}": tensors for name, tensors in self.tensors.items()},
        )

    def write(self, folder: Path, go_on: Callable[[], None] = lambda: None) -> dict[str, FileEntry]:
        """Write all of them into a folder that has none of them; each one's size and checksum, by its path.

        Args:
            folder: where to; it is there, and folders in it are made.
            go_on: called now and then; what it raises ends the writing.

        Raises:
            OSError: one cannot be written.
        """
        contents = {name: iter([content]) for name, content in self.small.items()}
        contents |= {name: file_pieces(tensors) for name, tensors in self.tensors.items()}
        written = {}
        for name, pieces in contents.items():
            for parent in reversed(Path(name).parents[:-1]):
                (folder / parent).mkdir(exist_ok=True)  # never `folder` itself, which somebody may have taken away
            written[name] = write_hashed(folder / name, pieces, go_on)
        return written


def captured(write: Callable[[Path], object]) -> dict[str, bytes]:
    """The files that `write` puts into an empty folder, by name.

    Raises:
        OSError: they cannot be written there; tokenizers has no error of its own for that.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            write(folder)
        except Exception as error:
            if type(error) is not Exception:
                raise
            raise OSError(str(error)) from error
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def file_pieces(tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file; tensors on the CPU are not copied."""
    ordered = sorted(tensors.items(), key=lambda item: (_ORDER[item[1].dtype], item[0]))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entry = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        yield _bytes_of(tensor)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def untied(state: Mapping[str, torch.Tensor]) -> Tensors:
    """A state without the second names of tied tensors, as a model's file has it."""
    kept: Tensors = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            kept[name] = tensor
    return kept
