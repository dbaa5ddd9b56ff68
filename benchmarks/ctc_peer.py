"""A classical line reader to measure `tiny` against: convolutions, a two-way LSTM, CTC, no language model.

The shape is kraken's default recogniser (RECOGNITION_SPEC in kraken/lib/default_specs.py of mittagessen/kraken):
four convolutions of 32, 32, 64, 64 channels and 3 x 13, 3 x 13, 3 x 9, 3 x 9 pixels, the first three each pooled by 2,
what stands above each other joined to one column, LSTMs of 200 in each direction, dropout of 0.1. Two things are
smaller, to have 2.4 million parameters instead of 4: lines are 64 pixels high instead of 120, and there are two LSTMs
instead of three. CTC: Graves et al. 2006. Adam at kraken's 1e-3 with the rate's course of our own presets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from parsit.processing.images import Source, load_image
from parsit.types import Sample

HEIGHT_PX, MARGIN_PX, POOLED = 64, 16, 8
BATCH, BATCHES_SORTED = 16, 32
RATE, CLIP_NORM = 1e-3, 1.0
BLANK = 0


class LineReader(nn.Module):
    """Grey lines to scores of characters, a column for every 8 pixels."""

    def __init__(self, num_characters: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for channels_in, channels, width, is_pooled in (
            (1, 32, 13, 1),
            (32, 32, 13, 1),
            (32, 64, 9, 1),
            (64, 64, 9, 0),
        ):
            parts += [nn.Conv2d(channels_in, channels, (3, width), padding="same"), nn.ReLU(), nn.Dropout2d(0.1)]
            parts += [nn.MaxPool2d(2)] if is_pooled else []
        self.convolutions = nn.Sequential(*parts)
        rows = HEIGHT_PX // POOLED
        self.lstm = nn.LSTM(64 * rows, 200, num_layers=2, bidirectional=True, dropout=0.1, batch_first=True)
        self.head = nn.Linear(400, num_characters + 1)

    def forward(self, pixels_B1HW: torch.Tensor, columns_B: torch.Tensor) -> torch.Tensor:
        """Log-probabilities, `float[columns, B, characters + 1]`; behind a line's own columns they mean nothing."""
        columns_BWD = self.convolutions(pixels_B1HW).flatten(1, 2).transpose(1, 2)
        packed = nn.utils.rnn.pack_padded_sequence(columns_BWD, columns_B, batch_first=True, enforce_sorted=False)
        states_BWD, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.head(states_BWD).log_softmax(-1).transpose(0, 1)


def picture_of(source: Source) -> np.ndarray:
    """A line, `float32[H, W]`, 64 pixels high, ink 1 and paper 0, with paper at both ends."""
    grey = load_image(source).convert("L")
    width = max(1, round(grey.width * HEIGHT_PX / grey.height))
    scaled = np.asarray(grey.resize((width, HEIGHT_PX), Image.Resampling.BILINEAR), np.float32)
    return np.pad(1 - scaled / 255, ((0, 0), (MARGIN_PX, MARGIN_PX)), mode="edge")


def source_of(sample: Sample) -> Source:
    """The one image of a line's sample."""
    [image] = sample.turns[0].images
    return image.source


def batch_of(sources: Sequence[Source]) -> tuple[torch.Tensor, torch.Tensor]:
    """Lines side by side, padded with paper, and how many columns each has."""
    pictures = [picture_of(source) for source in sources]
    widths = [-(-picture.shape[1] // POOLED) * POOLED for picture in pictures]
    pixels = np.zeros((len(pictures), 1, HEIGHT_PX, max(widths)), np.float32)
    for row, picture in zip(pixels, pictures, strict=True):
        row[0, :, : picture.shape[1]] = picture
    return torch.from_numpy(pixels), torch.tensor(widths) // POOLED


def shuffled(samples: list[Sample], seed: int) -> Iterator[list[Sample]]:
    """Batches without end, every sample once a round; lines of like length are together, which saves padding."""
    rng = Random(seed)
    while True:
        order = rng.sample(samples, len(samples))
        for start in range(0, len(order), BATCH * BATCHES_SORTED):
            part = sorted(order[start : start + BATCH * BATCHES_SORTED], key=lambda sample: len(sample.turns[-1].text))
            batches = [part[at : at + BATCH] for at in range(0, len(part), BATCH)]
            yield from rng.sample(batches, len(batches))


class Peer:
    """The reader with its alphabet and its optimizer.

    Args:
        characters: what it can write.
        seed: of its first weights.
    """

    def __init__(self, characters: Sequence[str], seed: int) -> None:
        torch.manual_seed(seed)
        self.characters = list(characters)
        self._ids = {c: place for place, c in enumerate(self.characters, BLANK + 1)}
        self.model = LineReader(len(self.characters))
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE)

    @classmethod
    def for_samples(cls, samples: Sequence[Sample], seed: int) -> Peer:
        """One that can write every character of the samples' texts."""
        return cls(sorted({c for sample in samples for c in sample.turns[-1].text}), seed)

    @classmethod
    def load(cls, file: str | Path) -> Peer:
        """What `save` wrote, to read with."""
        with safe_open(file, "pt") as opened:
            peer = cls(json.loads(opened.metadata()["characters"]), 0)
            peer.model.load_state_dict({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
        return peer

    def save(self, file: str | Path) -> None:
        """Write weights and alphabet."""
        save_file(self.model.state_dict(), file, {"characters": json.dumps(self.characters)})

    @property
    def num_parameters(self) -> int:
        return sum(weights.numel() for weights in self.model.parameters())

    def step(self, samples: Sequence[Sample], lines: tuple[torch.Tensor, torch.Tensor], factor: float) -> float:
        """One update on samples and `batch_of` them, at `factor` times the highest rate; gives the loss a character."""
        pixels_B1HW, columns_B = lines
        texts = [[self._ids[c] for c in sample.turns[-1].text] for sample in samples]
        lengths = torch.tensor([len(text) for text in texts])
        targets = torch.tensor([place for text in texts for place in text])
        scores = self.model(pixels_B1HW, columns_B)
        losses = nn.functional.ctc_loss(scores, targets, columns_B, lengths, BLANK, reduction="sum", zero_infinity=True)
        loss = losses / lengths.sum()
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = RATE * factor
        self._optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def read(self, sources: Sequence[Source]) -> list[str]:
        """The likeliest character of each column; repeats and blanks go."""
        self.model.eval()
        texts = []
        for start in range(0, len(sources), BATCH):
            pixels_B1HW, columns_B = batch_of(sources[start : start + BATCH])
            best_WB = self.model(pixels_B1HW, columns_B).argmax(-1)
            for column, count in enumerate(columns_B.tolist()):
                texts.append(self._text(best_WB[:count, column].unique_consecutive().tolist()))
        self.model.train()
        return texts

    def _text(self, ids: Sequence[int]) -> str:
        return "".join(self.characters[place - 1] for place in ids if place != BLANK)
