import math

import pytest

from parsit.eval.metrics import Series, read_metrics
from parsit.types import InputError


def test_each_number_has_the_steps_whose_rows_hold_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 3.0, "best": true}\n{"step": 2, "loss": 2.5, "eval_loss": 2.75, "note": "x"}\n\n'
    )
    assert read_metrics(path) == {"loss": Series((1, 2), (3.0, 2.5)), "eval_loss": Series((2,), (2.75,))}


@pytest.mark.parametrize("line", ['{"step": 2, "lo', '{"loss": 1.0}', "[1]"])
def test_a_broken_row_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n' + line + "\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl:2"):
        read_metrics(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl"):
        read_metrics(tmp_path / "none.jsonl")


def test_smoothing_is_a_centred_mean():
    series = Series((1, 2, 3, 4), (1.0, 3.0, 8.0, math.nan))
    assert series.smoothed(1).values == pytest.approx((2.0, 4.0, 5.5, 8.0))
    assert Series((1, 2), (5.0, 7.0)).smoothed(0).values == (5.0, 7.0)
