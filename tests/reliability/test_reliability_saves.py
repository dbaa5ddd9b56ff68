"""A save that is killed before or after any of its file operations leaves a run that goes on.

What may be lost is what came after the checkpoint before. Each kill is a process that dies by SIGKILL.
"""

from __future__ import annotations

import json
import shutil

import pytest
from kill_support import forked, killed_at, operations_of
from transformers.utils.logging import disable_progress_bar

from parsit.files import whole
from parsit.files.manifest import MANIFEST, verify
from parsit.files.run_folder import clear_leftovers, find_best, find_newest, list_checkpoints
from parsit.train.checkpoint import Best, TrainState, load_state
from parsit.train.loop import Run
from parsit.train.prepare import prepare
from parsit.train.requests import Asked
from parsit.train.saving import Saver
from parsit.train.world import World

# By name: steps there before, the best of them, the step that is saved, the best then, --save_total_limit.
SCENARIOS = {
    "first": ([], (), 3, (), 0),
    "later": ([3], (), 6, (), 0),
    "over the same step": ([3], (), 3, (), 0),
    "over the same step, with a best": ([3], (3,), 3, (3,), 1),
    "with a new best": ([3], (3,), 6, (6,), 0),
    "with pruning": ([3, 6], (), 9, (), 1),
    "with pruning and an older best": ([3, 6], (3,), 9, (3,), 1),
    "with the third best giving way": ([3, 6, 9], (9, 3, 6), 12, (12, 9, 3), 1),
}


# How it is saved: from copies as training goes on (the default), as it waits, with a moving average beside the model.
WAYS = {"async": {}, "plain": {"async_save": False}, "EMA": {"ema_decay": 0.9}}


@pytest.fixture(scope="module", params=["async"])
def saver(config, tmp_path_factory, request):
    """Saves a run that has made a step, so that its optimizer has a state."""
    disable_progress_bar()  # tqdm's lock is shared with forked processes, and one that is killed keeps it
    folder = tmp_path_factory.mktemp("sweep") / "run"
    prepared = prepare(config(folder, **WAYS[request.param]), World())
    run = Run(prepared)
    run.left_out.begin(0, print)
    run.step(0, run.training_batches(0), Asked())
    return Saver(prepared, run.strategy, run.ema), run.fingerprint


def state(fingerprint, step, best):
    return TrainState(step, fingerprint, tuple(Best(one, float(place)) for place, one in enumerate(best)))


def write(saver, state):
    """As a run does: it goes on while a thread writes, and waits for that at last."""
    saver.begin(state)
    saver.wait()


def sweep(saver, scenario, every):
    """Kill at every so manieth file operation; how many were tried."""
    saver, fingerprint = saver
    before, best_before, step, best, keep = SCENARIOS[scenario]
    folder = saver.output_dir
    saver.retention.keep = 0
    shutil.rmtree(folder)
    folder.mkdir()
    for earlier in before:
        assert forked(lambda earlier=earlier: write(saver, state(fingerprint, earlier, best_before))) == 0
    kept = shutil.copytree(folder, folder.with_name("kept"), dirs_exist_ok=False)
    saver.retention.keep = keep

    def save():
        write(saver, state(fingerprint, step, best))

    operations = operations_of(save)
    reset(kept, folder)
    tried = range(0, len(operations), every)
    for number in tried:
        killed_at(number, save)
        require_usable(folder, before, step, best_before, f"{scenario}: {operations[number]} ({number})")
        for kept_best in {*best_before} & {*best} - {step}:
            assert verify(folder / f"checkpoint-{kept_best}") is None, f"{scenario}: one of the best ({number})"
        if number % 10 == 0:
            assert forked(save) == 0, "the run goes on and saves again"
            assert load_state(find_newest(folder, pytest.fail)).state.step == step
        reset(kept, folder)
    shutil.rmtree(kept)
    return len(tried)


def reset(kept, folder):
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)


def require_usable(folder, before, step, best_before, where):
    """Nothing that carries a checkpoint's name is not one, nothing is lost that was there, and the best is a best."""
    for _ in range(2):
        newest = find_newest(folder, lambda line: pytest.fail(f"{where}: {line}"))
        assert bool(newest) >= bool(before), where
        if newest:
            assert load_state(newest).state.step in {step, *before[-1:]}, where
        best = find_best(folder)
        assert not best_before or (best and verify(best) is None), where
        clear_leftovers(folder)  # what the next start does
    assert not list(folder.glob(".*")), where


