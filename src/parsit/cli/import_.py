"""`parsit import PATH --out DIR`: a checkpoint or a projector of LLaVA-NeXT or of older Parsit, in today's layout.

A folder with a whole model becomes a Parsit folder; a projector (`mm_projector.bin`) becomes
`DIR/mm_projector.safetensors`, which `--pretrain_mm_mlp_adapter` takes. No pickle is run, see
`parsit.model.weight_files`.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsit.cli.export import require_free, write_model
from parsit.cli.parser import Parser
from parsit.config import MULTIMODAL_FLAGS, Architecture, architecture_names, load_architecture
from parsit.files import whole_folder
from parsit.types import InputError

if TYPE_CHECKING:
    from parsit.model.import_weights import Projector
    from parsit.model.weight_files import Weights

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json")


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = Parser(
        "parsit import", "Bring a checkpoint or a projector of LLaVA-NeXT or of older Parsit into today's layout."
    )
    parser.add_argument(
        "path",
        metavar="PATH",
        help="checkpoint folder, or ORG/NAME[@REVISION] on the Hub, or a projector (mm_projector.bin, .safetensors)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; it must not be there yet")
    parser.add_argument("--architecture", metavar="NAME", help=f"{', '.join(architecture_names())}, "
                        "or a YAML file; by default the preset whose sizes the weights have")  # fmt: skip
    parser.add_argument("--vision_tower", metavar="NAME", help="Hub id or folder of the vision tower, where the "
                        "checkpoint has none")  # fmt: skip
    options = parser.parse_args(argv)
    path, out = Path(options.path), Path(options.out)
    require_free(out)
    if not path.exists():
        from parsit import hub

        if not hub.looks_like_id(options.path):
            raise InputError(f"{path}: no such file or folder")
        path = hub.fetch(options.path)
    architecture = load_architecture(options.architecture) if options.architecture else None

    from parsit.cli.console import quiet_libraries
    from parsit.model.weight_files import is_whole

    quiet_libraries()
    if architecture is not None:
        from parsit import hf

        architecture = hf.compose(architecture)
    if path.is_dir() and is_whole(path):
        import_model(path, out, architecture, options.vision_tower)
    else:
        import_projector(path, out, architecture)
    return 0


def import_projector(path: Path, out: Path, architecture: Architecture | None) -> None:
    """Write `out/mm_projector.safetensors`, checked against an architecture's sizes where one is given.

    Raises:
        InputError: a file that cannot be read, or a projector that Parsit does not have.
    """
    from safetensors.torch import save_file

    from parsit import hf
    from parsit.model.import_weights import load_projector, read_projector, require_fitting

    projector = read_projector(path)
    require_fitting(projector, projector.type, path)
    if architecture is not None:
        load_projector(hf.meta_model(hf.config_of(architecture)), path)
    with whole_folder(out) as draft:
        tensors = {name: value.contiguous() for name, value in projector.weights.items()}
        save_file(tensors, draft / "mm_projector.safetensors", {"format": "pt"})
    newline = "with" if "image_newline" in projector.weights else "without"
    print(f"projector: {projector.type}, {newline} image_newline")
    print(f"wrote: {out / 'mm_projector.safetensors'}")


def import_model(path: Path, out: Path, architecture: Architecture | None, vision_tower: str | None = None) -> None:
    """Write the model of a LLaVA-NeXT or old Parsit folder as a Parsit folder.

    Args:
        path: the checkpoint's folder.
        out: folder to write.
        architecture: None: the preset whose sizes the weights have.
        vision_tower: Hub id or folder of the tower, where the checkpoint does not hold it.

    Raises:
        InputError: weights that cannot be read or do not fit, by name; or no preset of their sizes.
    """
    from parsit import hf
    from parsit.model.import_weights import load_checkpoint, projector_in, require_fitting
    from parsit.model.weight_files import read_weights, some

    weights = read_weights(path)
    if any(name.startswith("language_model.") for name in weights):
        raise InputError(f"{path}: its weights have today's names already: use the folder as it is, or `parsit export`")
    layers = _layers(weights, r"model\.vision_tower\..*encoder\.layers\.(\d+)\.")
    if not layers and vision_tower is None:
        raise InputError(f"{path}: holds no vision tower: say with --vision_tower which one belongs to it")
    projector = projector_in(weights, path)
    require_fitting(projector, projector.type, path)
    architecture = _with_settings(architecture or _architecture_of(weights, path), path, projector, layers)
    try:
        processor = hf.new_processor(architecture)
        model = hf.model_from_parts(architecture, processor, 0, vision_tower if not layers else None)
    except ValueError as error:
        raise InputError(f"{path}: its settings do not fit {architecture.name}: {error}") from error
    left_out = load_checkpoint(model, weights, path, with_tower=bool(layers))
    print(f"architecture: {architecture.name}; {', '.join(f'{k} {v}' for k, v in architecture.multimodal.items())}")
    if left_out:
        print(f"left out, as they are never computed with: {some(left_out)}")
    write_model(model, processor, out)


def _layers(weights: Weights, pattern: str) -> int:
    """How many layers the weights hold, whose names match `pattern`."""
    return 1 + max((int(match[1]) for name in weights if (match := re.match(pattern, name))), default=-1)


def _architecture_of(weights: Weights, path: Path) -> Architecture:
    """The preset with the weights' hidden size and depth."""
    embeddings = weights.get("model.embed_tokens.weight")
    if embeddings is None:
        raise InputError(f"{path}: no model.embed_tokens.weight: neither a LLaVA-NeXT nor an old Parsit checkpoint")
    sizes = (embeddings.shape[1], _layers(weights, r"model\.layers\.(\d+)\."))
    for architecture in map(load_architecture, architecture_names()):
        if sizes == (architecture.text_config["hidden_size"], architecture.text_config["num_hidden_layers"]):
            return architecture
    raise InputError(f"{path}: no architecture has a language model of {sizes[1]} layers with {sizes[0]} features: "
                     f"known are {', '.join(architecture_names())}")  # fmt: skip


def _with_settings(architecture: Architecture, path: Path, projector: Projector, tower_layers: int) -> Architecture:
    """The architecture with the checkpoint's own settings and tokenizer."""
    file = path / "config.json"
    settings: dict[str, Any] = {}
    if file.is_file():
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{file}: not JSON ({error})") from error
    multimodal = architecture.multimodal | {k: settings[k] for k in MULTIMODAL_FLAGS if settings.get(k) is not None}
    multimodal["mm_projector_type"] = projector.type
    if tower_layers == architecture.vision_config["num_hidden_layers"] - 1:
        # LLaVA's SigLIP wrapper deletes the last layer and takes the output of the one before, whatever its setting is.
        multimodal["mm_vision_select_layer"] = -2
    if not projector.has_norm:
        multimodal["mm_spatial_pool_stride"] = 1  # LLaVA-NeXT pools videos with it, never images
    processing = dict(architecture.processing)
    if settings.get("mm_use_im_start_end") is not None:
        processing["mm_use_im_start_end"] = settings["mm_use_im_start_end"]
    if any((path / name).is_file() for name in TOKENIZER_FILES):
        architecture = replace(architecture, model_name_or_path=str(path), tokenizer=None)
    return replace(architecture, multimodal=multimodal, processing=processing)
