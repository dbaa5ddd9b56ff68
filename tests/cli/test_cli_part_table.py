"""The table of what is trained, for a real model and for numbers given by hand."""

from __future__ import annotations

import io

from rich.console import Console

from parsit import hf
from parsit.cli.part_table import PartRow, part_lines, part_rows, part_table, shape_summary
from parsit.config import TrainConfig
from parsit.model.summary import summarize
from parsit.train.objective import Objective
from parsit.train.optimizer import groups_of
from parsit.train.parts import set_tunable

ROWS = [
    PartRow("vision_tower", ((4, 4), (4,)), 0, 20, (), ("bfloat16",)),
    PartRow("projector", ((1000, 2000), (2000,)), 2_002_000, 2_002_000, (1e-3, 1e-4), ("float32",)),
]


def test_shapes_are_told_by_what_they_weigh():
    assert shape_summary([(8, 8)] * 28 + [(4, 8)] * 28 + [(8,)] * 56) == "28 × 8×8, 28 × 4×8, …"
    assert shape_summary([(2, 3)]) == "2×3"
    assert shape_summary([(2, 3), ()]) == "2×3, scalar"
    assert shape_summary([]) == ""


def test_lines_have_a_row_for_each_part_and_a_sum():
    title, tower, projector, total = part_lines(ROWS)
    assert title.split() == ["part", "tensors", "shapes", "trained", "parameters", "learning", "rate", "dtype"]
    assert tower.split() == ["vision_tower", "2", "4×4,", "4", "0", "20", "frozen", "bfloat16"]
    assert projector.split()[-4:] == ["2,002,000", "1.0e-03,", "1.0e-04", "float32"]
    assert total.split() == ["total", "4", "2,002,000", "2,002,020", "100.00%", "trained"]
    assert tower.index(" 0 ") + 1 == projector.index("2,002,000") + len("2,002,000") - 1  # numbers stand at the right


def test_the_table_on_a_terminal_says_the_same():
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(part_table(ROWS))
    text = console.export_text()
    for word in ("vision_tower", "frozen", "2,002,000", "1.0e-03, 1.0e-04", "100.00% trained"):
        assert word in text


def test_rows_of_a_model_count_what_parsit_info_counts(mini):
    model = hf.new_model(mini, hf.new_processor(mini), 0)
    set_tunable(model, ["mm_vision_tower", "mm_mlp_adapter"])
    groups = groups_of(Objective(model, 0.0), TrainConfig(learning_rate=1e-3, mm_vision_tower_lr=1e-5))
    parts = [(name, {str(i): p for i, p in enumerate(parameters)}) for name, parameters in model.parts()]
    rows = {row.part: row for row in part_rows(parts, groups)}
    counted = summarize(model).parts
    assert {name: row.total for name, row in rows.items()} == counted
    assert rows["vision_tower"].learning_rates == (1e-5,)
    assert rows["vision_tower"].trainable == counted["vision_tower"]
    assert (rows["language_model"].trainable, rows["language_model"].learning_rates) == (0, ())
    assert rows["projector"].dtypes == ("float32",)
    halves = part_rows(parts, groups, shape_of=lambda p: (2, *p.shape))
    assert [row.total for row in halves] == [2 * count for count in counted.values()]
