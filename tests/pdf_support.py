"""A page that nothing draws in a human lifetime, and that needs no memory: what a renderer's time limit is for."""

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
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (number, each) for number, each in enumerate(objects, 1))
    return b"%PDF-1.4\n" + body + b"trailer\n<</Size 6 /Root 1 0 R>>\n%%EOF\n"
