"""Programs that talk to OpenAI's interface through libraries of others: `make test-clients`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from parsit.types import ImageRef, Turn
from serve_support import HANG_S, data_url, noise, png

pytestmark = pytest.mark.external
SCRIPT = Path(__file__).with_name("langchain_client.py")


@pytest.fixture(scope="module")
def found(served) -> dict:
    asked = {"question": "Read.", "image": data_url(png(noise(5)))}
    run = subprocess.run(
        [os.environ["PARSIT_CLIENTS_PYTHON"], SCRIPT, served.url],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_langchain_gets_the_models_own_answer_whole_streamed_and_many_at_a_time(served, found):
    turns = (Turn("user", (ImageRef(noise(5)), "Read.")),)
    [answer] = served.model.generate([turns], max_new_tokens=12)
    assert found["text"] == found["streamed"] == answer.text
    assert found["many"] == [answer.text] * 6
    assert found["ended"] == "length"
    assert found["usage"]["output_tokens"] == found["streamed_tokens"] == answer.num_tokens
    assert found["usage"]["input_tokens"] == answer.num_prompt_tokens
    assert found["top"] == [2] * answer.num_tokens


def test_langchains_structured_output_is_the_schemas(found):
    assert found["structured"] in ({"paid": True}, {"paid": False})


def test_langchain_is_told_what_is_not_here(found):
    assert "tools is not supported" in found["refused"]
