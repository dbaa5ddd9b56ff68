"""Images at native resolution: SigLIP2 NaFlex's tower over one row of all images' patches, and its patches to tokens.

The modules are `transformers`' own, and so are the weights' names. What is done here instead of in its forward pass is
the row: `transformers` pads each image to the longest. Here the images of a batch lie one behind the other, no patch
sees another image's (`parsit.model.packed_attention`), and nothing is padded.

Positions are the trained grid's, scaled to each image's (bilinear with antialiasing, as `F.interpolate` has it). That
is linear and separable, so that a patch's position is its row's weights times its column's, over the grid: one product
for the whole batch, in fp32. The weights follow from the images' sizes, which the CPU knows; no GPU is waited for, and
the backward pass, unlike that of `F.interpolate` on a GPU, gives the same bits each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from parsit.model import packed_attention
from parsit.model.merge import merge_rows, on_device
from parsit.tiling import ImagePlan, NativeLayout

# Here and not where a tower is made: one that came from another process was made there.
packed_attention.register()


class NativeTower(nn.Module):
    """SigLIP2's embeddings and encoder, called with one row of patches.

    Args:
        tower: `transformers`' module, whose final norm and head are left behind.
    """

    embeddings: Any
    encoder: Any

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.embeddings, self.encoder = tower.embeddings, tower.encoder
        self.encoder.config._attn_implementation = packed_attention.IMAGES

    def forward(self, pixel_values: torch.Tensor, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
        """`float[N, 3, S, S]`, patches of all images row by row, to features `float[N, D]`.

        Args:
            pixel_values: the patches.
            grids: (columns, rows) of each image.
        """
        # SigLIP2 has a patch's pixels in the order rows, columns, channels.
        patches_1NP = pixel_values.permute(0, 2, 3, 1).flatten(1)[None]
        hidden_1ND = self.embeddings.patch_embedding(patches_1NP) + self._positions(grids)
        cuts = packed_attention.ImageCuts.of([columns * rows for columns, rows in grids], hidden_1ND.device)
        return self.encoder(inputs_embeds=hidden_1ND, attention_mask=cuts).last_hidden_state[0]

    def _positions(self, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
        """`float[N, D]`: where each patch stands in its image."""
        embedding = self.embeddings.position_embedding
        # Called rather than read: a strategy that shards weights gathers them at calls.
        table_GD = embedding(torch.arange(embedding.num_embeddings, device=embedding.weight.device))
        side = self.embeddings.position_embedding_size
        of_rows_NS, of_columns_NS = on_device(position_weights(grids, side), table_GD.device)
        with torch.autocast(table_GD.device.type, enabled=False):
            weights_NG = (of_rows_NS[:, :, None] * of_columns_NS[:, None]).flatten(1)
            return (weights_NG @ table_GD.float()).to(table_GD.dtype)


def position_weights(grids: Sequence[tuple[int, int]], side: int) -> np.ndarray:
    """`float32[2, N, side]`: for each patch the weights of the trained grid's rows, and those of its columns.

    Args:
        grids: (columns, rows) of each image.
        side: of the trained grid, which is square.
    """
    of_rows = [np.repeat(axis_weights(rows, side), columns, axis=0) for columns, rows in grids]
    of_columns = [np.tile(axis_weights(columns, side), (rows, 1)) for columns, rows in grids]
    return np.stack([np.concatenate(of_rows), np.concatenate(of_columns)])


@lru_cache(maxsize=4096)
def axis_weights(length: int, side: int) -> np.ndarray:
    """`float32[length, side]`: a line of `side` numbers to `length`, each row adding up to 1.

    A triangle around each place, as wide as what it stands for where the line is shortened (`torch.nn.functional`:
    `interpolate` with mode bilinear, antialias, and corners that are not aligned).
    """
    scale = side / length
    middles = (np.arange(length) + 0.5) * scale
    distances = np.abs(np.arange(side) + 0.5 - middles[:, None]) / max(scale, 1.0)
    weights = np.clip(1.0 - distances, 0.0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def image_tokens(
    features_ND: torch.Tensor,
    plans: Sequence[ImagePlan],
    layout: NativeLayout,
    projector: nn.Module,
    newline_D: torch.Tensor | None,
) -> torch.Tensor:
    """Patches to tokens: squares shuffled, projected and pooled, rows closed. `float[sum of plan.num_tokens, D]`.

    Args:
        features_ND: of all images' patches, row by row.
        plans: the images' plans.
        layout: the model's layout.
        projector: from the tower's features, those of a shuffled square side by side, to tokens.
        newline_D: the learned end of a row; None where the merge type has none.
    """
    pooled, shuffled = layout.patches_per_token
    if pooled * shuffled > 1:
        order = np.concatenate(_from(plans, [_squares(plan.grid, pooled, shuffled) for plan in plans]))
        features_ND = features_ND.index_select(0, on_device(order, features_ND.device))
    projected_SD = projector(features_ND.reshape(-1, shuffled**2 * features_ND.shape[1]))
    tokens_TD = _pool(projected_SD.unflatten(0, (-1, pooled, pooled)), layout.mm_spatial_pool_mode)
    return merge_rows(tokens_TD, [(plan.crop[1], plan.crop[3]) for plan in plans], newline_D)


def _from(plans: Sequence[ImagePlan], parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Places in each image as places in the batch."""
    firsts = np.cumsum([0, *(plan.num_tiles for plan in plans)])
    return [part + first for part, first in zip(parts, firsts[:-1], strict=True)]


@lru_cache(maxsize=4096)
def _squares(grid: tuple[int, int], pooled: int, shuffled: int) -> np.ndarray:
    """`int[columns * rows]`: patches token by token, in a token square by square; squares are pooled."""
    columns, rows = grid
    side = pooled * shuffled
    map_HW = np.arange(columns * rows).reshape(rows // side, pooled, shuffled, columns // side, pooled, shuffled)
    return map_HW.transpose(0, 3, 1, 4, 2, 5).ravel()


def _pool(squares_TYXD: torch.Tensor, mode: str) -> torch.Tensor:
    """Each square of projected features as one: `float[T, side, side, D]` to `float[T, D]`."""
    side = squares_TYXD.shape[1]
    if side == 1:
        return squares_TYXD[:, 0, 0]
    if mode == "max":
        return squares_TYXD.amax(dim=(1, 2))
    if mode == "bilinear":  # what stands in the middle: one, or four where the side is even
        middle = slice((side - 1) // 2, side // 2 + 1)
        squares_TYXD = squares_TYXD[:, middle, middle]
    return squares_TYXD.mean(dim=(1, 2))
