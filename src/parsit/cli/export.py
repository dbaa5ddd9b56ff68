"""`parsit export RUN_OR_CHECKPOINT --out DIR`: a trained model as an ordinary Hugging Face folder.

Adapters are merged into their base, and what only training needs is left behind. The folder is written beside its
place, loaded again strictly, compared with the model in memory, and renamed. It gets a card (README.md), and
`--push_to_hub` sends it to the Hub. Without `--out` a folder that was exported before is sent as it is: after its card
was edited, or when sending was broken off.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsit.cli.parser import Parser
from parsit.files import whole_folder
from parsit.hub import TASKS
from parsit.types import ImageRef, InputError, ParsitError, Turn, UsageError

if TYPE_CHECKING:
    import torch

    from parsit.model import ParsitForConditionalGeneration
    from parsit.processing.processor import ParsitProcessor

# Largest difference of a logit, as a share of the largest logit, by the bytes of a weight. Sums in another order differ
# by about 1e-6 in single precision; weights that were rounded to half precision after merging by about 1e-2.
TOLERANCE = {4: 1e-3, 2: 5e-2}


def main(argv: list[str]) -> int:
    """Run the verb."""
    options = _parser().parse_args(argv)
    if not options.out and not options.push_to_hub:
        raise UsageError("parsit export needs --out, a folder to write, or --push_to_hub, for one that was exported")
    if options.public and not options.push_to_hub:
        raise UsageError("--public says how the repository of --push_to_hub is made: give that too")
    if options.average_last is not None and not options.out:
        raise UsageError("--average_last makes another model: give --out, a folder to write it to")
    if options.push_to_hub:
        from parsit.hub.push import require_token

        require_token(options.push_to_hub)
    out = Path(options.out) if options.out else None
    if out:
        require_free(out)

    from parsit.cli.console import quiet_libraries

    quiet_libraries()
    last = find_last(options.source, options.average_last) if options.average_last is not None else []
    folder = last[-1] if last else find_checkpoint(options.source)
    if out is None:
        require_exported(folder)
    if options.push_to_hub:
        from parsit.hub.push import create_repository

        create_repository(options.push_to_hub, options.public)
    if out:
        _export(last or [folder], out, options)
    if options.push_to_hub:
        _push(out or folder, options.push_to_hub)
    return 0


def _parser() -> Parser:
    parser = Parser("parsit export", "Write a trained model as an ordinary Hugging Face folder, adapters merged.")
    parser.add_argument("source", metavar="RUN_OR_CHECKPOINT", help="a run's folder (its newest good checkpoint), "
                        "a checkpoint, a model's folder, or ORG/NAME[@REVISION] on the Hub")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="folder to write; it must not be there yet")
    parser.add_argument(
        "--base",
        metavar="DIR",
        help="where the adapters' base is now, if it was moved: a model's folder, or a run's, or ORG/NAME[@REVISION]",
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="numbers of the weights (default: as they are)"
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="what the model can do: what is not named is refused "
                        "by parse, ask and serve (default: as the model has it, or nothing is refused)")  # fmt: skip
    parser.add_argument("--note", help="a sentence for the card: what the training cost, what the data was")
    parser.add_argument("--push_to_hub", metavar="ORG/NAME", help="send the folder there as well; without --out "
                        "RUN_OR_CHECKPOINT is a folder that was exported before")  # fmt: skip
    parser.add_argument("--average_last", type=int, metavar="K", help="the mean of the weights of a run's last K good "
                        "checkpoints, adapters merged first")  # fmt: skip
    parser.add_argument("--public", action="store_true", help="let everybody see a repository that is made for it; by "
                        "default it is private")  # fmt: skip
    return parser


def _export(folders: list[Path], out: Path, options: Any) -> None:
    """Write the model in the last folder, or the mean of those in several, to `out`, adapters merged, with its card."""
    import torch

    from parsit import hf
    from parsit.cli.model_card import model_card
    from parsit.hub.card import CARD_FILE
    from parsit.model.averaging import mean_of

    folder = folders[-1]
    processor = hf.load_processor(folder)
    averaged = len(folders) if len(folders) > 1 else 0
    if averaged:
        model = mean_of((str(one), _loaded(one, options.base, processor)) for one in folders)
    else:
        model = _loaded(folder, options.base, processor)
    if options.dtype:
        model = model.to(dtype=getattr(torch, options.dtype))  # type: ignore[call-arg]
    if options.tasks:
        processor.tasks = tuple(options.tasks)
    kept = folder / CARD_FILE  # a folder that was exported before: its card may have been edited
    if kept.is_file() and options.note:
        raise UsageError(f"--note: {kept} is there already: write it into that card")
    if kept.is_file():
        card = kept.read_text("utf-8")
    else:
        place = options.push_to_hub or out.name
        card = model_card(model, processor, folder, place, averaged=averaged, note=options.note)
    if averaged:
        print(f"averaged: the weights of {averaged} checkpoints")
    write_model(model, processor, out, card)


def _loaded(folder: Path, base: str | None, processor: ParsitProcessor) -> ParsitForConditionalGeneration:
    """The model in a folder, adapters merged into their base."""
    from parsit import hf
    from parsit.model.adapter_files import is_adapter_folder

    print(f"checkpoint: {folder}")
    if is_adapter_folder(folder):
        return _merged(folder, find_base(folder, base) if base else None, processor)
    if base:
        raise UsageError(f"--base: {folder} holds no adapters, but a whole model")
    return hf.load_model(folder)


def find_last(source: str, count: int) -> list[Path]:
    """The last checkpoints of a run that verify, oldest first; each one that does not is told.

    Raises:
        UsageError: fewer than two are asked for.
        InputError: that is no run's folder, or it has fewer.
    """
    from parsit.cli.console import say
    from parsit.files.manifest import verify
    from parsit.files.run_folder import list_checkpoints

    if count < 2:
        raise UsageError(f"--average_last is {count}: a mean is of two checkpoints at least")
    checkpoints = list_checkpoints(Path(source))
    if not checkpoints:
        raise InputError(f"{source}: has no checkpoints to average: --average_last takes a run's folder")
    found: list[Path] = []
    for _, path in reversed(checkpoints):
        problem = verify(path)
        if problem:
            say(f"{path}: not a whole checkpoint ({problem}); left out of the mean")
            continue
        found.insert(0, path)
        if len(found) == count:
            return found
    raise InputError(
        f"{source}: has {len(found)} whole checkpoints, and --average_last is {count}: a run keeps as many as "
        "`parsit train --save_total_limit` says"
    )


def require_exported(folder: Path) -> None:
    """Refuse to push what has to be exported first, and what does not load.

    Raises:
        UsageError: a run's checkpoint, or adapters.
        InputError: a folder that holds no Parsit model, or one that cannot be loaded.
    """
    from parsit import hf
    from parsit.files.manifest import CONFIG_FILE
    from parsit.model.adapter_files import is_adapter_folder

    if (folder / CONFIG_FILE).is_file() or is_adapter_folder(folder):
        raise UsageError(f"{folder}: has to be exported first: give --out DIR too")
    hf.load_processor(folder)
    hf.load_model(folder)


def _push(folder: Path, name: str) -> None:
    from parsit.cli.console import say
    from parsit.hub.push import files_to_push, push_folder

    files, left_out = files_to_push(folder)
    if left_out:
        say(f"not sent, as they are no files of a model: {', '.join(left_out[:5])}{' …' * (len(left_out) > 5)}")
    say(f"sending {len(files)} files, {sum((folder / file).stat().st_size for file in files) / 1e6:,.1f} MB")
    address, private = push_folder(folder, name)
    print(f"pushed: {address} ({'private' if private else 'public'})")
    print(f'load it with parsit.load("{name}"), or `parsit parse FILE --model {name}`')


def require_free(out: Path) -> None:
    """Refuse a place where something is, before any work is done.

    Raises:
        InputError: the folder exists.
    """
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: is there already; give another --out")


def find_checkpoint(source: str | Path) -> Path:
    """The folder to export: `source`, in a run's folder its newest checkpoint that verifies, or a model on the Hub.

    Raises:
        InputError: there is none, or it is not whole.
    """
    from parsit.cli.console import say
    from parsit.files.manifest import CONFIG_FILE, MANIFEST, require_sound_model, verify
    from parsit.files.run_folder import find_best, find_newest, list_checkpoints, model_in
    from parsit.hub import model_folder

    path = Path(source)
    if (path / "config.json").is_file() or not list_checkpoints(path):
        folder = require_sound_model(model_folder(source))
        is_checkpoint = (folder / MANIFEST).is_file() and (folder / CONFIG_FILE).is_file()
        problem = verify(folder) if is_checkpoint else None
        if problem:
            raise InputError(f"{folder}: is not whole: {problem}")
        return folder
    newest = find_newest(path, warn=say)
    if newest is None:
        raise InputError(f"{path}: none of its checkpoints is whole")
    best = find_best(path)
    if best is not None and best != newest:
        say(f"{newest.name} is the newest; {best.name} validated best: export {model_in(best)} to have that one")
    if model_in(newest) != newest:
        say(f"the moving average of {newest.name} is taken: export {newest} to have the weights themselves")
    return model_in(newest)


def find_base(adapters: Path, place: str | Path) -> Path:
    """Where the adapters' base is: a model's folder or one on the Hub is taken as it is, a run's searched for it.

    Raises:
        InputError: no model in it is the base.
    """
    from parsit.hub import looks_like_id, model_folder
    from parsit.model.adapter_files import BaseModel, base_of

    path = Path(place)
    if not path.exists() and looks_like_id(str(place)):
        return model_folder(place)
    if (path / "config.json").is_file():
        return path
    wanted = base_of(adapters).weights_sha256
    models = sorted(config.parent for config in path.glob("*/config.json") if any(config.parent.glob("*.safetensors")))
    for model in models:
        if BaseModel.of(model).weights_sha256 == wanted:
            return model
    where = f"none of the {len(models)} models in it" if models else "no model in it"
    raise InputError(f"--base {path}: {where} is the base of {adapters}")


def _merged(folder: Path, base: Path | None, processor: ParsitProcessor) -> ParsitForConditionalGeneration:
    from parsit.model.adapter_files import load_with_adapters
    from parsit.model.adapters import adapter_parameters, merge_adapters

    model = load_with_adapters(folder, base, merge=False)
    count = sum(parameter.numel() for parameter in adapter_parameters(model).values())
    before = logits_of(model, processor)
    merge_adapters(model)
    difference = require_same(before, logits_of(model, processor), model, "the merged model")
    print(f"merged: {count:,} parameters of adapters; logits differ by at most {difference:.1e}")
    return model


def write_model(
    model: ParsitForConditionalGeneration, processor: ParsitProcessor, out: Path, card: str | None = None
) -> None:
    """Write a model's folder whole or not at all: written beside, loaded strictly, compared, renamed.

    Args:
        model: the model.
        processor: its processor.
        out: the folder.
        card: its README.md; None: one that knows nothing of a training.

    Raises:
        ParsitError: it cannot be written, or what is read back computes something else.
    """
    from safetensors import SafetensorError

    from parsit import hf
    from parsit.cli.model_card import model_card
    from parsit.hub.card import CARD_FILE

    card = card or model_card(model, processor, None, out.name)
    expected = logits_of(model, processor)
    try:
        with whole_folder(out) as draft:
            model.save_pretrained(draft)
            processor.save_pretrained(draft)
            (draft / CARD_FILE).write_text(card, encoding="utf-8")
            read_back = logits_of(hf.load_model(draft), hf.load_processor(draft))
            difference = require_same(expected, read_back, model, "what was written")
    except (OSError, SafetensorError) as error:
        raise ParsitError(f"{out}: cannot be written: {error}") from error
    print(f"verified: loaded strictly; logits differ by at most {difference:.1e}")
    print(f"wrote: {out}")


def logits_of(model: ParsitForConditionalGeneration, processor: ParsitProcessor) -> torch.Tensor:
    """The model's answer to a small image and a short prompt: `float[1, T, vocabulary]`."""
    import torch
    from PIL import Image

    from parsit.processing.collate import collate

    image = Image.radial_gradient("L").resize((96, 64)).convert("RGB")
    turns = (Turn("user", (ImageRef(image), "Read.")), Turn("assistant", ("Total 12.50",)))
    batch = collate([processor.encode(turns)], processor.chat_tokens.pad).to(model.device)
    with torch.no_grad():
        return model.eval()(**batch.model_inputs(with_labels=False)).logits.float().cpu()


def require_same(
    expected: torch.Tensor, found: torch.Tensor, model: ParsitForConditionalGeneration, what: str
) -> float:
    """The largest difference between two models' logits.

    Raises:
        ParsitError: it is larger than rounding explains.
    """
    difference = float((expected - found).abs().max())
    allowed = TOLERANCE[model.dtype.itemsize] * float(expected.abs().max())
    if not difference <= allowed:  # NaN is larger too
        raise ParsitError(f"{what} computes something else: logits differ by {difference:.1e}, allowed {allowed:.1e}")
    return difference
