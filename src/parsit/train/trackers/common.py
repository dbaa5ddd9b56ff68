"""What trackers share: names, the settings that they are told, and the memory of a run that goes on."""

from __future__ import annotations

import importlib
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parsit.files import write_whole
from parsit.train.parts import PartReport
from parsit.types import ParsitError

PROJECT = "parsit"
MEMORY_FILE = "tracker.json"
# How each package is had. trackio pins Pillow below 13, which Parsit needs, so no extra can name it.
_INSTALL = {
    "wandb": "pip install parsit[wandb]",
    "tensorboard": "pip install parsit[tensorboard]",
    "mlflow": "pip install parsit[mlflow]",
    "trackio": "pip install --no-deps trackio && pip install brotli gradio-client orjson python-multipart "
    "'uvicorn[standard]'",
}


def require(report_to: str, module: str) -> Any:
    """The package, or one line with the command that installs it (`ParsitError`)."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ParsitError(f"--report_to {report_to}: {error}; install it: {_INSTALL[report_to]}") from error


def named(values: Mapping[str, float]) -> dict[str, float]:
    """`loss` as `train/loss` and `eval_loss` as `eval/loss`, as Hugging Face's Trainer names them."""
    return {
        f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}": value
        for key, value in values.items()
        if isinstance(value, (int, float)) and key != "step"
    }


def settings_of(config: Mapping[str, object], parts: Sequence[PartReport]) -> dict[str, Any]:
    """The configuration with the table of parts in it."""
    return {**config, "parts": {report.name: asdict(report) for report in parts}}


def one_line(error: BaseException) -> str:
    """The beginning of a message, without its line breaks."""
    return " ".join(str(error).split())[:200]


class Silent:
    """The tracker of a run that reports to no service."""

    def __init__(self, output_dir: Path, name: str, first_step: int, say: Callable[[str], None]) -> None:
        self.output_dir, self.name, self.first_step, self.say = output_dir, name, first_step, say

    def start(self, config: Mapping[str, object], parts: Sequence[PartReport]) -> None:
        """Does nothing."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def text(self, step: int, name: str, text: str) -> None:
        """Does nothing."""

    def finish(self, failed: bool = False) -> None:
        """Does nothing."""


class Remembering(Silent, ABC):
    """A tracker without a way back: remembers its run and the last step that it was told."""

    kind = ""

    def __init__(self, output_dir: Path, name: str, first_step: int, say: Callable[[str], None]) -> None:
        super().__init__(output_dir, name, first_step, say)
        require(self.kind, self.kind)
        self._file = output_dir / MEMORY_FILE
        known = self._all().get(self.kind) if first_step else None
        self.resumes = known is not None
        self.run_id: str = known["id"] if known else uuid.uuid4().hex[:12]
        self.told: int = known["told"] if known else 0

    def _all(self) -> dict[str, dict[str, Any]]:
        if not self._file.exists():
            return {}
        try:
            return json.loads(self._file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ParsitError(f"{self._file}: not valid JSON ({error}); delete it to begin a new run there") from error

    def _remember(self, step: int) -> None:
        write_whole(self._file, json.dumps(self._all() | {self.kind: {"id": self.run_id, "told": step}}) + "\n")

    def start(self, config: Mapping[str, object], parts: Sequence[PartReport]) -> None:
        """Begin or go on, see `Tracker.start`."""
        self.begin(settings_of(config, parts))
        self._remember(self.told)
        if self.told > self.first_step:
            self.say(
                f"{self.kind} was told of the steps {self.first_step + 1} to {self.told} before: "
                "they stay there as they were"
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        if step > self.told:
            self._remember(step)  # first: a step that is lost is better than one that is there twice
            self.send(step, named(values))

    def text(self, step: int, name: str, text: str) -> None:
        """See `Tracker.text`."""
        if step > self.told:
            self.send_text(step, name, text)

    @abstractmethod
    def begin(self, settings: dict[str, Any]) -> None:
        """Open the run there, or go on with it."""

    @abstractmethod
    def send(self, step: int, values: dict[str, float]) -> None:
        """Send one step's numbers."""

    @abstractmethod
    def send_text(self, step: int, name: str, text: str) -> None:
        """Send one step's words."""
