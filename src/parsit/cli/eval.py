"""`parsit eval`: scores on a data set, on a published benchmark, or of two results against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsit.cli.engines import add_engine_option, is_address, make_engine
from parsit.cli.parser import Parser
from parsit.types import InputError, UsageError

if TYPE_CHECKING:
    from parsit.eval import Evaluation
    from parsit.parse.engine import ModelEngine
    from parsit.parse.reader import Engine
    from parsit.types import Generation, Sample, Turn


OUTPUTS = ("results.json", "predictions.jsonl", "worst.html")
GROUPS = {
    "on a data set": ["data", "image_folder", "limit", "nats", "worst"],
    "on a benchmark": ["bench", "judge_python", "candidates"],
    "two results": ["compare"],
}
# What only one of the three ways has, and the value that means that it was not given.
OWN_FLAGS = {
    "data": {"image_folder": None, "limit": 0, "nats": False, "worst": 50},
    "bench": {"judge_python": None, "candidates": None},
    "compare": {},
}
MAX_ANSWER_TOKENS = 1024


def parser() -> Parser:
    """The verb's command line."""
    p = Parser("parsit eval", "Score a model: on data, or on a benchmark by its own judge; or compare two results.",
               groups=GROUPS)  # fmt: skip
    p.add_argument("model", nargs="?", help="folder of a model, or of a run (its best checkpoint), or "
                   "ORG/NAME[@REVISION] on the Hub")  # fmt: skip
    p.add_argument("--data", nargs="+", metavar="FILE", help="data files of any known format")
    p.add_argument("--image_folder", help="folder that image paths start from; by default each file's own")
    p.add_argument("--limit", type=int, default=0, help="score only the first N samples; 0: all")
    p.add_argument("--nats", action="store_true", help="also how likely the model finds the true answers")
    p.add_argument("--worst", type=int, default=50, help="cases on the page of the worst")
    p.add_argument("--bench", nargs=2, metavar="LAYOUT DIR",
                   help="olmocr or omnidocbench, and its folder (or omnidocbench's file of truth): read its pages into "
                   "DIR/parsit, have olmocr judged; without MODEL what is there is judged again")  # fmt: skip
    p.add_argument("--judge_python", metavar="PYTHON", help="Python of an environment with olmocr, which judges")
    p.add_argument("--candidates", nargs="+", metavar="FOLDER", help="other systems' Markdown, into the same table")
    p.add_argument("--compare", nargs=2, metavar="A B", help="two folders that --out wrote, of the same data")
    p.add_argument("--out", metavar="DIR", help="write the results there, as JSON and HTML")
    p.add_argument("--max_new_tokens", type=int, help=f"longest answer, in tokens (default: {MAX_ANSWER_TOKENS}; on a "
                   "benchmark 4400 a page, 96 a line)")  # fmt: skip
    p.add_argument("--batch_size", type=int, default=16, help="prompts that go through the model together")
    p.add_argument("--device", help="cpu, cuda, …; by default the GPU where there is one")
    add_engine_option(p)
    return p


def main(argv: list[str]) -> int:
    """Run the verb. What fails counts as failed and does not stop the rest; exit code 1 if anything did."""
    args = parser().parse_args(argv)
    check(args)
    if args.compare:
        from parsit.cli.eval_compare import compare

        return compare(args)
    if args.bench:
        from parsit.cli.eval_bench import bench

        return bench(args)
    return score_data(args)


