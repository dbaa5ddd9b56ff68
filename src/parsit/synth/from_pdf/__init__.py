"""Page images with their text, from any PDFs that have a text layer.

A page goes through `pdf` (its characters, from a process that can be killed), `gate` (is the text what the picture
shows?), `words` and `order` (pieces of lines in reading order), `text` (paragraphs), `document` (one PDF), `run` (all).
"""

from parsit.synth.from_pdf.document import PdfResult
from parsit.synth.from_pdf.run import PdfCounts, make_from_pdfs, pdfs_in
from parsit.synth.from_pdf.settings import FromPdfSettings

__all__ = ["FromPdfSettings", "PdfCounts", "PdfResult", "make_from_pdfs", "pdfs_in"]
