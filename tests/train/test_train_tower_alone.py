"""The tower's own losses: CTC from a line's text, and runs in which projector and decoder wait."""

from __future__ import annotations

import itertools
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from parsit import hf
from parsit.config import TrainConfig
from parsit.processing.collate import collate, collate_packed
from parsit.processing.glyphs import GLYPHS, NUM_TEXT_CLASSES, OTHER, SPACE, text_classes
from parsit.tiling import ImageLayout, NativeLayout
from parsit.train.objective import Objective, StepCounts, image_columns
from parsit.train.resume import checkpoint_to_resume
from parsit.types import UsageError

ALONE = {"mm_tunable_parts": "mm_vision_tower", "language_loss_weight": 0.0}
CTC = ALONE | {"glyph_loss_weight": 0.0, "ctc_loss_weight": 1.0}
TARGETS = {"with_glyphs": True, "with_line_texts": True}


@pytest.fixture(scope="module", params=["mini", "mini_native"])
def architecture(request):
    return request.getfixturevalue(request.param)


def batch_of(architecture, samples, make=collate):
    processor = hf.new_processor(architecture)
    return make([processor.encode(sample.turns, **TARGETS) for sample in samples], processor.chat_tokens.pad)


def objective_of(architecture, **weights):
    torch.manual_seed(3)
    return Objective(hf.new_model(architecture, hf.new_processor(architecture), 0), **weights).train()


def test_a_text_is_its_characters_and_single_spaces():
    first = 2 + GLYPHS.index("a")
    assert text_classes(" a\n\t b§→ ").tolist() == [first, SPACE, first + 1, 2 + GLYPHS.index("§"), OTHER]
    assert text_classes("").tolist() == []
    assert SPACE == NUM_TEXT_CLASSES - 1


def all_readings(log_probs_TC, text):
    """The text's probability, summed over all that the columns could say: what CTC computes by recursion."""
    total = 0.0
    for path in itertools.product(range(log_probs_TC.shape[1]), repeat=log_probs_TC.shape[0]):
        said = [one for one, _ in itertools.groupby(path) if one]
        if said == text:
            total += math.exp(sum(float(log_probs_TC[t, c]) for t, c in enumerate(path)))
    return -math.log(total)


def test_the_ctc_loss_is_that_of_all_readings_of_the_columns(mini_native, samples):
    """Two columns of two slots; of the classes only three can be said, so that all paths can be gone through."""
    objective = objective_of(mini_native, ctc_loss_weight=1.0)
    processor = hf.new_processor(mini_native)
    batch = collate([processor.encode(samples[0].turns, **TARGETS)], 0)
    batch.line_texts[:] = torch.tensor([2])
    with torch.no_grad():
        objective.ctc_head.classify.bias.view(-1, NUM_TEXT_CLASSES)[:, 3:] = -1e4
        plans = objective.model.plans(batch.image_sizes, batch.pixels.shape[0])
        columns = image_columns(objective.model.encode_tiles(batch.pixel_values, plans), plans)[0]
        log_probs = objective.ctc_head(columns).flatten(0, 1).log_softmax(-1)[:, :3]
        expected = all_readings(log_probs, [2])
        found = float(objective(batch, StepCounts.of([batch])).ctc)
    assert len(columns) >= 2
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("layout", "side"),
    [
        (ImageLayout(16, 8, image_grid_pinpoints="(1x1),...,(4x2)", mm_patch_merge_type="spatial_unpad"), 2),
        (ImageLayout(16, 8, image_grid_pinpoints="(1x1),...,(4x2)", mm_patch_merge_type="spatial_unpad_nobase"), 2),
        (NativeLayout(8, 100), 1),
    ],
)
def test_columns_are_the_means_of_what_stands_above_each_other(layout, side):
    """Each patch's feature is the number of its column, so that the means are known."""
    plans = [layout.plan(60, 30), layout.plan(16, 16)]
    features = []
    for plan in plans:
        across, down = plan.grid
        if plan.overview:
            features.append(torch.full((1, side * side, 1), 99.0))
        for _, tile, _, column in itertools.product(range(down), range(across), range(side), range(side)):
            features.append(torch.full((1, 1, 1), float(tile * side + column)))
    flat = torch.cat([feature.flatten() for feature in features]).view(-1, side * side, 1)
    for found, plan in zip(image_columns(flat, plans), plans, strict=True):
        assert found.flatten().tolist() == list(range(plan.grid[0] * side))


