"""Geometry of images: which tiles an image is cut into and how many tokens it becomes. Pure integers, no pixels.

Processing (which cuts the tiles and writes the placeholders) and the model (which puts the
features back together) both ask this room, so that the two can never disagree on a number.
"""

from parsit.tiling.layout import ImageLayout, ImagePlan

__all__ = ["ImageLayout", "ImagePlan"]
