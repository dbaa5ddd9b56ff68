"""Floor 2: one conversation to tensors. Images, tiles, chat format, the processor. No network, no weights."""

from parsit.processing.collate import Batch, collate
from parsit.processing.image_processor import ParsitImageProcessor
from parsit.processing.processor import Features, ParsitProcessor

__all__ = ["Batch", "Features", "ParsitImageProcessor", "ParsitProcessor", "collate"]
