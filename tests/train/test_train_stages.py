"""What a run's card says it was trained on."""

from __future__ import annotations

import json

import pytest

from parsit import hf
from parsit.data.dataset import DataLimits, open_data
from parsit.data.sources import read_sources
from parsit.train.stages import files_of


@pytest.fixture
def names(mini, tmp_path, monkeypatch):
    """How the card calls files that lie at these places."""
    monkeypatch.setenv("PARSIT_CACHE", str(tmp_path / "cache"))
    processor = hf.new_processor(mini)

    def told(*places):
        for number, place in enumerate(places):
            talk = [{"from": "human", "value": "Read."}, {"from": "gpt", "value": "Good."}]
            (tmp_path / place).parent.mkdir(exist_ok=True)
            records = [json.dumps({"id": str(n), "conversations": talk}) for n in range(number + 1)]
            (tmp_path / place).write_text("\n".join(records))
        sources = read_sources([tmp_path / place for place in places])
        return {one["file"]: one["samples"] for one in files_of(open_data(sources, processor, DataLimits(512)))}

    return told


def test_files_are_told_by_their_names_and_those_of_one_name_by_their_folders(names):
    assert names("letters/train.jsonl", "faxes/more.jsonl") == {"train.jsonl": 1, "more.jsonl": 2}
    both = names("letters/train.jsonl", "faxes/more.jsonl", "manuals/train.jsonl")
    assert both == {"letters/train.jsonl": 1, "more.jsonl": 2, "manuals/train.jsonl": 3}
