"""Convert or check a data file: the same as `parsit data convert` and `parsit data validate`.

python scripts/data_converter.py --input data.json --validate-only [--image_folder DIR] [--format auto]
python scripts/data_converter.py --input data.json --output converted.json [--format auto] [--to parsit]
"""

from __future__ import annotations

import sys

from parsit.cli.data_convert import convert
from parsit.cli.data_validate import validate
from parsit.types import ParsitError, UsageError

VALIDATE = ("--validate-only", "--validate_only")


def run(argv: list[str]) -> int:
    """Check or convert, and return the exit code. Raises `ParsitError`."""
    if not any(word in VALIDATE for word in argv):
        return convert(argv)
    # A tar file is known by its name; validation has no format for it.
    words = [word.replace("--format=webdataset", "--format=auto") for word in argv if word not in VALIDATE]
    return validate(
        [
            "auto" if (option, word) == ("--format", "webdataset") else word
            for option, word in zip(["", *words], words, strict=False)
        ]
    )


if __name__ == "__main__":
    try:
        code = run(sys.argv[1:])
    except ParsitError as error:
        print(f"data_converter: {error}", file=sys.stderr)
        code = 2 if isinstance(error, UsageError) else 1
    sys.exit(code)
