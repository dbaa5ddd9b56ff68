"""What one server gives to its clients: every limit of `parsit serve` in one place, all of them on by default."""

from __future__ import annotations

from dataclasses import dataclass

from parsit.parse.pages import ReadingLimits


@dataclass(frozen=True, slots=True)
class ServeLimits:
    """Limits of one server. Sizes in bytes, times in seconds.

    Args:
        max_body_bytes: of one request, upload and all.
        max_image_pixels: of one image (width × height), by its header.
        max_images: in one conversation, pages of PDFs included.
        max_pixels: of all images of a conversation together.
        max_pages: of one parsed file.
        max_page_pixels: a page that has more is scaled down, and flagged `reduced`.
        max_tokens: of one answer or of one page or line.
        max_seconds: of one answer, from its arrival.
        max_parse_seconds: of one parsed file.
        max_queue: answers that may wait; more are told to come again (429).
        max_parses: files that are parsed at a time.
        max_parse_queue: files that may wait, jobs included.
        kept_seconds: how long a job's result and an uploaded file are kept.
        max_kept_bytes: of uploaded files together.
        max_kept_jobs: jobs that are known at a time.
        body_seconds: how long a client may be silent while it sends.
    """

    max_body_bytes: int = 64 << 20
    max_image_pixels: int = 36_000_000
    max_images: int = 16
    max_pixels: int = 100_000_000
    max_pages: int = 200
    max_page_pixels: int = 12_000_000
    max_tokens: int = 4400
    max_seconds: float = 600.0
    max_parse_seconds: float = 3600.0
    max_queue: int = 64
    max_parses: int = 2
    max_parse_queue: int = 16
    kept_seconds: float = 3600.0
    max_kept_bytes: int = 256 << 20
    max_kept_jobs: int = 200
    body_seconds: float = 60.0

    @property
    def reading(self) -> ReadingLimits:
        """What one file may take of this machine."""
        return ReadingLimits(
            max_file_bytes=self.max_body_bytes, max_pages=self.max_pages, max_page_pixels=self.max_page_pixels
        )
