"""Files of tensors are what safetensors' own writer makes, byte for byte, and are hashed as they are written."""

from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from parsit import hf
from parsit.model.model_files import ModelFiles, captured, file_pieces, untied

KINDS = [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.float16, torch.bool, torch.float64]
KINDS += [torch.int32, torch.int16, torch.int8]


def test_a_file_of_tensors_is_what_safetensors_writes(tmp_path):
    tensors = {
        f"{kind} ü {number}".split(".")[1]: torch.arange(6).view(2, 3).to(kind) for number, kind in enumerate(KINDS)
    }
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4), "turned": torch.randn(4, 3).t()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs", {"format": "pt"})
    ours = b"".join(file_pieces(tensors))
    assert ours == (tmp_path / "theirs").read_bytes()


def test_what_is_written_is_hashed_and_whole(tmp_path, monkeypatch):
    large = torch.randn(3, 2**20)
    files = ModelFiles({"a.json": b"{}"}, {"sub/w.safetensors": {"large": large, "small": torch.ones(2)}}).under("ema")
    calls = []
    written = files.write(tmp_path, lambda: calls.append(1))
    assert set(written) == {"ema/a.json", "ema/sub/w.safetensors"}
    for name, entry in written.items():
        content = (tmp_path / name).read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert torch.equal(load_file(tmp_path / "ema/sub/w.safetensors")["large"], large)
    assert len(calls) >= 3, "asked more than once in a large file"


def test_a_writing_that_may_not_go_on_ends(tmp_path):
    def never():
        raise RuntimeError("given up")

    with pytest.raises(RuntimeError, match="given up"):
        ModelFiles({"a.json": b"{}"}, {}).write(tmp_path, never)


def test_the_weights_of_a_model_are_the_file_that_transformers_writes(tmp_path, mini):
    model = hf.new_model(mini, hf.new_processor(mini), 0)
    model.save_pretrained(tmp_path / "theirs", state_dict=dict(model.state_dict()))
    tensors = untied(model.state_dict(keep_vars=True))
    assert b"".join(file_pieces(tensors)) == (tmp_path / "theirs" / "model.safetensors").read_bytes()
    small = captured(lambda folder: model.save_pretrained(folder, state_dict={}))
    theirs = {p.name: p.read_bytes() for p in (tmp_path / "theirs").iterdir() if p.suffix == ".json"}
    assert small == theirs
