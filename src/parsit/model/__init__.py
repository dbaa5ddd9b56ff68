"""Floor 2: tensors to logits. Configuration, projector, network, loss. No files, no images."""

from parsit.model.base import ParsitModel
from parsit.model.configuration import ParsitConfig
from parsit.model.modeling import ParsitForConditionalGeneration, ParsitOutput

__all__ = ["ParsitConfig", "ParsitForConditionalGeneration", "ParsitModel", "ParsitOutput"]
