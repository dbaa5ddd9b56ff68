"""`parsit export RUN_OR_CHECKPOINT --out DIR`: a trained model as an ordinary Hugging Face folder.

Adapters are merged into their base, and what only training needs is left behind. The folder is written beside its
place, loaded again strictly, compared with the model in memory, and renamed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from parsit.cli.parser import Parser
from parsit.files import whole_folder
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
    parser = Parser("parsit export", "Write a trained model as an ordinary Hugging Face folder, adapters merged.")
    parser.add_argument("source", metavar="RUN_OR_CHECKPOINT", help="a run's folder (its newest good checkpoint), "
                        "a checkpoint, or a model's folder")  # fmt: skip
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; it must not be there yet")
    parser.add_argument(
        "--base",
        metavar="DIR",
        help="where the adapters' base is now, if it was moved: a model's folder, or a run's, or ORG/NAME[@REVISION]",
    )
    options = parser.parse_args(argv)
    out = Path(options.out)
    require_free(out)

    from parsit import hf
    from parsit.cli.console import quiet_libraries
    from parsit.model.adapter_files import is_adapter_folder

    quiet_libraries()
    folder = find_checkpoint(options.source)
    print(f"checkpoint: {folder}")
    processor = hf.load_processor(folder)
    if is_adapter_folder(folder):
        model = _merged(folder, find_base(folder, options.base) if options.base else None, processor)
    elif options.base:
        raise UsageError(f"--base: {folder} holds no adapters, but a whole model")
    else:
        model = hf.load_model(folder)
    write_model(model, processor, out)
    return 0


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
    from parsit.files.run_folder import MANIFEST, find_best, find_newest, list_checkpoints, verify
    from parsit.hub import model_folder

    path = Path(source)
    if (path / "config.json").is_file() or not list_checkpoints(path):
        folder = model_folder(source)
        problem = verify(folder) if (folder / MANIFEST).is_file() else None
        if problem:
            raise InputError(f"{folder}: is not whole: {problem}")
        return folder
    newest = find_newest(path, warn=say)
    if newest is None:
        raise InputError(f"{path}: none of its checkpoints is whole")
    best = find_best(path)
    if best is not None and best != newest:
        say(f"{newest.name} is the newest; {best.name} validated best: export {best} to have that one")
    return newest


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


def write_model(model: ParsitForConditionalGeneration, processor: ParsitProcessor, out: Path) -> None:
    """Write a model's folder whole or not at all: written beside, loaded strictly, compared, renamed.

    Raises:
        ParsitError: it cannot be written, or what is read back computes something else.
    """
    from safetensors import SafetensorError

    from parsit import hf

    expected = logits_of(model, processor)
    try:
        with whole_folder(out) as draft:
            model.save_pretrained(draft)
            processor.save_pretrained(draft)
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
