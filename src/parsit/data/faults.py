"""What can be wrong with data: every kind of fault by its code, with its remedy.

Two levels. A *fault* sets a sample aside: it is counted, listed and never trained on, and never replaced by
another. A *note* is worth knowing and changes nothing. The table here is the one that the documentation shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from parsit.types import InputError

Level = Literal["fault", "note"]


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One kind of fault: what it means, what to do about it, and whether the sample is set aside."""

    meaning: str
    remedy: str
    level: Level = "fault"


FAULTS: dict[str, FaultKind] = {
    # files
    "file-missing": FaultKind("the data file does not exist", "check the path"),
    "file-unreadable": FaultKind("the data file cannot be opened", "check its permissions"),
    "file-empty": FaultKind("the data file holds no record", "check how it was made"),
    "file-type-unknown": FaultKind("the ending of the file's name says nothing", "use .json, .jsonl, .parquet, .tar or a datasets folder"),
    "file-compressed": FaultKind("the data file is compressed", "decompress it"),
    "several-splits": FaultKind("the folder holds several splits of a data set", "name the folder or the files of one split"),
    "encoding-broken": FaultKind("the bytes are not UTF-8", "save the file as UTF-8"),
    "json-broken": FaultKind("not valid JSON", "mend or delete the record"),
    "json-not-a-list": FaultKind("a JSON file that holds something else than a list of records", "put the records in a list, or write one a line into a .jsonl file"),
    "json-cut-off": FaultKind("the list of records has no end: the file was cut off", "make or fetch the file again"),
    "record-too-large": FaultKind("one record is larger than 256 MiB", "keep images in files and give their paths"),
    "parquet-broken": FaultKind("not a readable Parquet or Arrow file", "make or fetch the file again"),
    "tar-broken": FaultKind("not a readable tar file", "make or fetch the file again"),
    "tar-no-record": FaultKind("images in a tar file without a .json or .txt member of the same name", "add the text"),
    "tar-no-image": FaultKind("a .txt member in a tar file without an image of the same name", "add the image; text alone goes into a .jsonl file"),
    # records
    "record-not-an-object": FaultKind("a record must be an object with named fields", "see docs/data.md for the formats"),
    "format-unknown": FaultKind("the record fits no known format", "see docs/data.md, or name it with --format (--data_format in training)"),
    "format-mismatch": FaultKind("the record is not in the format that was named", "use --format auto (--data_format in training)"),
    "id-wrong-type": FaultKind("the id is neither text nor a number", "use text"),
    "fields-not-carried": FaultKind("fields of the record that a sample does not have", "keep the original file if they matter", "note"),
    "cannot-say": FaultKind("the output format cannot express the sample", "choose another --to"),
    "id-duplicate": FaultKind("several samples have one id", "give each its own, if anything else relies on it", "note"),
    # conversations
    "conversations-missing": FaultKind("the record has no conversation", "add it"),
    "conversations-wrong-type": FaultKind("the conversation is not a list of turns", "make it a list"),
    "conversations-empty": FaultKind("the conversation has no turns", "add turns, or delete the record"),
    "turn-not-an-object": FaultKind("a turn must be an object with a role and a text", "mend the turn"),
    "role-missing": FaultKind("a turn does not say who speaks", "add the role"),
    "role-unknown": FaultKind("a turn's role is none that is known", "use human, gpt or system (user, assistant)"),
    "text-missing": FaultKind("a turn has no text field", "add the text"),
    "text-wrong-type": FaultKind("a turn's text is not text", "make it a string"),
    "text-not-unicode": FaultKind("the text holds half a character (a lone surrogate)", "mend the text's encoding"),
    "content-part-unknown": FaultKind("a part of a message is neither text nor image", "take it out"),
    "turn-empty": FaultKind("a turn has neither text nor image", "fill it, or take it out with its answer"),
    "system-not-first": FaultKind("a system turn stands after another turn", "put it first"),
    "first-turn-not-user": FaultKind("the conversation does not begin with the user", "take the leading answer out"),
    "turns-not-alternating": FaultKind("two turns of one speaker follow each other", "join them"),
    "nothing-supervised": FaultKind("no assistant's turn has text: nothing could be learnt", "add an answer"),
    "answers-wrong-type": FaultKind("the accepted answers are not a list of texts", "make it a list of texts, or take it out"),
    "ends-with-user": FaultKind("the last turn is the user's: it has no answer and is not learnt", "add the answer, or take the turn out", "note"),
    "special-token-in-text": FaultKind("the text contains the words of a special token; they stay ordinary text", "take them out if they were meant as structure", "note"),
    # images of a record
    "image-markers-missing": FaultKind("fewer <image> in the text than images", "add <image> where the image goes"),
    "image-markers-extra": FaultKind("more <image> in the text than images", "add the image, or take the marker out"),
    "image-field-unknown": FaultKind("a field that looks like an image and is not read, in a record without images", "name it image, with <image> where it goes, or take the field out"),
    "image-wrong-type": FaultKind("an image is not given as path or bytes", "give a path"),
    "image-path-empty": FaultKind("an image's path is empty", "give the path, or take the field out"),
    "image-path-absolute": FaultKind("an image's path is absolute", "give it relative to --image_folder"),
    "image-path-leaves-root": FaultKind("an image's path leaves the image folder through ..", "give a path inside it"),
    "image-symlink-leaves-root": FaultKind("an image's path leaves the image folder through a symbolic link", "copy the file into it"),
    "image-url-remote": FaultKind("an image is a web address", "download it and give its path"),
    "data-url-broken": FaultKind("a data URL does not hold base64 bytes of an image", "encode it again"),
    "glyphs-wrong-number": FaultKind("not one list of glyphs for each image", "give one for each"),
    "glyphs-wrong-type": FaultKind("glyphs that are not lists of [text, x0, y0, x1, y1]", "mend or take them out"),
    # image files
    "image-missing": FaultKind("the image file does not exist", "check --image_folder and the path"),
    "image-not-a-file": FaultKind("the image's path is a folder or a device", "name a file"),
    "image-unreadable": FaultKind("the image file cannot be opened", "check its permissions"),
    "image-empty": FaultKind("the image file has zero bytes", "fetch it again"),
    "image-unknown-format": FaultKind("the file is no image of a known format", "convert it to PNG or JPEG"),
    "image-cut-off": FaultKind("the image file ends too early", "fetch it again"),
    "image-damaged": FaultKind("the image cannot be decoded", "fetch it again"),
    "image-too-large": FaultKind("the image has more pixels than are allowed", "scale it down"),
    # lengths
    "over-long": FaultKind("more tokens than --model_max_length", "raise it, shorten the text, use smaller images, or train with --over_long truncate"),
    "over-long-truncated": FaultKind("cut at a turn's end to fit --model_max_length", "raise it if the rest matters", "note"),
    "too-many-tiles": FaultKind("more tiles than --max_tiles_per_pack", "raise it, or use smaller images"),
    # public data sets (`parsit data import`)
    "layout-missing": FaultKind("the folder does not hold the set in its published layout", "see docs/importing.md for the layout"),
    "annotation-missing": FaultKind("an image's annotation does not exist", "fetch the set again"),
    "annotation-broken": FaultKind("an annotation is not in the set's published layout", "fetch the set again, or check its version"),
    "answer-missing": FaultKind("the annotation holds no answer (test splits often hide theirs)", "choose another --split"),
    "text-unreadable": FaultKind("the text holds glyphs without a character", "leave the page out"),
    # PDFs (`parsit data from-pdf`)
    "pdf-unreadable": FaultKind("the PDF cannot be opened", "mend it, or save a copy without a password"),
    "pdf-page-failed": FaultKind("a page of the PDF cannot be drawn or read", "mend the PDF"),
    "pdf-given-up": FaultKind("too many pages of the PDF failed; the rest was not tried", "mend the PDF"),
    "pdf-duplicate": FaultKind("the PDF has the same bytes as another one; it went into the same split", "delete one of them", "note"),
    "page-no-text": FaultKind("the page has no text layer, or too little text in it", "run OCR on it elsewhere, or leave it out"),
    "page-scanned": FaultKind("the page is a scan with a text layer from OCR", "--allow_scanned takes it"),
    "page-text-not-visible": FaultKind("the text layer holds text that is not in the picture", "leave the page out"),
    "page-text-overlaps": FaultKind("text lies on other text, and one of them cannot be read", "leave the page out"),
    "page-order-unsure": FaultKind("places and drawing order of the words disagree: fractions, diagrams, notes beside the text", "leave the page out"),
    "page-ink-without-text": FaultKind("the page shows more than its text layer says: pictures, charts, text in images", "leave the page out"),
    "page-right-to-left": FaultKind("text runs from right to left, and its order in the file cannot be trusted", "leave the page out"),
    "page-broken-characters": FaultKind("the text layer holds characters without a meaning", "leave the page out"),
    "page-boxes-off": FaultKind("text of the page lies outside the picture", "leave the page out"),
    "page-text-doubled": FaultKind("text lies on itself", "leave the page out"),
    "page-broken-spacing": FaultKind("the words fall apart into letters, or run together", "leave the page out"),
    "page-turned-text": FaultKind("text runs in several directions", "leave the page out"),
    "page-low-quality": FaultKind("the page's quality is below --min_quality", "lower --min_quality"),
    # found while training
    "changed-since-indexed": FaultKind("the sample has another length than when it was indexed", "do not change data during a run"),
}  # fmt: skip


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class DataFault(InputError):
    """Something is wrong with one record, image or file.

    Args:
        code: a key of `FAULTS`.
        detail: what exactly is wrong, without the place.
        place: `file:line`, `file[index]`, `file.tar:key`.
    """

    def __init__(self, code: str, detail: str, place: str = "") -> None:
        # Data speaks in details and places: what would break the line or turn it around is written out.
        detail, place = _printable(detail), _printable(place)
        self.code, self.detail, self.place = code, detail, place
        where = f"{place}: " if place else ""
        super().__init__(f"{where}{detail}: {FAULTS[code].remedy} [{code}]")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Errors travel between processes; `Exception`'s own way would lose the arguments."""
        return DataFault, (self.code, self.detail, self.place)

    def at(self, place: str) -> DataFault:
        """The same fault with its place."""
        return DataFault(self.code, self.detail, place)

    def finding(self, sample_id: str = "") -> Finding:
        """The fault as an entry of a report."""
        return Finding(self.code, self.place, self.detail, sample_id)


@dataclass(frozen=True, slots=True)
class Finding:
    """One entry of a validation report."""

    code: str
    place: str
    detail: str
    sample_id: str = ""

    def __post_init__(self) -> None:
        """One line, whatever the data's names and texts hold."""
        for name in ("place", "detail", "sample_id"):
            object.__setattr__(self, name, _printable(getattr(self, name)))

    @property
    def level(self) -> Level:
        """Whether the sample was set aside."""
        return FAULTS[self.code].level

    def as_json(self) -> dict[str, str]:
        """The finding as a JSON object, with its remedy."""
        return {
            "code": self.code,
            "level": self.level,
            "place": self.place,
            "id": self.sample_id,
            "detail": self.detail,
            "remedy": FAULTS[self.code].remedy,
        }
