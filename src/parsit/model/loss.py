"""The loss: cross-entropy of the supervised positions, each counted once (design D5).

Logits over a vocabulary of 152k for image and user positions would cost memory for nothing, so
only positions with a label go through `lm_head`, in one call (`parsit.model.head` has the chunks).
It is called where nothing is supervised, too: the number of module calls must never depend on the
data, or ranks wait for each other for ever under ZeRO-3 and FSDP2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from parsit.model.head import SupervisedHead

IGNORE_INDEX = -100


def supervised_loss(
    hidden_BTD: torch.Tensor,
    labels_BT: torch.Tensor,
    lm_head: SupervisedHead,
    num_items: torch.Tensor | int | None,
    positions_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """Summed cross-entropy of the next-token labels over `num_items`.

    Args:
        hidden_BTD: the decoder's output.
        labels_BT: `int[B, T]`; position t is predicted from t - 1; -100 is not supervised.
        lm_head: hidden states and targets to their loss.
        num_items: what the sum is divided by: the supervised tokens of the whole optimizer step over
            all ranks; None: those of this batch.
        positions_N: `int[N]`, the positions that are supervised, in the flattened batch, whose next token has a
            label; None: they are looked for, which waits for the GPU.

    Returns:
        A scalar in fp32. Zero where nothing is supervised.
    """
    next_labels = F.pad(labels_BT[:, 1:], (0, 1), value=IGNORE_INDEX).flatten()
    if positions_N is None:
        positions_N = (next_labels != IGNORE_INDEX).nonzero()[:, 0]
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, positions_N)
    targets_N = next_labels.index_select(0, positions_N)
    if num_items is None:
        num_items = max(targets_N.numel(), 1)
    return lm_head(hidden_ND, targets=targets_N) / num_items
