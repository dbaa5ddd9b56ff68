"""Checkpoints of a few bytes, written as a run writes them."""

from __future__ import annotations

import torch

from parsit.train.checkpoint import (
    SavedState,
    TrainState,
    begin_checkpoint,
    failing_as_one,
    finish_checkpoint,
    state_files,
)


def save(folder, step, weights=b"weights", **state):
    """A checkpoint with a file of weights that nothing can load."""
    tensors = {"w/exp_avg": torch.full((2,), float(step))}
    saved = SavedState(
        TrainState(step, "data", **state), tensors, {"head": torch.ones(1)}, {"cpu": torch.get_rng_state()}
    )
    with failing_as_one(folder, step):
        draft = begin_checkpoint(folder, step)
        (draft / "config.json").write_text("{}")
        (draft / "model.safetensors").write_bytes(weights)
        return finish_checkpoint(draft, folder, step, state_files(saved, "seed: 1\n").write(draft))
