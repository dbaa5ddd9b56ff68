"""Put a trained model into the package: `make ship-model MODEL=runs/tiny/checkpoint-N COST="4.1 core-hours on …"`.

The model is exported in bfloat16, as one that only reads, with its card: evaluations that lie in the run's folder
(`parsit eval RUN --out RUN/NAME`) are its scores. It must have at most 20 M parameters and 45 MB. Then it takes the
place of the one in src/parsit/models/parsit-tiny, whole or not at all, with a manifest by which damage is found. What
remains to be done is to commit it.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from safetensors import safe_open

from parsit.cli.main import dispatch
from parsit.files import whole_folder
from parsit.files.manifest import require_sound_model, write_manifest
from parsit.hub import SHIPPED
from parsit.hub.card import CARD_FILE
from parsit.types import ParsitError

PLACE = Path(__file__).parents[1] / "src" / "parsit" / "models" / SHIPPED
MAX_PARAMETERS, MAX_BYTES = 20_000_000, 45_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run's folder (its newest good checkpoint) or a checkpoint")
    parser.add_argument("--cost", required=True, help="what the training cost and on what: a sentence for the card")
    parser.add_argument("--place", type=Path, default=PLACE, help=argparse.SUPPRESS)  # for tests
    options = parser.parse_args()
    try:
        ship(options.model, options.cost, options.place)
    except ParsitError as error:
        print(f"ship_model: {error}", file=sys.stderr)
        return 1
    return 0


def ship(model: str, cost: str, place: Path) -> None:
    """Export a model, look at its size, and put it into its place.

    Raises:
        ParsitError: it cannot be exported, or is too large.
    """
    with whole_folder(place, replaces=True) as draft:
        exported = draft / SHIPPED  # the card calls the model by its folder's name
        dispatch(["export", model, "--out", str(exported), "--dtype", "bfloat16", "--tasks", "read", "--note", cost])
        require_small(exported)
        say_where_it_lies(exported / CARD_FILE)
        for file in exported.iterdir():
            file.rename(draft / file.name)
        exported.rmdir()
        write_manifest(draft)
        require_sound_model(draft)
    print(f"shipped: {place}")


def say_where_it_lies(card: Path) -> None:
    """transformers is to be given a folder, as Parsit alone knows the model by its name; the licence is Parsit's."""
    text = card.read_text(encoding="utf-8")
    named = f'from_pretrained("{SHIPPED}")'
    assert named in text, "the card tells how transformers loads the model"
    text = text.replace(named, "from_pretrained(parsit.hub.shipped_folder())")
    head, unstated = "library_name: parsit\n", "Not stated: whoever publishes this model"
    assert head in text, "the card has a head"
    assert unstated in text, "the card has a place for the licence"
    text = text.replace(head, f"{head}license: apache-2.0\n", 1)
    text = text[: text.index(unstated)] + "Apache-2.0, as Parsit's. It was trained from random weights.\n"
    card.write_text(text, encoding="utf-8")


def require_small(folder: Path) -> None:
    """Refuse a model that is too large for the package, or is no longer one file of weights.

    Raises:
        ParsitError: it is.
    """
    with safe_open(folder / "model.safetensors", "pt") as weights:
        slices = [weights.get_slice(name) for name in weights.keys()]  # noqa: SIM118  (no mapping)
        parameters = sum(math.prod(part.get_shape()) for part in slices)
        dtypes = sorted({part.get_dtype() for part in slices})
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if dtypes != ["BF16"]:
        raise ParsitError(f"{folder}: its weights are {', '.join(dtypes)}, not BF16 alone")
    if parameters > MAX_PARAMETERS:
        raise ParsitError(f"{folder}: {parameters:,} parameters are more than {MAX_PARAMETERS:,}")
    if size > MAX_BYTES:
        raise ParsitError(f"{folder}: {size:,} bytes are more than {MAX_BYTES:,}")
    print(f"{parameters:,} parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
