"""Trackers, each with its real package: what was told is read back from what it wrote."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parsit.train.parts import PartReport
from parsit.train.trackers import tracker
from parsit.types import ParsitError, UsageError

PARTS = [PartReport("projector", 4, 100, 100), PartReport("language_model", 20, 5000, 0)]
CONFIG = {"learning_rate": 1e-3, "data": ["a.json"], "max_steps": 6, "bf16": "auto"}


@pytest.fixture
def tell(tmp_path, monkeypatch):
    """A function that tells a tracker of the steps after `first` up to `last`; returns what was said."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW", "WANDB"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "run").mkdir()

    def run(kind, first, last, max_steps=6):
        said = []
        told = tracker(kind, tmp_path / "run", "my run", first, said.append)
        told.start(CONFIG | {"max_steps": max_steps}, PARTS)
        for step in range(first + 1, last + 1):
            told.log(step, {"step": step, "loss": 10.0 - step, **({"eval_loss": 0.5} if step == 4 else {})})
            if step == 4:
                told.text(step, "samples", "<b>read</b> as\n  written")
        told.finish()
        return "\n".join(said)

    return run


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    losses = [(e.step, e.tensor_proto.float_val[0]) for e in events.Tensors("train/loss")]
    evaluated = [e.step for e in events.Tensors("eval/loss")]
    (text,) = (e.tensor_proto.string_val[0].decode() for e in events.Tensors("samples/text_summary"))
    config = events.Tensors("config/text_summary")[-1]
    return losses, evaluated, text, json.loads(config.tensor_proto.string_val[0])


def wandb_records(file):
    """LevelDB's log format: a header, then blocks of 32 KiB with records of checksum, length, kind and data."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def read_wandb(folder):
    import wandb

    wandb.teardown()  # as at a process's end: what its service still holds is written
    losses, evaluated, settings, text = [], [], {}, ""
    for run in sorted((folder / "run" / "wandb").glob("offline-run-*")):
        (file,) = run.glob("*.wandb")
        for record in wandb_records(file):
            for item in record.run.config.update:
                settings[item.key] = json.loads(item.value_json)
            values = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
            }
            losses += [(values["_step"], values["train/loss"])] if "train/loss" in values else []
            evaluated += [values["_step"]] if "eval/loss" in values else []
        text += "".join(page.read_text() for page in run.rglob("*.html"))
    return losses, evaluated, text, settings


def read_trackio(folder):
    code = """
import json
from trackio.sqlite_storage import SQLiteStorage as S
(run,) = S.get_runs("parsit")
print(json.dumps([S.get_logs("parsit", run), S.get_run_config("parsit", run)]))
"""
    environment = os.environ | {"TRACKIO_DIR": str(folder / "trackio")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    logs, settings = json.loads(result.stdout.splitlines()[-1])
    losses = [(e["step"], e["train/loss"]) for e in logs if "train/loss" in e]
    evaluated = [e["step"] for e in logs if "eval/loss" in e]
    (text,) = [e["samples"]["_value"] for e in logs if "samples" in e]
    return losses, evaluated, text, settings


def mlflow_run(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    client = MlflowClient((folder / "run" / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("parsit").experiment_id])
    return client, run


def read_mlflow(folder, monkeypatch):
    client, run = mlflow_run(folder, monkeypatch)
    losses = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")]
    evaluated = [m.step for m in client.get_metric_history(run.info.run_id, "eval/loss")]
    (text,) = (folder / "run" / "mlflow").rglob("samples/step-0000004.txt")
    settings = dict(run.data.params)
    settings["parts"] = {"projector": {"trainable": int(settings["parts.projector.trainable"])}}
    return losses, evaluated, text.read_text(), settings


def read(kind, folder, monkeypatch):
    return read_mlflow(folder, monkeypatch) if kind == "mlflow" else globals()[f"read_{kind}"](folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tensorboard", pytest.param("wandb", marks=pytest.mark.slow), "trackio", "mlflow"])
def test_what_is_told_is_there_and_a_resumed_run_goes_on_without_a_step_twice(kind, tmp_path, tell, monkeypatch, capfd):
    pytest.importorskip(kind)
    tell(kind, 0, 5)  # stopped after step 5; its checkpoint is that of step 3
    time.sleep(1.1 if kind == "wandb" else 0)  # its folders are named by the second
    said = tell(kind, 3, 6)
    assert capfd.readouterr().out == ""
    losses, evaluated, text, settings = read(kind, tmp_path, monkeypatch)
    assert losses == [(step, 10.0 - step) for step in range(1, 7)]
    assert evaluated == [4]
    assert "  written" in text
    assert "read" in text
    assert float(settings["learning_rate"]) == 1e-3
    assert settings["parts"]["projector"]["trainable"] == 100
    assert ("4 to 5" in said) == (kind != "tensorboard")


@pytest.mark.slow
def test_markup_in_a_sample_is_shown_and_not_obeyed(tmp_path, tell):
    pytest.importorskip("wandb")
    tell("wandb", 0, 4)
    assert "&lt;b&gt;read&lt;/b&gt;" in read_wandb(tmp_path)[2]


def test_a_run_that_begins_again_is_another_run(tmp_path, tell):
    pytest.importorskip("mlflow")
    tell("mlflow", 0, 2)
    first = json.loads((tmp_path / "run" / "tracker.json").read_text())["mlflow"]
    tell("mlflow", 0, 1)
    second = json.loads((tmp_path / "run" / "tracker.json").read_text())["mlflow"]
    assert first["id"] != second["id"]
    assert (first["told"], second["told"]) == (2, 1)


def test_mlflow_keeps_a_setting_that_changed_on_resume_as_a_tag(tmp_path, tell, monkeypatch):
    pytest.importorskip("mlflow")
    tell("mlflow", 0, 4)
    tell("mlflow", 4, 6, max_steps=99)
    _, run = mlflow_run(tmp_path, monkeypatch)
    assert run.data.params["max_steps"] == "6"
    assert run.data.tags["max_steps.from_step_5"] == "99"
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_wandb_without_a_key_or_an_answer_writes_files_and_says_so(tmp_path, tell, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()  # settings are read from the environment once
    assert "no key here" in tell("wandb", 0, 1)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    wandb.teardown()
    time.sleep(1.1)
    said = tell("wandb", 1, 2)
    assert "http://127.0.0.1:9 does not answer" in said
    assert "wandb sync" in said
    assert read_wandb(tmp_path)[0] == [(1, 9.0), (2, 8.0)]
    wandb.teardown()


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("wandb", r"pip install parsit\[wandb\]"),
        ("tensorboard", r"pip install parsit\[tensorboard\]"),
        ("mlflow", r"pip install parsit\[mlflow\]"),
        ("trackio", "pip install --no-deps trackio"),
    ],
)
def test_a_missing_package_is_one_line_with_its_command(kind, remedy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)  # as Python itself marks a module that cannot be imported
    with pytest.raises(ParsitError, match=f"--report_to {kind}: .*{remedy}") as raised:
        tracker(kind, tmp_path, None, 0)
    assert "\n" not in str(raised.value)


def test_an_unknown_tracker_is_named_and_none_writes_nothing(tmp_path):
    with pytest.raises(UsageError, match="--report_to comet: no such tracker"):
        tracker("comet", tmp_path, None, 0)
    silent = tracker("none", tmp_path, None, 0)
    silent.start(CONFIG, PARTS)
    silent.log(1, {"loss": 1.0})
    silent.text(1, "samples", "x")
    silent.finish()
    assert list(Path(tmp_path).iterdir()) == []
