"""Packs: samples put together until a pack is full, by tokens and by tiles.

Best-fit decreasing (Johnson 1974) in two dimensions: the largest sample first, by the larger of its shares of a pack's
tokens and tiles, each into the pack that it leaves the least room in. Open packs stand in buckets by their free tiles
and free tokens; for each number of free tiles a big integer has a bit for each number of free tokens, so that the
tightest pack is found without looking at the others, and a million samples take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Packs:
    """`samples`: `int64[samples]`, pack after pack; `starts`: `int64[packs + 1]`, where each begins."""

    samples: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        """Number of packs."""
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> np.ndarray:
        """The samples of one pack."""
        return self.samples[self.starts[number] : self.starts[number + 1]]


def best_fit(
    num_tokens: np.ndarray, num_tiles: np.ndarray, max_tokens: int, max_tiles: int, order: np.ndarray
) -> Packs:
    """Samples in packs of at most `max_tokens` tokens and `max_tiles` tiles.

    Args:
        num_tokens: `int[samples]`.
        num_tiles: `int[samples]`.
        max_tokens: capacity of a pack; no sample is longer.
        max_tiles: capacity in tiles; 0: no limit.
        order: `int[samples]`, decides between samples of one length.

    Raises:
        ValueError: a sample that is larger than a pack.
    """
    too_large = (num_tokens > max_tokens) | ((num_tiles > max_tiles) if max_tiles else False)
    if np.any(too_large):
        raise ValueError(f"sample {int(np.argmax(too_large))} is larger than a pack")
    share = num_tokens / max_tokens
    if max_tiles:
        share = np.maximum(share, num_tiles / max_tiles)
    largest_first = order[np.argsort(-share[order], kind="stable")]
    tiles = num_tiles.tolist() if max_tiles else [0] * len(num_tokens)
    members: list[list[int]] = []
    open_packs = _OpenPacks(max_tokens, max_tiles)
    for sample, need in zip(largest_first.tolist(), num_tokens[largest_first].tolist(), strict=True):
        found = open_packs.take(need, tiles[sample])
        if found is None:
            found = len(members), max_tokens, max_tiles
            members.append([])
        pack, free, free_tiles = found
        members[pack].append(sample)
        open_packs.put(pack, free - need, free_tiles - tiles[sample])
    sizes = np.fromiter((len(pack) for pack in members), np.int64, len(members))
    flat = np.fromiter((sample for pack in members for sample in pack), np.int64, len(num_tokens))
    return Packs(flat, np.concatenate([[0], np.cumsum(sizes)]))


class _OpenPacks:
    """Open packs, sorted by how much room is free in them."""

    def __init__(self, max_tokens: int, max_tiles: int) -> None:
        self.tile_weight = max_tokens / max(max_tiles, 1)
        self.packs: list[dict[int, list[int]]] = [{} for _ in range(max_tiles + 1)]  # [free tiles][free tokens]
        self.occupied = [0] * (max_tiles + 1)  # [free tiles]: a bit for each number of free tokens

    def put(self, pack: int, free: int, free_tiles: int) -> None:
        """Add a pack."""
        if free:
            self.packs[free_tiles].setdefault(free, []).append(pack)
            self.occupied[free_tiles] |= 1 << free

    def take(self, need: int, need_tiles: int) -> tuple[int, int, int] | None:
        """Remove the pack that has room and would have the least left; (pack, free tokens, free tiles)."""
        best: tuple[int, int] | None = None
        least = float("inf")
        for free_tiles in range(need_tiles, len(self.occupied)):
            above = self.occupied[free_tiles] >> need
            if above:
                rest = (above & -above).bit_length() - 1
                left = rest + (free_tiles - need_tiles) * self.tile_weight
                if left < least:
                    least, best = left, (need + rest, free_tiles)
        if best is None:
            return None
        free, free_tiles = best
        bucket = self.packs[free_tiles][free]
        pack = bucket.pop()
        if not bucket:
            del self.packs[free_tiles][free]
            self.occupied[free_tiles] ^= 1 << free
        return pack, free, free_tiles
