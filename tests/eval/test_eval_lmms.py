"""Parsit under lmms-eval itself, on a task made here; in an environment where both are installed."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from parsit import hf
from parsit.parse.engine import load_engine
from parsit.types import ImageRef, Turn

TASK = """
task: parsit_words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function words.visual
doc_to_text: "Read the text."
doc_to_target: answer
process_results: !function words.results
generation_kwargs: {{max_new_tokens: 6, until: ["\\n\\n"]}}
metric_list: [{{metric: exact, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""
CODE = """
from PIL import Image

def visual(doc):
    return [Image.open(doc["path"]).convert("RGB")]

def results(doc, answers):
    return {"exact": float(answers[0].strip() == doc["answer"].strip())}  # lmms-eval's filter strips
"""


@pytest.fixture
def folder(tmp_path, mini) -> Path:
    """A model, a task of five words, and the answers that the model gives: three of them are called right."""
    processor = hf.new_processor(mini)
    hf.new_model(mini, processor, 3).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    engine = load_engine(tmp_path / "model", "cpu", 2)
    records = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        image = Image.new("RGB", (60 + 10 * number, 30), "white")
        ImageDraw.Draw(image).text((5, 8), f"N{number}", fill="black")
        image.save(path)
        prompt = (Turn("user", (ImageRef(path), "Read the text.")),)
        answer = engine.generate([prompt], max_new_tokens=6)[0].text
        records.append({"path": str(path), "answer": answer if number < 3 else f"not {answer}"})
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "words.yaml").write_text(TASK.format(data=tmp_path / "data.jsonl"))
    (tmp_path / "task" / "words.py").write_text(CODE)
    return tmp_path


def lmms_eval(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [os.environ["PARSIT_LMMS_PYTHON"], "-m", "lmms_eval", "--model", "parsit", "--tasks", "parsit_words"]
    command += ["--include_path", str(folder / "task"), "--batch_size", "2", "--output_path", str(folder / "out")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*command, *more], env=environment, capture_output=True, text=True, check=False, cwd=folder)


@pytest.mark.external
def test_lmms_eval_finds_the_model_by_its_name_and_gets_its_answers(folder):
    done = lmms_eval(folder, "--model_args", f"pretrained={folder / 'model'},device=cpu", "--log_samples")
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "out").rglob("*_results.json")
    scores = json.loads(path.read_text())["results"]["parsit_words"]
    assert next(value for name, value in scores.items() if name.startswith("exact,")) == pytest.approx(3 / 5), scores
    (samples,) = (folder / "out").rglob("*_samples_*.jsonl")
    given = {line["doc_id"]: line["resps"] for line in map(json.loads, samples.read_text().splitlines())}
    asked = [
        json.loads(line)["answer"].removeprefix("not ") for line in (folder / "data.jsonl").read_text().splitlines()
    ]
    assert [given[number] for number in range(5)] == asked, "the engine's own answers, empty lines and all"


@pytest.mark.external
def test_an_argument_that_does_not_exist_is_named(folder):
    done = lmms_eval(folder, "--model_args", f"pretrained={folder / 'model'},max_tokens=3")
    assert "--model_args max_tokens: unknown" in done.stdout + done.stderr
