"""`parsit check` tries its step with the processes and the sharding that the run would have, and ends with all of them.

One process's check is the measure: whatever places the weights, the same micro-batch has the same loss and gradient.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys

import pytest
from PIL import Image, ImageDraw

from parsit.cli import check

pytestmark = [pytest.mark.slow, pytest.mark.dist]

BASE = ["tiny", "--data", "data.jsonl", "--output_dir", "run", "--glyph_loss_weight", "0", "--bf16", "false"]
BASE += ["--per_device_train_batch_size", "2", "--optim", "adamw"]
# What processes do when the step begins, as FAULTS says, RANK:FAULT by commas; Python itself runs `sitecustomize`.
SITECUSTOMIZE = """
import os, signal, time

faults = dict(fault.split(":") for fault in os.environ.get("FAULTS", "").split(",") if fault)
fault = faults.get(os.environ.get("RANK", "0"))
if fault:
    import torch

    def act(module, arguments):
        if "Objective" not in type(module).__name__:
            return
        if fault == "memory":
            raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB.\\nand more that nobody reads")
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "asleep":
            time.sleep(600)
        if fault == "nan":
            with torch.no_grad():
                module.model.mm_projector[0].bias.fill_(float("nan"))

    def forget(module, name, child):
        if fault == "forgotten" and name == "mm_projector":
            child.register_parameter("forgotten", torch.nn.Parameter(torch.ones(8)))

    torch.nn.modules.module.register_module_forward_pre_hook(act)
    torch.nn.modules.module.register_module_module_registration_hook(forget)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six pictures of numbers, and the faults."""
    folder = tmp_path_factory.mktemp("check")
    lines = []
    for number in range(6):
        image = Image.new("RGB", (40 + 8 * (number % 3), 24), "white")
        ImageDraw.Draw(image).text((2, 6), str(number * 37), fill="black")
        image.save(folder / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nRead."}, {"from": "gpt", "value": str(number * 37)}]
        lines.append(json.dumps({"id": str(number), "image": f"{number}.png", "conversations": turns}))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return folder


@pytest.fixture
def alone(folder, monkeypatch, capsys):
    """The step's line of a check in one process."""
    monkeypatch.chdir(folder)
    assert check.main(BASE) == 0
    return step_line(capsys.readouterr().out)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run_check(folder, *flags, processes=0, faults=""):
    """(exit codes, stdout, stderr) of the command, or of as many as torchrun would start, each with its place."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": free_port()}
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment |= {"FAULTS": faults, "PYTHONPATH": paths} if faults else {}
    places = [{}]
    if processes:
        common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
        places = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    command = [sys.executable, "-m", "parsit.cli", "check", *BASE, *flags]
    with (folder / "out.txt").open("w+") as out, (folder / "err.txt").open("w+") as err:
        running = [
            subprocess.Popen(command, cwd=folder, env=environment | place, stdout=out, stderr=err) for place in places
        ]
        try:
            codes = [process.wait() for process in running]
        finally:
            for process in running:
                process.terminate()  # one that has started others hands it on to them
                process.wait(timeout=600)
        # Processes that share a file share its place in it: all they wrote is there, in the order of writing.
        return codes, (folder / "out.txt").read_text(), (folder / "err.txt").read_text()


def step_line(out):
    (line,) = [line for line in out.splitlines() if line[8:13] == "step "]
    return line


def numbers(line):
    """(positions, loss, norm of the whole gradient) of a step's line."""
    found = re.fullmatch(r"ok      step       (.+ positions): loss (\S+), gradients (.+), (\S+) s, (\S+) GB", line)
    assert found, line
    size, loss, norms, seconds, peak = found.groups()
    assert float(seconds) > 0
    assert float(peak) > 0
    parts = [float(norm.split()[-1]) for norm in norms.split(", ")]
    return size, float(loss), sum(norm**2 for norm in parts) ** 0.5


@pytest.mark.parametrize(
    ("flags", "processes", "told"),
    [
        (["--num_processes", "2"], 0, "2 steps of 2 micro-batches (1.00 passes over the data), DDP, 2 ranks"),
        (["--fsdp", "true"], 2, "2 steps of 2 micro-batches (1.00 passes over the data), FSDP, 2 ranks"),
        (["--tp", "2"], 2, "3 steps of 1 micro-batches (1.00 passes over the data), --tp 2, 2 ranks"),
        (["--deepspeed", "zero3"], 2, "2 steps of 2 micro-batches (1.00 passes over the data), ZeRO-3, 2 ranks"),
    ],
    ids=["ddp", "fsdp", "tp", "zero3"],
)
def test_the_step_is_that_of_one_process_however_it_is_placed(folder, alone, flags, processes, told):
    codes, out, err = run_check(folder, *flags, processes=processes)
    assert codes == [0] * max(processes, 1), err
    lines = out.splitlines()
    names = [
        "data",
        "versions",
        "device",
        "tokens",
        "vocabulary",
        "parts",
        "origin",
        "groups",
        "disk",
        "samples",
        "memory",
        "shm",
    ]
    assert [line.split()[1] for line in lines[:-1]] == [*names, "step"], "the first process alone speaks"
    size, loss, norm = numbers(step_line(out))
    assert (size, loss) == numbers(alone)[:2]
    assert norm == pytest.approx(numbers(alone)[2], rel=0.05), "two digits are told"
    assert lines[-1].startswith(f"ready: {told}: about ")
    assert lines[-1].endswith(" at the trial step's speed")
    assert not (folder / "run").exists()


def test_memory_that_ends_on_some_processes_ends_all_with_one_line(folder):
    """Two of three fail at about the same time, and the first waits for them in a collective."""
    codes, out, err = run_check(folder, "--fsdp", "true", processes=3, faults="1:memory,2:memory")
    assert codes == [1, 1, 1]
    assert re.fullmatch(
        r"FAILED  step       process [12]: out of memory at 2 × 31 positions: Tried to allocate 20.00 GiB.",
        step_line(out),
    )
    assert out.splitlines()[-2].startswith(f"{'':19}do: --gradient_checkpointing true")
    assert out.endswith("not ready: step\n")
    assert "Traceback" not in err


def test_a_killed_process_is_named_and_one_that_waits_for_it_for_ever_is_ended(folder):
    codes, out, err = run_check(folder, "--num_processes", "2", faults="0:asleep,1:killed")
    assert codes == [1]
    assert "ready" not in out
    assert err.splitlines()[-1] == "parsit: process 1 was ended by SIGKILL: did the machine's memory run out?"


def test_a_loss_that_is_not_finite_on_one_process_fails_the_check(folder):
    codes, out, _ = run_check(folder, processes=2, faults="1:nan")
    assert codes == [1, 1]
    assert step_line(out).startswith("FAILED  step       not finite: 2 × 31 positions: loss nan")
    assert out.endswith("not ready: step\n")


def test_a_weight_that_no_gradient_reaches_is_seen_though_deepspeed_takes_all_gradients_away(folder):
    """The engine with one process, as `parsit train` would have it."""
    codes, out, _ = run_check(folder, "--deepspeed", "zero3", faults="0:forgotten")
    assert codes == [1]
    assert step_line(out) == "FAILED  step       no gradient reaches model.mm_projector.forgotten"
