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
