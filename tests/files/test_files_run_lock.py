"""One run at a time in a folder: the lock ends with the process, and what is forked does not keep it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from parsit.files.run_lock import LOCK_FILE, run_lock
from parsit.types import InputError, ParsitError

HOLDER = """
import os, sys, time
from pathlib import Path
from parsit.files.run_lock import run_lock
with run_lock(Path(sys.argv[1]), print):
    if not os.fork():
        print("held", flush=True)  # by its parent alone: what is forked has let go when it gets here
    time.sleep(600)
"""


def test_a_second_run_is_refused_with_who_holds_the_folder(tmp_path):
    with run_lock(tmp_path, pytest.fail):
        with pytest.raises(InputError, match=rf"another run is writing into it \(process {os.getpid()} on .+\)"):
            run_lock(tmp_path, pytest.fail).__enter__()
        assert (tmp_path / LOCK_FILE).exists()
    assert not list(tmp_path.iterdir())
    with run_lock(tmp_path, pytest.fail):
        pass


def test_the_lock_of_a_killed_process_is_none_though_its_worker_lives(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {holder.pid} on"):
            run_lock(tmp_path, pytest.fail).__enter__()
        holder.kill()
        holder.wait()
        os.killpg(holder.pid, 0)  # its child is there
        with run_lock(tmp_path, pytest.fail):
            assert (tmp_path / LOCK_FILE).read_text().startswith(f"process {os.getpid()} ")
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


def test_a_folder_that_a_failed_command_made_is_taken_away_and_a_run_stays(tmp_path):
    with run_lock(tmp_path / "a" / "new", pytest.fail):
        pass
    assert not (tmp_path / "a" / "new").exists()
    with run_lock(tmp_path / "run", pytest.fail):
        (tmp_path / "run" / "metrics.jsonl").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ParsitError, match="file: cannot be written: File exists; name another --output_dir"):
        run_lock(tmp_path / "file", pytest.fail).__enter__()
