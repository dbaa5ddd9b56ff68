"""Train, evaluate, parse and ask as a user types them, with a real model; killed in mid-run and gone on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from process_support import started, wait_until

pytestmark = pytest.mark.slow


def parsit(*arguments, cwd, check=True):
    command = [sys.executable, "-m", "parsit.cli", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert not check or result.returncode == 0, result.stderr
    return result


FLAGS = ("--eval_data", "data/validation.jsonl", "--max_steps", 8, "--save_steps", 2, "--eval_steps", 4)
FLAGS += ("--per_device_train_batch_size", 4, "--bf16", "false")
TRAIN = [sys.executable, "-m", "parsit.cli", "train", "tiny", "--data", "data/train.jsonl"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of line crops, and a run of eight steps on it."""
    folder = tmp_path_factory.mktemp("cli")
    fractions = ("--validation_fraction", 0.3, "--test_fraction", 0.3)
    parsit("data", "synth", "--out", "data", "--pages", 6, "--unit", "line", "--workers", 1, *fractions, cwd=folder)
    parsit("train", "tiny", "--data", "data/train.jsonl", "--output_dir", "run", *FLAGS, cwd=folder)
    return folder


def learnt(run):
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(e["step"], e["loss"], e["glyph_loss"], e["grad_norm"], e.get("eval_loss")) for e in entries]


def test_a_run_leaves_what_it_promised(folder):
    run = folder / "run"
    assert [entry[0] for entry in learnt(run)] == list(range(1, 9))
    best = json.loads((run / "best.json").read_text())
    assert (run / best["checkpoint"] / "model.safetensors").is_file()
    assert "learning_rate" in (run / "checkpoint-8" / "train_config.yaml").read_text()
    assert not list(run.glob(".*partial"))
    modes = {path.stat().st_mode & 0o777 for path in (run / "checkpoint-8").rglob("*") if path.is_file()}
    assert len(modes) == 1, "weights are as readable as what lies beside them"


def test_a_killed_run_goes_on_and_equals_the_uninterrupted_one_to_the_bit(folder):
    killed = folder / "killed"
    with started([*TRAIN, "--output_dir", "killed", *FLAGS], cwd=folder) as process:
        wait_until((killed / "checkpoint-4").exists, process)
        process.send_signal(signal.SIGKILL)
    for left in killed.glob("checkpoint-[68]"):  # the machine may have been faster than the signal
        shutil.rmtree(left)
    result = parsit("train", "tiny", "--data", "data/train.jsonl", "--output_dir", "killed", *FLAGS, cwd=folder)
    assert "resuming from killed/checkpoint-4" in result.stderr
    assert learnt(killed) == learnt(folder / "run")
    assert (killed / "checkpoint-8" / "model.safetensors").read_bytes() == (
        folder / "run" / "checkpoint-8" / "model.safetensors"
    ).read_bytes()


def test_a_finished_run_is_left_as_it_is_and_a_named_checkpoint_is_gone_on_from(folder):
    before = (folder / "run" / "metrics.jsonl").read_bytes()
    again = parsit("train", "tiny", "--data", "data/train.jsonl", "--output_dir", "run", *FLAGS, cwd=folder)
    assert "trained 8 steps" in again.stderr
    assert (folder / "run" / "metrics.jsonl").read_bytes() == before
    flags = ("--resume", "run/checkpoint-6", *FLAGS)
    parsit("train", "tiny", "--data", "data/train.jsonl", "--output_dir", "branch", *flags, cwd=folder)
    assert learnt(folder / "branch") == learnt(folder / "run")[6:]


