"""Images on their way into an output file: as paths, as files written beside it, as data URLs, as bytes."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from parsit.data.faults import DataFault
from parsit.files import WholeFile
from parsit.types import FileSlice, ImageRef

# First bytes, ending, media type (RFC 2046 and its registry at IANA).
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", ".png", "image/png"),
    (b"\xff\xd8\xff", ".jpg", "image/jpeg"),
    (b"GIF8", ".gif", "image/gif"),
    (b"BM", ".bmp", "image/bmp"),
    *((magic, ".tif", "image/tiff") for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    *((b"P%d" % kind, ".pnm", "image/x-portable-anymap") for kind in range(1, 7)),
)


def kind_of(data: bytes) -> tuple[str, str]:
    """Ending and media type of an encoded image, by its first bytes.

    Raises:
        DataFault: it begins like no known format.
    """
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return ".webp", "image/webp"
    for magic, ending, media_type in _KINDS:
        if data.startswith(magic):
            return ending, media_type
    raise DataFault("image-unknown-format", f"an image of {len(data):,} bytes begins like no known format")


def bytes_of(image: ImageRef) -> bytes:
    """An image's encoded bytes.

    Raises:
        DataFault: its file cannot be read, or ends too early.
    """
    source = image.source
    if isinstance(source, bytes):
        return source
    assert isinstance(source, (Path, FileSlice))  # formats make no decoded images
    try:
        if isinstance(source, Path):
            return source.read_bytes()
        data = source.read()
    except FileNotFoundError as error:
        raise DataFault("image-missing", f"{error.filename}: no such file") from error
    except OSError as error:
        raise DataFault("image-unreadable", f"{error.filename}: {error.strerror}") from error
    if len(data) != source.size:
        raise DataFault("image-cut-off", f"{source.path} ends before byte {source.offset + source.size}")
    return data


def data_url(image: ImageRef) -> str:
    """An image as a data URL (RFC 2397). Raises `DataFault`."""
    data = bytes_of(image)
    return f"data:{kind_of(data)[1]};base64,{base64.b64encode(data).decode('ascii')}"


class PathNames:
    """Names of images that are files: their path in the image folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._prefix = "" if root == Path() else f"{root}/"

    def __call__(self, source: Path) -> str:
        """The path from the image folder on, with slashes."""
        path = str(source)
        if path.startswith(self._prefix):
            return path[len(self._prefix) :]
        return source.relative_to(self._root).as_posix()


class ImageFiles:
    """Names images in a file of records; images that are no files yet are written, each content once.

    Args:
        root: the image folder of the input.
        folder: where images are written, as `<hash of the content>.png`.

    One record file has one image folder: where `folder` does not lie in `root`, images from both cannot be named.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.num_written = 0
        self._path_name = PathNames(root)
        self._folder = folder
        inside = folder.resolve().is_relative_to(root.resolve())
        self._folder_name = folder.resolve().relative_to(root.resolve()).as_posix() if inside else folder.name
        self._one_folder = inside
        self._are_files: bool | None = None

    def __call__(self, image: ImageRef) -> str:
        """The name, after the image was written. Raises `DataFault`, and `ParsitError` if it cannot be written."""
        is_file = isinstance(image.source, Path)
        if not self._one_folder and self._are_files is (not is_file):
            detail = f"images in the image folder and images that are written to {self._folder}, outside it"
            raise DataFault("cannot-say", detail)
        self._are_files = is_file
        return self._path_name(image.source) if isinstance(image.source, Path) else self._written(bytes_of(image))

    @property
    def base(self) -> Path | None:
        """The folder that the names of written images start from; None: none was written."""
        return self._folder.parent if self.num_written and not self._one_folder else None

    def _written(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()[:32] + kind_of(data)[0]
        if not (self._folder / name).exists():
            with WholeFile(self._folder / name, synced=False) as draft:
                draft.file.write(data)
                draft.keep()
        self.num_written += 1
        return f"{self._folder_name}/{name}"
