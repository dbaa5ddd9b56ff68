"""Trackio."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from parsit.train.trackers.common import PROJECT, Remembering


class Trackio(Remembering):
    """Trackio, in its own folder (`trackio show` reads it), or where its environment variables say."""

    kind = "trackio"

    def begin(self, settings: dict[str, Any]) -> None:
        """Open the run there, or go on with it."""
        import trackio

        # Runs are told apart by name alone there, and several folders may be called `run`.
        name = f"{self.name}-{self.run_id[:4]}"
        with contextlib.redirect_stdout(sys.stderr):
            resume = "allow" if self.resumes else "never"
            self._run = trackio.init(PROJECT, name=name, config=settings, resume=resume, embed=False)

    def send(self, step: int, values: dict[str, float]) -> None:
        """Send one step's numbers."""
        self._run.log(dict(values), step=step)

    def send_text(self, step: int, name: str, text: str) -> None:
        """Send one step's words."""
        import trackio

        fence = "~" * 8
        self._run.log({name: trackio.Markdown(f"{fence}\n{text}\n{fence}")}, step=step)

    def finish(self, failed: bool = False) -> None:
        """See `Tracker.finish`."""
        import trackio

        with contextlib.redirect_stdout(sys.stderr):
            trackio.finish()