def test_a_terminated_run_saves_first(folder):
    flags = ["--max_steps", "5000", "--per_device_train_batch_size", "4", "--save_steps", "100000"]
    metrics = folder / "stopped" / "metrics.jsonl"
    with started([*TRAIN, "--output_dir", "stopped", *flags], cwd=folder) as process:
        wait_until(lambda: metrics.exists() and metrics.stat().st_size, process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "stopped by a signal; saved stopped/checkpoint-" in errors
    assert list((folder / "stopped").glob("checkpoint-*/manifest.json"))


@pytest.mark.parametrize(
    ("processes", "number"), [(1, signal.SIGTERM), (1, signal.SIGHUP), (1, signal.SIGINT), (2, signal.SIGTERM)]
)
def test_a_signal_to_the_whole_group_stops_workers_last(folder, processes, number):
    """As Slurm, Kubernetes or a terminal send it: to the run, its data workers and what started it alike."""
    name = f"group-{processes}-{number}"
    flags = ["--max_steps", "5000", "--per_device_train_batch_size", "4", "--save_steps", "100000"]
    flags += ["--dataloader_num_workers", "2", "--num_processes", str(processes)]
    metrics = folder / name / "metrics.jsonl"
    with started([*TRAIN, "--output_dir", name, *flags], cwd=folder, start_new_session=True) as process:
        wait_until(lambda: metrics.exists() and metrics.stat().st_size, process)
        os.killpg(process.pid, number)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert f"stopped by a signal; saved {name}/checkpoint-" in errors
    assert list((folder / name).glob("checkpoint-*/manifest.json"))


def test_settings_that_would_spoil_a_resumed_run_are_refused(folder):
    base = ("train", "tiny", "--data", "data/train.jsonl", "--output_dir", "run", *FLAGS)
    changed = parsit(*base, "--glyph_loss_weight", 0.25, cwd=folder, check=False)
    assert (changed.returncode, changed.stderr.count("\n")) == (2, 1)
    assert "--glyph_loss_weight is 0.25, but" in changed.stderr
    again = parsit(*base, "--resume", "never", cwd=folder, check=False)
    assert again.returncode == 1
    assert "holds a run already" in again.stderr


def test_a_later_stage_starts_from_an_earlier_ones_output(folder):
    flags = ("--model_name_or_path", "run", "--mm_tunable_parts", "mm_mlp_adapter", "--max_steps", 1)
    result = parsit(
        "train", "tiny", "--data", "data/train.jsonl", "--output_dir", "second", *flags,
        "--per_device_train_batch_size", 4, "--glyph_loss_weight", 0, cwd=folder,
    )  # fmt: skip
    assert "trained 1 steps" in result.stderr


def test_eval_prints_a_table_and_writes_its_files(folder):
    result = parsit("eval", "run", "--data", "data/test.jsonl", "--out", "eval", "--max_new_tokens", 8, cwd=folder)
    assert "CER" in result.stdout
    results = json.loads((folder / "eval" / "results.json").read_text())
    records = (folder / "data" / "test.jsonl").read_text().splitlines()
    assert results["summary"]["count"] == len(records)
    assert len((folder / "eval" / "predictions.jsonl").read_text().splitlines()) == len(records)
    assert "<html" in (folder / "eval" / "worst.html").read_text()


def test_parse_and_ask_read_a_pdf_with_a_trained_model(folder):
    from parsit.synth.sample_pdf import write_sample_pdf
    from parsit.synth.settings import SynthSettings

    write_sample_pdf(folder / "sample.pdf", ["receipt", "letter"], SynthSettings(out=folder, pages=1), seed=7)
    result = parsit("parse", "sample.pdf", "--model", "run", "--format", "json", "--max_new_tokens", 4, cwd=folder)
    document = json.loads(result.stdout)
    assert [page["number"] for page in document["pages"]] == [1, 2]
    assert result.stderr == ""  # in a pipe: no bar
    asked = parsit("ask", "sample.pdf", "What is the total?", "--model", "run", "--pages", "1", cwd=folder)
    assert asked.stdout.endswith("\n")


def test_from_python(folder):
    import parsit as package
    from parsit.data.files import read_files

    reader = package.load(folder / "run")
    image = read_files([folder / "data" / "test.jsonl"])[0].images[0].source
    assert isinstance(reader.ask(image, "What is this?"), str)
    document = reader.parse(image)
    assert document.pages[0].number == 1


def test_a_model_that_is_not_there_is_one_line(folder):
    for arguments in (("eval", "nowhere", "--data", "data/test.jsonl"), ("parse", "sample.pdf", "--model", "nowhere")):
        result = parsit(*arguments, cwd=folder, check=False)
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1, result.stderr
