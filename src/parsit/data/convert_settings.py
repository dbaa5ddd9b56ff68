"""What a conversion is asked for, and what of that goes together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parsit.data.containers import container_of
from parsit.data.formats import FORMATS, Format, format_named
from parsit.data.records import image_root
from parsit.files import refuse_inputs
from parsit.types import InputError, UsageError

OUTPUT_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".tar")
FORMAT_NAMES = ("auto", *FORMATS, "webdataset")
TARGET_NAMES = (*FORMATS, "webdataset")


@dataclass(frozen=True, slots=True)
class ConvertSettings:
    """What to convert.

    Args:
        input: a data file or folder of any known kind.
        output: the file to write; its ending says which kind.
        format_name: the input's format; `auto`: found for each record; `webdataset`: the same, of a tar file.
        to: the output's format; None: `huggingface` for Parquet, `parsit` otherwise; `webdataset`: `parsit` in a tar.
        image_folder: where image paths start; given, every image is checked; None: the input's own folder.
        embed_images: put the images' bytes into the output (OpenAI's JSON, Parquet; a tar file always has them).
        overwrite: replace an output that exists.
    """

    input: Path
    output: Path
    format_name: str = "auto"
    to: str | None = None
    image_folder: Path | None = None
    embed_images: bool = False
    overwrite: bool = False

    @property
    def target(self) -> Format:
        """The output's format."""
        if self.to is None:
            return FORMATS["huggingface" if self.output.suffix == ".parquet" else "parsit"]
        return FORMATS["parsit" if self.to == "webdataset" else self.to]

    @property
    def source(self) -> Format | None:
        """The input's format; None: found for each record."""
        return format_named("auto" if self.format_name == "webdataset" else self.format_name)

    @property
    def embeds(self) -> bool:
        """Whether bytes of image files go into the output."""
        return self.embed_images or self.output.suffix == ".tar"

    @property
    def findings(self) -> Path:
        """Where the records are listed that were set aside."""
        return self.output.with_name(self.output.name + ".findings.jsonl")

    def check(self) -> None:
        """All that can be refused before the first record.

        Raises:
            UsageError: settings that do not go together.
            InputError: the input is missing, or the output exists.
        """
        suffix = self.output.suffix
        for name, known, option in ((self.format_name, FORMAT_NAMES, "format"), (self.to, TARGET_NAMES, "to")):
            if name is not None and name not in known:
                raise UsageError(f"--{option} must be one of {', '.join(known)}, not {name!r}")
        if suffix not in OUTPUT_SUFFIXES:
            raise UsageError(f"--output must end in {', '.join(OUTPUT_SUFFIXES)}, which says its kind, not {suffix!r}")
        if self.format_name == "webdataset" and self.input.suffix != ".tar":
            raise UsageError(f"--format webdataset is a tar file, and --input {self.input} does not end in .tar")
        if self.to == "webdataset" and suffix != ".tar":
            raise UsageError(f"--to webdataset writes a tar file: --output must end in .tar, not {suffix}")
        if suffix == ".parquet" and self.target.name != "huggingface":
            raise UsageError(f"a .parquet file is written with --to huggingface, not {self.target.name}")
        if self.embed_images and suffix in (".json", ".jsonl", ".ndjson") and self.target.name != "openai":
            raise UsageError("--embed_images needs --to openai, or an --output that ends in .parquet or .tar")
        container_of(self.input)
        image_root(self.input, self.image_folder)
        self._check_output()

    def _check_output(self) -> None:
        files = [self.input, *(self.input.rglob("*") if self.input.is_dir() else ())]
        for path in (self.output, self.findings):
            refuse_inputs(path, files, "--output")
            if path.is_dir():
                raise InputError(f"{path} is a folder: choose another --output")
            if path.exists() and not self.overwrite:
                raise InputError(f"{path} exists: choose another --output, or add --overwrite to replace it")
