"""Weights & Biases."""

from __future__ import annotations

import html
import os
from typing import Any

from parsit.train.trackers.common import PROJECT, Remembering, one_line


class Wandb(Remembering):
    """Weights & Biases; without a key or a network into files that `wandb sync` sends later."""

    kind = "wandb"

    def begin(self, settings: dict[str, Any]) -> None:
        """Open the run there, or go on with it."""
        import wandb
        from wandb.errors import CommError

        mode = os.environ.get("WANDB_MODE")
        if mode is None and not wandb.login(prompt=False, verify=False):
            mode = "offline"
            self.say(f"wandb: no key here (`wandb login` asks for one); {self._sync_later()}")
        try:
            self._run = self._init(settings, mode)
        except CommError as error:
            self.say(f"wandb: {self._host()} does not answer ({one_line(error)}); {self._sync_later()}")
            wandb.teardown()  # the attempt still holds the run's id
            self._run = self._init(settings, "offline")

    def _init(self, settings: dict[str, Any], mode: Any) -> Any:
        import wandb

        timeout = float(os.environ.get("WANDB_INIT_TIMEOUT", "30"))
        quiet = wandb.Settings(console="off", silent=True, init_timeout=timeout)
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.run_id,
            name=self.name,
            dir=str(self.output_dir),
            config=settings,
            allow_val_change=True,
            resume="allow",
            mode=mode,
            settings=quiet,
        )

    def _host(self) -> str:
        return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")

    def _sync_later(self) -> str:
        return f"the run is written down, and `wandb sync {self.output_dir}/wandb/offline-run-*` sends it"

    def send(self, step: int, values: dict[str, float]) -> None:
        """Send one step's numbers."""
        self._run.log(values, step=step)

    def send_text(self, step: int, name: str, text: str) -> None:
        """Send one step's words."""
        import wandb

        self._run.log({name: wandb.Html(f"<pre>{html.escape(text)}</pre>")}, step=step)

    def finish(self, failed: bool = False) -> None:
        """See `Tracker.finish`."""
        self._run.finish(exit_code=int(failed))