def test_without_the_languages_loss_the_decoder_does_not_run_and_the_glyph_loss_is_the_same(architecture, samples):
    batch = batch_of(architecture, samples)
    counts = StepCounts.of([batch])
    whole = objective_of(architecture, glyph_loss_weight=0.5, ctc_loss_weight=0.25)(batch, counts)
    alone = objective_of(architecture, glyph_loss_weight=0.5, ctc_loss_weight=0.25, language_loss_weight=0.0)
    alone.model.get_decoder().register_forward_pre_hook(lambda *_: pytest.fail("the decoder runs"))
    found = alone(batch, counts)
    assert (float(found.glyph), float(found.ctc)) == pytest.approx((float(whole.glyph), float(whole.ctc)), rel=1e-5)
    assert float(found.total) == pytest.approx(0.5 * float(whole.glyph) + 0.25 * float(whole.ctc), rel=1e-5)
    expected = float(whole.language) + float(found.total)
    assert float(whole.total) == pytest.approx(expected, rel=1e-5)
    found.total.backward()
    reached = {name.split(".")[1 if name.startswith("model.") else 0]
               for name, p in alone.named_parameters() if p.grad is not None}  # fmt: skip
    assert reached == {"vision_tower", "glyph_head", "ctc_head"}


@pytest.mark.parametrize("make", [collate, collate_packed])
@pytest.mark.parametrize("language", [0.0, 1.0])
def test_text_alone_and_several_images_ask_nothing_of_the_columns(architecture, samples, make, language):
    """Zero, through tower and head: another process may have images, and waits for the same sums."""
    objective = objective_of(architecture, ctc_loss_weight=1.0, language_loss_weight=language)
    if make is collate_packed:
        objective.model.enable_packing()
    two = samples[0].turns[:1] + samples[1].turns
    processor = hf.new_processor(architecture)
    for features in ([processor.encode(samples[-1].turns, **TARGETS)], [processor.encode(two, **TARGETS)]):
        batch = make(features, processor.chat_tokens.pad)
        losses = objective(batch, StepCounts.of([batch]))
        assert float(losses.ctc) == 0
        losses.total.backward()
        assert all(p.grad is not None and not p.grad.any() for p in objective.ctc_head.parameters())
        objective.zero_grad()


def test_accumulation_does_not_change_the_gradient_of_the_columns(architecture, samples):
    gradients = []
    for groups in ([samples], [samples[:5], samples[5:12], samples[12:]]):
        objective = objective_of(architecture, ctc_loss_weight=1.0, language_loss_weight=0.0)
        batches = [batch_of(architecture, group) for group in groups]
        counts = StepCounts.of(batches)
        for batch in batches:
            objective(batch, counts).total.backward()
        gradients.append({name: p.grad for name, p in objective.named_parameters() if p.grad is not None})
    one, other = gradients
    assert one.keys() == other.keys()
    assert all((one[name] - other[name]).abs().max() <= 1e-5 for name in one)


def losses(folder, name):
    return [json.loads(line)[name] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_tower_learns_from_texts_without_a_box(run, samples, tmp_path):
    run(tmp_path, max_steps=60, save_steps=100, per_device_train_batch_size=12, learning_rate=1e-2, **CTC)
    found = losses(tmp_path, "ctc_loss")
    assert sum(found[-4:]) < 0.4 * sum(found[:4])
    assert losses(tmp_path, "loss") == found


def test_a_run_of_the_tower_alone_goes_on_to_the_bit_and_leaves_the_rest_as_it_was(run, mini, processor, tmp_path):
    whole = run(tmp_path / "whole", eval_steps=3, **CTC)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    resumed = run(tmp_path / "cut", eval_steps=3, **CTC)
    assert losses(tmp_path / "cut", "ctc_loss") == losses(tmp_path / "whole", "ctc_loss")
    one, two = (load_file(result.checkpoint / "model.safetensors") for result in (whole, resumed))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert whole.eval_loss == resumed.eval_loss
    fresh = hf.new_model(mini, processor, 0).state_dict()
    moved = {key.split(".")[0] for key in one if not torch.equal(one[key], fresh[key])}
    assert moved == {"vision_tower"}


def test_its_validation_is_what_the_tower_minimises(run, samples, tmp_path):
    flags = ALONE | {"glyph_loss_weight": 1.0, "per_device_train_batch_size": 14, "learning_rate": 1e-12}
    result = run(tmp_path, max_steps=1, eval_steps=1, **flags)
    assert result.eval_loss == pytest.approx(losses(tmp_path, "glyph_loss")[0], rel=1e-5)


@pytest.mark.parametrize("changed", [{"ctc_loss_weight": 0.5}, {"language_loss_weight": 0.5}])
def test_the_losses_may_not_change_on_the_way(run, tmp_path, changed):
    run(tmp_path, max_steps=1, ctc_loss_weight=1.0)
    flags = {"glyph_loss_weight": 0.5, "ctc_loss_weight": 1.0} | changed
    config = TrainConfig(output_dir=str(tmp_path), **flags)
    with pytest.raises(UsageError, match=f"--{next(iter(changed))} is 0.5, but"):
        checkpoint_to_resume(config, print)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (ALONE, "leaves nothing to learn from: add --glyph_loss_weight 1 or --ctc_loss_weight 1"),
        (CTC | {"mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter"}, "trains the tower alone"),
        ({"ctc_loss_weight": -1.0}, "--ctc_loss_weight is -1.0"),
        ({"language_loss_weight": float("inf")}, "--language_loss_weight is inf"),
    ],
)
def test_weights_that_make_no_run_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**flags)
