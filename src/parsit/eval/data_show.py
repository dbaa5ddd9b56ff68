"""Samples as the model gets them, on a page: its tiles, its tokens, and which of them are learnt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw

from parsit.data.dataset import over_long
from parsit.data.faults import DataFault
from parsit.eval.html import render
from parsit.eval.pictures import Picture, picture
from parsit.processing.processor import Features, ParsitProcessor
from parsit.tiling import NativeLayout
from parsit.types import ImageRef, InputError, Sample

SpanKind = Literal["learnt", "given", "structure", "image"]
_TILE_EDGE = (214, 73, 51)
_MAX_WIDTH, _MAX_HEIGHT = 900, 900


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Neighbouring tokens of one kind: their text as the tokenizer writes it, and how many they are."""

    kind: SpanKind
    text: str
    num_tokens: int


@dataclass(frozen=True, slots=True)
class View:
    """What the tower sees of one image: the overview, or the grid with its tiles outlined (patches are not)."""

    picture: Picture
    caption: str


@dataclass(frozen=True, slots=True)
class Shown:
    """One sample on the page.

    `error`: why it would not be trained on. Where it cannot be read at all, there is nothing else but its place.
    `unit`: what `num_tiles` counts, tiles or patches.
    """

    place: str
    name: str = ""
    error: str = ""
    num_tokens: int = 0
    num_image_tokens: int = 0
    num_learnt: int = 0
    num_tiles: int = 0
    unit: str = "tiles"
    views: tuple[View, ...] = ()
    spans: tuple[TokenSpan, ...] = ()


def show(sample: Sample, processor: ParsitProcessor, max_length: int | None = None) -> Shown:
    """A sample as it is trained on; with the reason why not where it has more than `max_length` tokens."""
    try:
        features = processor.encode(sample.turns)
    except InputError as error:
        return Shown(sample.place, sample.id, str(error))
    error = ""
    if max_length is not None and len(features.input_ids) > max_length:
        error = str(over_long(sample.place, len(features.input_ids), max_length))
    is_image = features.input_ids == processor.chat_tokens.image
    return Shown(
        place=sample.place,
        name=sample.id,
        error=error,
        num_tokens=len(features.input_ids),
        num_image_tokens=int(is_image.sum()),
        num_learnt=features.num_supervised,
        num_tiles=0 if features.pixels is None else len(features.pixels),
        unit=processor.image_processor.layout.unit,
        views=tuple(_views(features, processor)),
        spans=tuple(_spans(features, processor)),
    )


def show_fault(fault: DataFault) -> Shown:
    """The entry of a record that cannot be read as a sample."""
    return Shown(fault.place, error=str(fault))


def page(title: str, shown: list[Shown], notes: list[str]) -> str:
    """The HTML page.

    Args:
        title: its heading.
        shown: the samples.
        notes: sentences above them, such as what was chosen from what.
    """
    return render("data_show.html.jinja", {"title": title, "shown": shown, "notes": notes})


def _spans(features: Features, processor: ParsitProcessor) -> Iterator[TokenSpan]:
    tokens = processor.chat_tokens
    structure = {tokens.im_start, tokens.im_end, tokens.vision_start, tokens.vision_end}

    def kind(pair: tuple[int, int]) -> SpanKind:
        token, label = pair
        if token == tokens.image:
            return "image"
        return "learnt" if label >= 0 else "structure" if token in structure else "given"

    pairs = zip(features.input_ids.tolist(), features.labels.tolist(), strict=True)
    for name, group in groupby(pairs, kind):
        ids = [token for token, _ in group]
        if name == "image":
            yield TokenSpan(name, f"{processor.tokenizer.decode(ids[:1])} × {len(ids)}", len(ids))
        else:
            yield TokenSpan(name, processor.tokenizer.decode(ids, clean_up_tokenization_spaces=False), len(ids))


def _views(features: Features, processor: ParsitProcessor) -> Iterator[View]:
    if features.pixel_values is None:
        return
    images = processor.image_processor
    plans = [images.layout.plan(width, height) for height, width in features.image_sizes.tolist()]
    tiles_of_images = features.pixel_values.split([plan.num_tiles for plan in plans])
    sizes = features.image_sizes.tolist()
    for number, (plan, tiles, (height, width)) in enumerate(zip(plans, tiles_of_images, sizes, strict=True), 1):
        pixels = _to_pixels(tiles, images.image_mean, images.image_std)
        name = f"image {number}, {width} × {height} pixels, {plan.num_tokens} tokens"
        if plan.grid == (0, 0):
            yield View(_picture(pixels[0], (1, 1)), f"{name}: one tile")
            continue
        columns, rows = plan.grid
        grid = pixels[int(plan.overview) :]
        if plan.overview:
            yield View(_picture(pixels[0], (1, 1)), f"{name}: the overview tile")
        side = pixels.shape[1]
        canvas = grid.reshape(rows, columns, side, side, 3).transpose(0, 2, 1, 3, 4).reshape(rows * side, -1, 3)
        if isinstance(images.layout, NativeLayout):
            side = math.prod(images.layout.patches_per_token)
            caption = f"{columns} × {rows} patches, {side} × {side} of them a token"
            yield View(_picture(canvas, (1, 1)), f"{name}: {caption}")
            continue
        yield View(_picture(canvas, plan.grid), f"{name}: a grid of {columns} × {rows} tiles")


def _to_pixels(tiles_N3SS: torch.Tensor, mean: list[float], std: list[float]) -> np.ndarray:
    """Tiles back to `uint8[N, S, S, 3]`."""
    values = tiles_N3SS.numpy().transpose(0, 2, 3, 1) * np.asarray(std) + np.asarray(mean)
    return (values * 255).round().clip(0, 255).astype(np.uint8)


def _picture(pixels_HW3: np.ndarray, grid: tuple[int, int]) -> Picture:
    """The pixels with the edges of their tiles; small ones enlarged, so that an edge hides no letter."""
    image = Image.fromarray(pixels_HW3)
    scale = max(1, min(_MAX_WIDTH // image.width, _MAX_HEIGHT // image.height, 4))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    columns, rows = grid
    width, height = image.width / columns, image.height / rows
    for column in range(columns):
        for row in range(rows):
            corner = (round(column * width), round(row * height))
            far = (round((column + 1) * width) - 1, round((row + 1) * height) - 1)
            draw.rectangle((corner, far), outline=_TILE_EDGE)
    return picture(ImageRef(image), _MAX_WIDTH, _MAX_HEIGHT)
