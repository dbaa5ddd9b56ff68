"""PDFs written by hand, and a page that nothing draws in a human lifetime: what a renderer's time limit is for."""

from __future__ import annotations

# A shading whose colour is computed for each pixel, in PostScript, with some thousand operations.
_CODE = b"{pop pop 0 0 0 %s}" % (b"1 pop " * 1000)
SHADING = b"<</ShadingType 1 /ColorSpace /DeviceRGB /Domain [0 1 0 1] /Matrix [99 0 0 99 0 0] /Function %d 0 R>>"
FUNCTION = b"<</FunctionType 4 /Domain [0 1 0 1] /Range [0 1 0 1 0 1] /Length %d>>\nstream\n%s\nendstream" % (
    len(_CODE),
    _CODE,
)
# Drawn as often as this; the page's resources name it S.
ENDLESS = b"/S sh\n" * 100_000


def shading_objects(number: int) -> list[bytes]:
    """The two objects of the shading, of which the first gets this number in its file."""
    return [SHADING % (number + 1), FUNCTION]


def pdf_of_objects(objects: list[bytes], trailer: bytes = b"") -> bytes:
    """A PDF from its objects: object 1 must be the catalog. The cross-reference table is right."""
    parts, offsets, position = [b"%PDF-1.4\n"], [], 9
    for number, body in enumerate(objects, start=1):
        offsets.append(position)
        parts.append(b"%d 0 obj\n%s\nendobj\n" % (number, body))
        position += len(parts[-1])
    count = len(objects) + 1
    parts.append(b"xref\n0 %d\n0000000000 65535 f \n" % count)
    parts += [b"%010d 00000 n \n" % offset for offset in offsets]
    parts.append(b"trailer\n<</Size %d /Root 1 0 R %s>>\nstartxref\n%d\n%%%%EOF\n" % (count, trailer, position))
    return b"".join(parts)


def objects_of_pages(pages: list[tuple[float, float, bytes]]) -> list[bytes]:
    """The objects of a PDF of pages given as (width, height in points, content stream)."""
    shading = 3
    first_page = shading + 2
    resources = b"<</Shading <</S %d 0 R>>>>" % shading
    kids = b" ".join(b"%d 0 R" % (first_page + 2 * i) for i in range(len(pages)))
    objects = [b"<</Type /Catalog /Pages 2 0 R>>", b"<</Type /Pages /Count %d /Kids [%s]>>" % (len(pages), kids)]
    objects += shading_objects(shading)
    for i, (width, height, content) in enumerate(pages):
        box = b"[0 0 %s %s]" % (str(width).encode(), str(height).encode())
        page = b"<</Type /Page /Parent 2 0 R /MediaBox %s /Resources %s /Contents %d 0 R>>"
        objects.append(page % (box, resources, first_page + 2 * i + 1))
        objects.append(b"<</Length %d>>\nstream\n%s\nendstream" % (len(content), content))
    return objects


def text_page(content: bytes, width: int = 400, height: int = 300) -> bytes:
    """A PDF of one page with this content, whose font F is Helvetica (WinAnsi)."""
    objects = [
        b"<</Type /Catalog /Pages 2 0 R>>",
        b"<</Type /Pages /Count 1 /Kids [3 0 R]>>",
        b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Contents 4 0 R" % (width, height)
        + b" /Resources <</Font <</F 5 0 R>>>>>>",
        b"<</Length %d>>\nstream\n%s\nendstream" % (len(content), content),
        b"<</Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding>>",
    ]
    return pdf_of_objects(objects)
