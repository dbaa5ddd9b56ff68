"""Files that are written whole or not at all, and the folder of a run.

Every verb writes through this room, so that one rule holds for all: what carries its final name is complete, and an
output never destroys an input. It knows bytes, paths and JSON alone.
"""

from parsit.files.outputs import refuse_inputs, refuse_other_content
from parsit.files.whole import WholeFile, whole_folder, write_whole

__all__ = ["WholeFile", "refuse_inputs", "refuse_other_content", "whole_folder", "write_whole"]
