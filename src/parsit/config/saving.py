"""The flags of a run's checkpoints: when they are written, which are kept, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from parsit.types import UsageError


@dataclass(frozen=True, kw_only=True)
class SavingArguments:
    """What is saved.

    Args:
        save_steps: steps between checkpoints.
        save_total_limit: checkpoints that are kept, the best ones besides; 0: all.
        async_save: write checkpoints while training goes on, from a copy in the CPU's memory (the same bytes once more
            for what lies there anyway).
        ema_decay: keep a moving average of the weights with this decay, such as 0.999: validated, saved, and what
            others read of the run; 0: none.
        metric_for_best: what the best checkpoint is chosen by: loss (of the validation), cer or anls (of the readings
            at each sample_steps), or auto (loss, where there is eval_data).
        keep_best: how many of the best checkpoints are kept.
    """

    save_steps: int = 500
    save_total_limit: int = 3
    async_save: bool = True
    ema_decay: float = 0.0
    metric_for_best: Literal["auto", "loss", "cer", "anls"] = "auto"
    keep_best: int = 1

    @property
    def best_metric(self) -> str:
        """What the best checkpoint is chosen by, where anything is measured: loss, cer or anls."""
        return "loss" if self.metric_for_best == "auto" else self.metric_for_best

    def require_measured(self, eval_data: Sequence[str] | None, sample_steps: int) -> None:
        """Refuse a best checkpoint that is chosen by what nobody measures.

        Args:
            eval_data: the run's validation files.
            sample_steps: steps between its readings.

        Raises:
            UsageError: which flag, and what it needs.
        """
        if self.metric_for_best == "auto" and self.keep_best == 1:
            return
        flag = "--keep_best" if self.metric_for_best == "auto" else f"--metric_for_best {self.best_metric}"
        if not eval_data:
            raise UsageError(f"{flag}: nothing is measured without --eval_data: give validation files, or leave it out")
        if self.best_metric != "loss" and not sample_steps:
            raise UsageError(f"{flag}: is measured by reading samples: say with --sample_steps after how many steps")
