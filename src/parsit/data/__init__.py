"""Floor 3: files to batches. Formats, index, plan, loader."""

from parsit.data.index import Index, build_index
from parsit.data.loader import BadBatch, loader
from parsit.data.native import read_files
from parsit.data.plan import Plan

__all__ = ["BadBatch", "Index", "Plan", "build_index", "loader", "read_files"]
