"""What DeepSpeed's files and folders may not hold."""

from __future__ import annotations

import json

import pytest
from checkpoint_support import save

from parsit.config import TrainConfig
from parsit.files.manifest import write_manifest
from parsit.train.resume import checkpoint_to_resume
from parsit.train.strategies.zero import read_config
from parsit.types import InputError, UsageError


def test_an_optimizer_that_could_not_be_resumed_is_refused(tmp_path):
    file = tmp_path / "zero.json"
    for device in ("cpu", "nvme"):
        file.write_text(json.dumps({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": device}}}))
        if device == "cpu":
            assert read_config(file, TrainConfig(), 2, False, 64)["zero_optimization"]["stage"] == 3
    with pytest.raises(UsageError, match="offload_optimizer to nvme cannot be resumed: use cpu"):
        read_config(file, TrainConfig(), 2, False, 64)


def test_the_pickles_of_an_earlier_version_are_not_read(tmp_path):
    checkpoint = save(tmp_path, 3)
    own = checkpoint / "train_state" / "deepspeed"
    own.mkdir()
    (own / "mp_rank_00_model_states.pt").write_bytes(b"cos\nsystem\n(S'touch planted'\ntR.")
    write_manifest(checkpoint)
    with pytest.raises(InputError, match="is a pickle of an earlier version, which is not read: finish the run with"):
        checkpoint_to_resume(TrainConfig(output_dir=str(tmp_path)), pytest.fail)
