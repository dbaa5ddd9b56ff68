"""`--tf32`: what torch is told, without a GPU to try it on; the run computes the same on a CPU."""

import pytest
import torch

from parsit.config import TrainConfig
from parsit.train.fit import set_tf32

FLAGS = (torch.backends.cuda.matmul, torch.backends.cudnn)


@pytest.fixture(autouse=True)
def as_before():
    before = [flags.allow_tf32 for flags in FLAGS]
    yield
    for flags, value in zip(FLAGS, before, strict=True):
        flags.allow_tf32 = value


def are_set() -> list[bool]:
    return [flags.allow_tf32 for flags in FLAGS]


def test_a_gpu_is_set_as_asked():
    for choice, expected in (("true", [True, True]), ("false", [False, False])):
        set_tf32(choice, torch.device("cuda"))
        assert are_set() == expected
        set_tf32("auto", torch.device("cuda"))
        assert are_set() == expected


def test_a_cpu_is_left_alone():
    before = are_set()
    for choice in ("true", "false"):
        set_tf32(choice, torch.device("cpu"))
        assert are_set() == before


def test_python_gives_it_as_a_truth_value():
    assert TrainConfig.from_preset("tiny/scratch", tf32=True).tf32 == "true"
