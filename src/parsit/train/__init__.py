"""Floor 4: the training run. Loop, strategy, optimizer, checkpoints, metrics."""

from parsit.files.manifest import verify
from parsit.files.run_folder import find_newest
from parsit.train.loop import train

__all__ = ["find_newest", "train", "verify"]
