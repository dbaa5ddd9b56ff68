"""`parsit train PRESET[/STAGE] --data FILE --output_dir DIR`: from flags to a run."""

from __future__ import annotations

import signal

from parsit.cli.run_flags import parse_run, run_parser
from parsit.config import TrainConfig
from parsit.types import ParsitError


def parse(argv: list[str]) -> TrainConfig:
    """The resolved configuration of `parsit train`'s command line.

    Raises:
        UsageError: an unknown preset, flag or value.
    """
    return parse_run(run_parser("parsit train", "Train a model."), argv)[0]


def main(argv: list[str]) -> int:
    """Run the verb: in this process, or in one for each GPU."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there is something to save; the default would end the run
    config = parse(argv)
    from parsit.cli.console import bars, quiet_libraries, say
    from parsit.cli.launch import (
        end_with_launcher,
        end_without_peer,
        is_peer_lost,
        num_processes,
        run_processes,
        set_defaults,
    )
    from parsit.cli.part_table import tell_parts
    from parsit.train.fit import MemoryFullError, run
    from parsit.train.world import join, leave, place_in_environment

    processes = 1 if place_in_environment() else num_processes(config.num_processes)
    set_defaults(processes)
    if processes > 1:
        return run_processes(["train", *argv], processes, config.hang_timeout)
    end_with_launcher()
    world = join(config.ddp_timeout)
    quiet_libraries()
    try:
        run(config, world, bars=bars, say=say, on_prepared=lambda ready: tell_parts(ready.model, ready.config))
    except MemoryFullError:
        raise  # another process need not know
    except ParsitError:
        if world.is_first:
            raise
        return 1  # the first process has said it
    except RuntimeError as error:
        if not is_peer_lost(error):
            raise
        end_without_peer(error, world.rank)
    finally:
        leave()
    return 0
