"""TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from parsit.train.parts import PartReport
from parsit.train.trackers.common import Silent, named, require, settings_of


class TensorBoard(Silent):
    """Event files in DIR/tensorboard."""

    def __init__(self, output_dir: Path, name: str, first_step: int, say: Callable[[str], None]) -> None:
        super().__init__(output_dir, name, first_step, say)
        require("tensorboard", "tensorboard")
        self._writer: Any = None

    def start(self, config: Mapping[str, object], parts: Sequence[PartReport]) -> None:
        """Begin or go on, see `Tracker.start`."""
        from torch.utils.tensorboard import SummaryWriter

        # Makes TensorBoard forget what an interrupted run wrote beyond the checkpoint.
        self._writer = SummaryWriter(str(self.output_dir / "tensorboard"), purge_step=self.first_step + 1)
        self.text(self.first_step + 1, "config", json.dumps(settings_of(config, parts), indent=1, default=str))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        for key, value in named(values).items():
            self._writer.add_scalar(key, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        """See `Tracker.text`."""
        # Four spaces: TensorBoard renders Markdown, and this is to be shown as it is.
        self._writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()), step)

    def finish(self, failed: bool = False) -> None:
        """See `Tracker.finish`."""
        if self._writer is not None:
            self._writer.close()
