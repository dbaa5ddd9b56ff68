"""The loss: cross-entropy of the supervised positions, each counted once (design D5).

Logits over a vocabulary of 152k for image and user positions would cost memory for nothing, so
only positions with a label go through `lm_head`, in one call (`parsit.model.head` has the chunks).
It is called where nothing is supervised, too: the number of module calls must never depend on the
data, or ranks wait for each other for ever under ZeRO-3 and FSDP2.
"""

from __future__ import annotations

import torch

from parsit.model.head import SupervisedHead

IGNORE_INDEX = -100


def supervised_loss(
    hidden_BTD: torch.Tensor, labels_BT: torch.Tensor, lm_head: SupervisedHead, num_items: torch.Tensor | int | None
) -> torch.Tensor:
    """Summed cross-entropy of the next-token labels over `num_items`.

    Args:
        hidden_BTD: the decoder's output.
        labels_BT: `int[B, T]`; position t is predicted from t - 1; -100 is not supervised.
        lm_head: hidden states and targets to their loss.
        num_items: what the sum is divided by: the supervised tokens of the whole optimizer step over
            all ranks; None: those of this batch.

    Returns:
        A scalar in fp32. Zero where nothing is supervised.
    """
    targets_BS = labels_BT[:, 1:]
    supervised_BS = targets_BS != IGNORE_INDEX
    hidden_ND = hidden_BTD[:, :-1][supervised_BS]
    targets_N = targets_BS[supervised_BS]
    if num_items is None:
        num_items = max(targets_N.numel(), 1)
    return lm_head(hidden_ND, targets=targets_N) / num_items
