"""A request's messages to turns: images are decoded here, so that what cannot be read is said before anything waits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from PIL import Image

from parsit.processing.images import load_image
from parsit.processing.processor import image_from_url
from parsit.serve.files import StoredFile, pages_of
from parsit.serve.limits import ServeLimits
from parsit.serve.protocol import FileRef, Message, Part
from parsit.serve.remote import fetch
from parsit.types import ImageRef, InputError, Role, Turn


@dataclass(frozen=True, slots=True)
class ConversationReader:
    """Turns messages into turns.

    Args:
        limits: what images may take.
        image_hosts: where images may be fetched.
        stored: uploaded files by id.
    """

    limits: ServeLimits
    image_hosts: Collection[str]
    stored: Callable[[str], StoredFile]

    def turns(self, messages: Sequence[Message]) -> tuple[Turn, ...]:
        """The turns. Raises `InputError` for an image that cannot be had, `ServeError` for a file that is not there."""
        turns, num_images, num_pixels = [], 0, 0
        for message in messages:
            role: Role = "system" if message.role == "developer" else message.role
            content = [Part(type="text", text=message.content)] if isinstance(message.content, str) else message.content
            parts: list[str | ImageRef] = []
            for part in content:
                images = self._images(part)
                num_images += len(images)
                num_pixels += sum(image.width * image.height for image in images)
                if num_images > self.limits.max_images or num_pixels > self.limits.max_pixels:
                    raise InputError(
                        f"a conversation shows at most {self.limits.max_images} images and pages, "
                        f"of {self.limits.max_pixels:,} pixels together"
                    )
                parts += map(ImageRef, images) if part.type != "text" else [part.text or ""]
            turns.append(Turn(role, tuple(parts)))
        if turns[-1].role != "user":
            raise InputError("the last message must be the user's")
        return tuple(turns)

    def _images(self, part: Part) -> list[Image.Image]:
        """The images of one part."""
        if part.type == "text":
            return []
        if part.type == "file":
            return self._pages(part.file or FileRef())
        if part.image_url is None:
            raise InputError("a part of type image_url needs image_url")
        url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
        return [load_image(self._bytes(url), max_pixels=self.limits.max_image_pixels)]

    def _pages(self, file: FileRef) -> list[Image.Image]:
        """The pages of an uploaded or enclosed file, an image or a PDF."""
        if file.file_id is not None:
            stored = self.stored(file.file_id)
            return pages_of(stored.name, stored.data, self.limits)
        if file.file_data is not None:
            return pages_of(file.filename or "file", self._bytes(file.file_data), self.limits)
        raise InputError("a part of type file needs file_id or file_data")

    def _bytes(self, url: str) -> bytes:
        if url[:5].lower() != "data:":
            return fetch(url, self.image_hosts, self.limits.max_body_bytes)
        try:
            return image_from_url(url)
        except ValueError as error:
            raise InputError(str(error)) from error
