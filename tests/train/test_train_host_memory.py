"""glibc keeps what is freed, so that a step does not ask the system for its memory again."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A process of its own, as the setting is the process's: page faults of blocks that are freed and asked for again.
FAULTS = """
import resource, sys, torch
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    from parsit.train.host_memory import keep_freed_memory
    assert keep_freed_memory()
for _ in range(3):  # a small block may still part the first hole of 64 MB, and the heap grows by another one
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_blocks_that_are_freed_are_used_again():
    assert faults("kept") * 10 < faults("glibc")
