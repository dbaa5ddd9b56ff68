"""The projector at its learning rate: gradients stay small whatever the features are, and the norm's part in it.

On this model gradients stay small without the norm as well: the decoder's own norms come next, and what they divide by
grows with the tokens (docs/experiments.md). What the norm does is shown on the tokens themselves.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from parsit import hf
from parsit.config import TrainConfig
from parsit.data.dataset import in_memory
from parsit.data.loader import Loader
from parsit.data.plan import Padded, Plan
from parsit.train.objective import Objective, StepCounts
from parsit.train.parts import set_tunable
from parsit.train.strategies.base import Strategy
from parsit.train.world import World

LIMIT = 50.0
# The features of pretrained SigLIP towers have single channels in the tens and hundreds; random towers have none.
OUTLIERS = 100.0


def gradient_norms(architecture, processor, samples, projector: str, steps: int) -> list[float]:
    """Norms before clipping of pretraining steps (projector alone, 1e-3) on a tower with outlier channels."""
    architecture = replace(architecture, multimodal=architecture.multimodal | {"mm_projector_type": projector})
    model = hf.new_model(architecture, processor, seed=0)
    with torch.no_grad():
        # The last layer that is run adds to a few channels whatever it sees.
        bias = model.vision_tower.encoder.layers[-1].mlp.fc2.bias
        bias[:4] += OUTLIERS
    set_tunable(model, ["mm_mlp_adapter"])
    config = TrainConfig(bf16="false", learning_rate=1e-3, output_dir="unused")
    strategy = Strategy(Objective(model, 0.0).train(), config, World())
    data = in_memory(samples, processor, 512)
    plan = Plan(Padded(data.num_tokens, data.num_tiles, 4), 1)
    norms = []
    for (loaded,) in Loader(data, processor, plan, steps):
        strategy.backward(loaded.batch, StepCounts.of([loaded.batch]), last=True)
        norms.append(strategy.update(1.0, lambda norm: None))
    return norms


@pytest.mark.slow
def test_a_thousand_steps_at_1e_3_never_show_a_large_gradient(mini, processor, samples):
    norms = gradient_norms(mini, processor, samples, "mlp2x_gelu", 1000)
    assert len(norms) == 1000
    assert max(norms) < LIMIT


def test_without_the_norm_image_tokens_are_as_large_as_the_features_happen_to_be():
    """The decoder's residual stream adds them to its layers' outputs: tokens 1,000 times as large drown these."""
    from parsit.model.projector import build_projector

    torch.manual_seed(0)
    features = torch.randn(64, 32)
    sizes = {}
    for kind in ("mlp2x_gelu", "mlp2x_gelu_no_norm"):
        projector = build_projector(kind, 32, 48)
        sizes[kind] = [float(projector(features * scale).pow(2).mean().sqrt()) for scale in (1, 1000)]
    small, large = sizes["mlp2x_gelu"]
    assert large / small < 1.5
    small, large = sizes["mlp2x_gelu_no_norm"]
    assert large / small > 300
