"""Documents made from scratch, with exact ground truth: one tree, written as a page and as its truth."""

from parsit.synth.run import SynthCounts, check_run, synthesise
from parsit.synth.settings import SynthSettings

__all__ = ["SynthCounts", "SynthSettings", "check_run", "synthesise"]
