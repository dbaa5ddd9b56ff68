"""`parsit eval --compare A B`: two results on the same samples, paired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from parsit.files import refuse_inputs

PAGE = "compare.html"


def compare(args: Any) -> int:
    """Print the differences, and write the page where --out is given."""
    from parsit.cli.console import say
    from parsit.eval.compare import compare_results, read_result, write_comparison

    first, second = (Path(folder) for folder in args.compare)
    if args.out:
        refuse_inputs(Path(args.out) / PAGE, [folder / name for folder in (first, second) for name in
                                              ("predictions.jsonl", "results.json")])  # fmt: skip
    comparison = compare_results(read_result(first), read_result(second))
    for line in comparison.lines():
        print(line)
    if args.out:
        say(f"wrote {write_comparison(Path(args.out) / PAGE, comparison)}")
    return 0
