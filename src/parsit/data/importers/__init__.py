"""Public document sets, as they are published, to samples: one module for each layout.

Every module's docstring states the layout that it reads and where that is described. Nothing is downloaded, and no set
is part of Parsit: each has its own licence, which its card states.
"""

from __future__ import annotations

from parsit.data.importers.common import Importer, Item, Items, PublishedSet, RenderPage
from parsit.data.importers.cord import CORD
from parsit.data.importers.docbank import DOCBANK
from parsit.data.importers.funsd import FUNSD
from parsit.data.importers.olmocr import OLMOCR
from parsit.data.importers.pubtabnet import PUBTABNET
from parsit.data.importers.questions import CHARTQA, DOCVQA, INFOGRAPHICVQA
from parsit.data.importers.sroie import SROIE

IMPORTERS: dict[str, Importer] = {
    importer.name: importer
    for importer in (DOCVQA, INFOGRAPHICVQA, CHARTQA, FUNSD, SROIE, CORD, PUBTABNET, DOCBANK, OLMOCR)
}

__all__ = ["IMPORTERS", "Importer", "Item", "Items", "PublishedSet", "RenderPage"]
