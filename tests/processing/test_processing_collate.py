"""Batches know where their images and labels are."""

from __future__ import annotations

import pytest
from PIL import Image

from parsit import hf
from parsit.processing.collate import collate, collate_packed
from parsit.types import ImageRef, Turn


@pytest.fixture(scope="module")
def processor(mini):
    return hf.new_processor(mini)


@pytest.fixture(scope="module")
def features(processor):
    image = ImageRef(Image.new("RGB", (70, 40), "white"))
    chats = [
        (Turn("user", ("How many?",)), Turn("assistant", ("Two of them.",))),
        (
            Turn("user", (image, "Read.")),
            Turn("assistant", ("one",)),
            Turn("user", (image,)),
            Turn("assistant", ("2",)),
        ),
        (Turn("user", ("?", image)), Turn("assistant", ("!",))),
    ]
    return [processor.encode(chat) for chat in chats]


@pytest.mark.parametrize("way", ["right", "left", "packed", "nothing", "nothing packed"])
def test_positions_are_those_of_the_ids_and_labels(processor, features, way):
    chosen = [] if "nothing" in way else features
    pad = processor.chat_tokens.pad
    batch = (
        collate_packed(chosen, pad) if "packed" in way else collate(chosen, pad, "left" if way == "left" else "right")
    )
    ids, labels = batch.input_ids.flatten().tolist(), batch.labels.flatten().tolist()
    width = batch.labels.shape[1]
    expected = [place for place, token in enumerate(ids) if token == processor.chat_tokens.image]
    assert batch.image_positions.tolist() == expected
    supervised = [p for p in range(len(labels)) if (p + 1) % width and labels[p + 1] != -100]
    assert batch.label_positions.tolist() == supervised
    assert len(supervised) == batch.num_supervised
    assert bool(expected) == bool(supervised) == bool(chosen)