@pytest.mark.slow
def test_a_save_over_the_same_step_that_is_killed(saver):
    """Some of the places; all of them, in all scenarios: `make test-reliability`."""
    assert sweep(saver, "over the same step, with a best", every=23) > 5


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("saver", "scenario"),
    [
        *(("async", scenario) for scenario in SCENARIOS),
        ("plain", "over the same step, with a best"),
        ("plain", "with pruning and an older best"),
        ("EMA", "over the same step, with a best"),
        ("EMA", "with pruning and an older best"),
    ],
    indirect=["saver"],
)
def test_a_save_killed_at_every_file_operation_leaves_a_run_that_goes_on(saver, scenario, request, measured):
    how = request.node.callspec.params["saver"]
    measured(f"save, {how}, {scenario}: {sweep(saver, scenario, every=1)} kills, 0 unusable states")


@pytest.mark.sweep
@pytest.mark.parametrize("scenario", ["over the same step, with a best", "with pruning"])
def test_the_same_where_folders_cannot_be_exchanged(saver, scenario, monkeypatch, measured):
    """As on a file system without renameat2's exchange: the next start puts a whole checkpoint into its empty place."""
    monkeypatch.setattr(whole, "_exchanged", lambda one, other: False)
    saver, fingerprint = saver
    before, best_before, step, best, keep = SCENARIOS[scenario]
    folder = saver.output_dir
    shutil.rmtree(folder)
    folder.mkdir()
    saver.retention.keep = 0
    for earlier in before:
        assert forked(lambda earlier=earlier: write(saver, state(fingerprint, earlier, best_before))) == 0
    kept = shutil.copytree(folder, folder.with_name("kept"))
    saver.retention.keep = keep

    def save():
        write(saver, state(fingerprint, step, best))

    operations = operations_of(save)
    for number, operation in enumerate(operations):
        reset(kept, folder)
        killed_at(number, save)
        clear_leftovers(folder)
        require_usable(folder, before, step, best_before, f"{scenario}: {operation} ({number})")
    shutil.rmtree(kept)
    measured(f"save without exchange, {scenario}: {len(operations)} kills, 0 unusable states after a start")


@pytest.mark.sweep
def test_every_bit_of_a_manifest_is_found(saver, measured):
    saver, fingerprint = saver
    shutil.rmtree(saver.output_dir)
    saver.output_dir.mkdir()
    saver.retention.keep = 0
    write(saver, state(fingerprint, 3, ()))
    ((_, checkpoint),) = list_checkpoints(saver.output_dir)
    manifest = checkpoint / "manifest.json"
    content = manifest.read_bytes()
    assert json.loads(content)["files"]
    for place in range(len(content)):
        for bit in range(8):
            manifest.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            assert verify(checkpoint) is not None, (place, bit)
    measured(f"manifest.json: {8 * len(content)} flipped bits, all found")


@pytest.mark.sweep
def test_damage_anywhere_in_any_file_is_found(saver, measured):
    """Cut, emptied, longer, gone, and bits flipped over the whole length of each file."""
    saver, fingerprint = saver
    shutil.rmtree(saver.output_dir)
    saver.output_dir.mkdir()
    write(saver, state(fingerprint, 3, ()))
    ((_, checkpoint),) = list_checkpoints(saver.output_dir)
    tried = 0
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        content = path.read_bytes()
        places = range(0, len(content), max(len(content) // 50, 1))
        flipped = [content[:n] + bytes([content[n] ^ 1 << n % 8]) + content[n + 1 :] for n in places]
        for damaged in [None, b"", content[:-1], content[: len(content) // 2], content + b"\0", *flipped]:
            path.unlink() if damaged is None else path.write_bytes(damaged)
            problem = verify(checkpoint)
            assert problem is not None, path
            assert path.name in problem or path.name == MANIFEST  # which may name another file now, that is missing
            tried += 1
        path.write_bytes(content)
    assert verify(checkpoint) is None
    measured(f"files of a checkpoint: {tried} damages, all found and named")
