"""Pretrained parts without a Hub, with one, and from folders that are not there: one line, soon, with its advice."""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import sys
import threading

import pytest
from dist_support import make_data
from transformers import AutoConfig, AutoModelForCausalLM

from parsit import hf
from parsit.config import load_architecture

# Each is a process that imports torch, or several programs.
pytestmark = pytest.mark.slow

NO_HUB = "http://127.0.0.1:9"  # nobody listens there
ADVICE = "; name a folder that holds it with --model_name_or_path\n"


@pytest.fixture
def folder(tmp_path):
    make_data(tmp_path)
    (tmp_path / "runs" / "pretrain").mkdir(parents=True)
    return tmp_path


def parsit(folder, endpoint, verb, *flags):
    """The verb as a process of its own, whose Hub is there; an empty cache."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "parsit.cli", verb, *flags, "--data", "d.jsonl", "--output_dir", "out"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_without_a_hub_train_says_so_in_one_line_and_tells_of_no_other_tries(folder):
    done = parsit(folder, NO_HUB, "train", "qwen3-1.7b/pretrain")
    assert done.returncode == 1
    assert done.stderr == (
        f"parsit: cannot get the tokenizer of Qwen/Qwen3-1.7B: the Hub ({NO_HUB}) does not answer, and its cache has "
        f"not got it{ADVICE}"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "runs/pretrian",
            "cannot get the language model of runs/pretrian: no such folder; did you mean runs/pretrain? "
            "(--model_name_or_path)",
        ),
        ("./nowhere", "./nowhere: no such folder (--model_name_or_path)"),
        ("a/b/c", "a/b/c: no such folder (--model_name_or_path)"),
    ],
)
def test_a_mistyped_folder_is_not_a_matter_of_the_hub(folder, given, said):
    done = parsit(folder, NO_HUB, "train", "smol", "--model_name_or_path", given)
    assert (done.returncode, done.stderr) == (1, f"parsit: {said}\n")


def test_a_folder_without_a_tower_names_its_own_flag(folder):
    done = parsit(folder, NO_HUB, "check", "tiny/pretrain", "--vision_tower", "runs/pretrain", "--no_step")
    assert done.returncode == 1
    assert "no vision tower there: a folder with config.json is needed (--vision_tower)\n" in done.stdout


def test_what_lies_in_the_hubs_cache_is_taken_where_the_hub_does_not_answer(folder, mini):
    snapshot = folder / "cache" / "hub" / "models--someone--lm" / "snapshots" / "0123abc"
    tiny = load_architecture("tiny")
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**tiny.text_config)).save_pretrained(snapshot)
    hf.shipped_tokenizer(tiny.tokenizer).save_pretrained(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123abc")
    done = parsit(folder, NO_HUB, "check", "tiny/finetune", "--model_name_or_path", "someone/lm", "--no_step")
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(snapshot)
    done = parsit(folder, NO_HUB, "check", "tiny/finetune", "--model_name_or_path", "someone/lm", "--no_step")
    assert (done.returncode, "cannot get the language model of someone/lm" in done.stdout) == (1, True)


def test_what_a_hub_answers_is_told(folder):
    asked = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def answer(self):
            asked.append(self.path)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = answer

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        done = parsit(folder, endpoint, "train", "smol", "--model_name_or_path", "someone/nothing")
        server.shutdown()
    assert done.returncode == 1
    assert "does not answer" not in done.stderr
    assert "someone/nothing" in done.stderr
    assert any(path.startswith("/api/models/someone/nothing") for path in asked), asked
