"""`--torch_compile`: the layers of tower and decoder, compiled one kind at a time.

A layer in plain words goes over its row a dozen times between matrix products (norms, rotations, gates, sums), which
takes memory's time and not arithmetic's; compiled, these passes are fused. All layers of a kind share one compilation,
and the sizes of rows and packs are symbols in it: nothing is compiled anew for another batch, and a resumed run
computes what the first one did. Gradient checkpointing is compiled along. Where packed rows fall back to one attention
call for each conversation (CPUs, fp32), the layer is compiled in the pieces around it, and under gradient checkpointing
not at all.
"""

from __future__ import annotations

import importlib.util
import shutil

from parsit.model import ParsitForConditionalGeneration
from parsit.train.parts import layers_of


def compile_layers(model: ParsitForConditionalGeneration) -> None:
    """Have every layer of tower and decoder compiled at its first call."""
    for layer in [*layers_of(model.vision_tower), *layers_of(model.get_decoder())]:
        layer.compile(dynamic=True)


def missing_compiler(device_type: str) -> str | None:
    """What torch.compile needs on a device and does not find; None: it is there."""
    if device_type == "cuda":
        return None if importlib.util.find_spec("triton") else "the package triton"
    return None if any(shutil.which(name) for name in ("g++", "clang++")) else "a C++ compiler (g++)"
