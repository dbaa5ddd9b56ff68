"""How a verb's threads wait, and how a verb ends that is told to stop where Ctrl-C is ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from process_support import ignore_interrupts, started, wait_until

# A verb leaves its group, which something else keeps alive, as DeepSpeed and meshes do. The last collective ends late:
# its thread waits for Python's lock, to let go of a tensor, when the interpreter begins to go down.
HELD = """
import atexit, os, sys, time

def end_collective():
    sys.setswitchinterval(1000)  # who has the lock keeps it
    os.write(begin, b"!")
    until = time.monotonic() + 2
    while time.monotonic() < until:
        pass

class Last:
    def __del__(self, sleep=time.sleep):
        sleep(1)  # hands on the lock

atexit.register(end_collective)  # the first one runs last
import ctypes, torch, torch.distributed as dist
from parsit.cli import main
from parsit.train.world import leave

def dispatch(arguments):
    dist.init_process_group("gloo", init_method=f"file://{arguments[1]}", rank=rank, world_size=2)
    if rank == 1:
        os.read(begun, 1)
        dist.all_reduce(torch.ones(10))
        os._exit(0)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(dist.group.WORLD))  # for ever
    main.last = Last()
    dist.all_reduce(torch.ones(10), async_op=True)
    leave()
    return int(arguments[0])

begun, begin = os.pipe()
rank = 0 if os.fork() else 1
main.dispatch = dispatch
main.main()
"""
# What a verb may still have to do when it returns.
LATE = """
import atexit, threading, time
from parsit.cli import main

def dispatch(arguments):
    atexit.register(print, "exit handlers run")
    threading.Thread(target=lambda: (time.sleep(0.2), print("threads end"))).start()
    print("what was printed is written")
    return int(arguments[0])

main.dispatch = dispatch
main.main()
"""
ROOT = Path(__file__).parents[2]
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def in_effect(cwd, *arguments, **variables):
    """What libgomp says of its waiting, in each process of a command that imports torch, and how often."""
    environment = {key: value for key, value in os.environ.items() if key not in WAITING}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE"} | variables
    command = [sys.executable, "-m", "parsit.cli", *arguments]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    found = {name: [] for name in WAITING}
    for line in done.stderr.splitlines():
        name, _, value = line.strip().partition(" = ")
        if name in found:
            found[name].append(value.strip("'"))
    return found


@pytest.mark.slow
def test_threads_wait_asleep_in_a_verbs_process(tmp_path):
    assert in_effect(tmp_path, "info", "tiny") == {"OMP_WAIT_POLICY": ["PASSIVE"], "GOMP_SPINCOUNT": ["0"]}


@pytest.mark.slow
@pytest.mark.dist
def test_threads_wait_asleep_in_a_verbs_children(tmp_path):
    flags = ("--data", "none.jsonl", "--output_dir", "run", "--num_processes", "2")
    found = in_effect(tmp_path, "train", "tiny/scratch", *flags)
    assert len(found["OMP_WAIT_POLICY"]) >= 2
    assert {name: set(values) for name, values in found.items()} == {
        "OMP_WAIT_POLICY": {"PASSIVE"},
        "GOMP_SPINCOUNT": {"0"},
    }


@pytest.mark.slow
def test_what_the_user_has_set_stays_and_nothing_is_set_beside_it(tmp_path):
    assert in_effect(tmp_path, "info", "tiny", GOMP_SPINCOUNT="77")["GOMP_SPINCOUNT"] == ["77"]
    found = in_effect(tmp_path, "info", "tiny", OMP_WAIT_POLICY="ACTIVE")
    assert found["OMP_WAIT_POLICY"] == ["ACTIVE"]
    assert int(found["GOMP_SPINCOUNT"][0]) > 0  # what libgomp makes of ACTIVE


@pytest.mark.dist
def test_sigterm_stops_a_verb_that_ignores_interrupts_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "parsit.cli", "data", "synth", "--out", "set", "--pages", "100000"]
    with started([*command, "--workers", "2"], cwd=tmp_path, preexec_fn=ignore_interrupts) as process:
        wait_until(lambda: list(tmp_path.glob(".set.*/images/train/*/*")), process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "parsit: interrupted\n")
    assert not list(tmp_path.iterdir())


def end_of_run(program, *arguments):
    """(exit code, stdout, stderr) of a program that has a place among the processes of a run."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = os.environ | {"RANK": "0"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.dist
def test_a_process_of_a_run_is_not_aborted_by_a_collective_that_ends_as_it_ends(tmp_path):
    assert end_of_run(HELD, 3, tmp_path / "meeting") == (3, "", "")


@pytest.mark.parametrize("code", [0, 3])
def test_a_process_of_a_run_ends_as_python_would(code):
    assert end_of_run(LATE, code) == (code, "what was printed is written\nthreads end\nexit handlers run\n", "")


@pytest.mark.slow
def test_a_suite_in_the_background_starts_its_children_with_interrupts(tmp_path):
    one = "tests/cli/test_cli_parse.py::test_when_it_is_interrupted_nothing_is_half_written"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--timeout",
        "300",
        "--basetemp",
        str(tmp_path / "t"),
        one,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=ignore_interrupts)
    assert done.returncode == 0, done.stdout
