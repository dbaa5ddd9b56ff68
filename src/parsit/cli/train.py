"""`parsit train PRESET[/STAGE] --data FILE --output_dir DIR`: from flags to a run."""

from __future__ import annotations

from typing import Any

from parsit.cli.parser import Parser
from parsit.config import TrainConfig, load_preset, preset_names
from parsit.types import ParsitError, UsageError


def run_parser(verb: str, description: str) -> Parser:
    """A parser of the flags of a run, to which a verb may add its own."""
    parser = Parser(verb, f"{description} PRESET[/STAGE] is one of: " + ", ".join(preset_names()))
    parser.add_argument("preset", metavar="PRESET[/STAGE]", help="where the settings start from")
    parser.add_argument(
        "--data", nargs="+", metavar="FILE", help="training files of any known format, or a mixture .yaml"
    )
    parser.add_argument("--eval_data", nargs="+", metavar="FILE", help="validation files, never trained on")
    parser.add_class_arguments(TrainConfig, as_group=False, skip={"data", "eval_data", "architecture"})
    return parser


def parse_run(parser: Parser, argv: list[str], own: tuple[str, ...] = ()) -> tuple[TrainConfig, dict[str, Any]]:
    """The resolved configuration of a command line, and the values of the verb's `own` flags.

    Raises:
        UsageError: an unknown preset, flag or value.
    """
    named = bool(argv) and not argv[0].startswith("-")
    preset = load_preset(argv[0]) if named else {}
    architecture = preset.pop("architecture", "")
    parser.set_defaults(preset)
    values = vars(parser.parse_args(argv)).copy()
    if values.pop("preset") != argv[0] or not named:
        raise UsageError(f"{parser.prog}: PRESET[/STAGE] comes first, before the flags")
    others = {name: values.pop(name) for name in own}
    config = TrainConfig(architecture=architecture, **values)
    for flag in ("data", "output_dir"):
        if not getattr(config, flag):
            raise UsageError(f"{parser.prog} needs --{flag} (`{parser.prog} --help` lists the flags)")
    return config, others


def parse(argv: list[str]) -> TrainConfig:
    """The resolved configuration of `parsit train`'s command line.

    Raises:
        UsageError: an unknown preset, flag or value.
    """
    return parse_run(run_parser("parsit train", "Train a model."), argv)[0]


def main(argv: list[str]) -> int:
    """Run the verb: in this process, or in one for each GPU."""
    config = parse(argv)
    from parsit.cli.console import bars, quiet_libraries, say
    from parsit.cli.launch import num_processes, run_processes, set_defaults
    from parsit.cli.part_table import tell_parts
    from parsit.train.fit import run
    from parsit.train.world import join, leave, place_in_environment

    processes = 1 if place_in_environment() else num_processes(config.num_processes)
    set_defaults(processes)
    if processes > 1:
        return run_processes(["train", *argv], processes)
    world = join()
    quiet_libraries()
    try:
        run(config, world, bars=bars, say=say, on_prepared=lambda ready: tell_parts(ready.model, ready.config))
    except ParsitError:
        if world.is_first:
            raise
        return 1  # the first process has said it
    finally:
        leave()
    return 0