def check(args: Any) -> None:
    """Refuse what cannot be meant.

    Raises:
        UsageError: not exactly one of --data, --bench and --compare, a flag of another one, or a number out of range.
    """
    ways = [name for name in OWN_FLAGS if getattr(args, name)]
    if len(ways) != 1:
        said = "together" if ways else "none of these"
        raise UsageError(f"{' and '.join('--' + name for name in ways) or 'what to score'}: {said}; "
                         "give one of --data, --bench and --compare")  # fmt: skip
    for way, flags in OWN_FLAGS.items():
        for name, absent in flags.items():
            if way != ways[0] and getattr(args, name) != absent:
                raise UsageError(f"--{name} belongs to --{way}, not to --{ways[0]}")
    if args.model is None and args.data:
        raise UsageError("--data needs a model to score: parsit eval MODEL --data FILE")
    if args.model is not None and args.compare:
        raise UsageError(f"--compare reads results, not a model: leave {args.model} out")
    for name, least in (("limit", 0), ("max_new_tokens", 1), ("batch_size", 1), ("worst", 0)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise UsageError(f"--{name} is {getattr(args, name)}: it must be {least} or more")
    is_address(args.engine)
    if args.nats and args.engine != "hf":
        raise UsageError(f"--nats with --engine {args.engine}: only hf gives the likelihood of an answer that is given")
    if args.out and Path(args.out).exists() and not Path(args.out).is_dir():
        raise UsageError(f"--out {args.out} is a file: name a folder")


def score_data(args: Any) -> int:
    """Score a model on data files; exit code 1 if a sample failed."""
    from parsit.data.files import read_files
    from parsit.files import refuse_inputs

    samples = read_files(args.data, args.image_folder)
    if args.out:
        images = {image.source for sample in samples for image in sample.images if isinstance(image.source, Path)}
        for name in OUTPUTS:
            refuse_inputs(Path(args.out) / name, [*map(Path, args.data), *images])
    samples = samples[: args.limit] if args.limit > 0 else samples

    from parsit.cli.console import say
    from parsit.eval import write_worst_cases
    from parsit.files.run_folder import model_name
    from parsit.hub import model_folder

    folder = Path(args.model) if is_address(args.engine) else model_folder(args.model)
    engine = make_engine(args.engine, args.model, args.device, args.batch_size)
    longest = args.max_new_tokens or MAX_ANSWER_TOKENS
    evaluation = evaluate_engine(engine, samples, longest, "scoring")
    print_scores(evaluation)
    about: dict[str, object] = {"model": args.model, "data": " ".join(args.data), "max_new_tokens": longest}
    # For the model card: which of a run's checkpoints it was, and the data's names without this machine's folders.
    about |= {"checkpoint": model_name(folder), "files": [Path(name).name for name in args.data]}
    if args.nats:
        about["nats_per_token"], left_out = nats_per_token(engine, samples)
        unread = f" ({left_out} samples could not be read)" if left_out else ""
        print(f"{about['nats_per_token']:.4f} nats per token of the true answers{unread}")
    if args.out:
        evaluation.write_results(Path(args.out), about)
        title = f"Worst cases of {args.model}"
        write_worst_cases(Path(args.out) / OUTPUTS[2], evaluation, samples, title=title, worst=args.worst, about=about)
        say(f"wrote {', '.join(OUTPUTS)} into {args.out}")
    return 1 if evaluation.summary.failed else 0


def evaluate_engine(engine: Engine, samples: Sequence[Sample], max_new_tokens: int, title: str) -> Evaluation:
    """Score an engine on samples, with a progress bar."""
    from parsit.cli.console import bar
    from parsit.eval import evaluate

    def predict(conversations: Sequence[tuple[Turn, ...]]) -> list[Generation]:
        return engine.generate(conversations, max_new_tokens=max_new_tokens)

    seen = 0
    with bar(title, len(samples)) as advance:

        def on_progress(done: int, _: int) -> None:
            nonlocal seen
            advance(done - seen)
            seen = done

        return evaluate(samples, predict, batch_size=engine.batch_size, on_progress=on_progress)


def nats_per_token(engine: ModelEngine, samples: Sequence[Sample]) -> tuple[float, int]:
    """The mean negative log-likelihood of the true answers' tokens, and how many samples could not be read."""
    from parsit.cli.console import bar

    nats, tokens, left_out = 0.0, 0, 0
    with bar("likelihood", len(samples)) as advance:
        for sample in samples:
            try:
                ((sample_nats, sample_tokens),) = engine.nats([sample])
            except InputError:
                left_out += 1
            else:
                nats, tokens = nats + sample_nats, tokens + sample_tokens
            advance(1)
    return nats / max(tokens, 1), left_out


def print_scores(evaluation: Evaluation) -> None:
    """The summary as a table on stdout: normalised and raw scores with their intervals."""
    from rich.console import Console
    from rich.table import Table

    from parsit.eval.html import page_score_rows

    summary = evaluation.summary
    table = Table("score", "normalised", f"{evaluation.confidence:.0%} interval", "raw")
    names = {
        "cer": "CER",
        "wer": "WER",
        "normalized_edit_distance": "normalised edit distance",
        "exact_match": "exact match",
        "anls": "ANLS",
    }
    for attribute, name in names.items():
        value, raw = getattr(summary.normalized, attribute), getattr(summary.raw, attribute)
        table.add_row(name, f"{value.value:.4f}", f"{value.low:.4f} – {value.high:.4f}", f"{raw.value:.4f}")
    for name, _, score in page_score_rows(evaluation):
        table.add_row(name, f"{score.value:.4f}", f"{score.low:.4f} – {score.high:.4f}", "")
    console = Console()
    console.print(table)
    flags = "".join(f", {count} {flag}" for flag, count in summary.flags.items())
    console.print(f"{summary.count} samples, {summary.failed} failed{flags}", highlight=False)
