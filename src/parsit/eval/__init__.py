"""Evaluation: score a predict function on samples, ask whether it looks at the page, write it down.

Nothing here knows a model: what reads is a function handed in (`Predict`), so the same code scores
a checkpoint, a run in training, a blank page and a constant answer.
"""

from parsit.eval.demo_report import DemoReport, PageReading, StepTime, demo_page, write_demo_report
from parsit.eval.evaluation import Evaluation, Predict, Record, ScoreSummary, Summary, evaluate
from parsit.eval.grounding import (
    BestConstant,
    Grounding,
    ScoreNats,
    best_constant,
    blank_samples,
    grounding_report,
    shuffled_images,
)
from parsit.eval.report import worst_cases_page, write_worst_cases

__all__ = [
    "BestConstant",
    "DemoReport",
    "Evaluation",
    "Grounding",
    "PageReading",
    "Predict",
    "Record",
    "ScoreNats",
    "ScoreSummary",
    "StepTime",
    "Summary",
    "best_constant",
    "blank_samples",
    "demo_page",
    "evaluate",
    "grounding_report",
    "shuffled_images",
    "worst_cases_page",
    "write_demo_report",
    "write_worst_cases",
]
