"""`parsit serve MODEL`: answers over HTTP, to OpenAI's clients, to programs that parse files, and to a browser.

What cannot work is said before the model is loaded: an address that others reach without a token, a port that is
taken, an extra that is not installed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from parsit.cli.engines import LOCAL, refuse_device
from parsit.cli.parser import Parser
from parsit.types import InputError, UsageError

TOKEN_VARIABLE = "PARSIT_TOKEN"
GROUPS = {
    "address": ("host", "port", "token_file"),
    "model": ("engine", "device", "dtype", "batch_size", "model_name"),
    "limits": (
        "max_body_mb",
        "max_pages",
        "max_tokens",
        "max_seconds",
        "max_queue",
        "max_parses",
        "image_hosts",
    ),
}


def parser() -> Parser:
    """The verb's command line."""
    p = Parser(
        "parsit serve",
        "Serve a model: OpenAI's chat interface, /v1/parse for files, and a page for the browser.",
        groups=GROUPS,
    )
    p.add_argument("model", nargs="?", metavar="MODEL", help="folder of a trained model, or ORG/NAME on the Hub "
                   "(default: parsit-tiny, which comes with Parsit)")  # fmt: skip
    p.add_argument("--host", default="127.0.0.1", help="address to listen on; others than this machine need a token")
    p.add_argument("--port", type=int, default=8000, help="port to listen on; 0: any that is free")
    p.add_argument(
        "--token_file", metavar="FILE", help=f"file with the token that clients must show (or ${TOKEN_VARIABLE})"
    )
    p.add_argument("--engine", choices=LOCAL, default="hf", help="what answers: transformers, or vLLM")
    p.add_argument("--device", help="torch device such as cpu or cuda:0 (default: the best there is)")
    p.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="numbers of the model; auto: bfloat16 on a GPU, and for large models on processors that have it",
    )
    p.add_argument("--batch_size", type=int, default=8, help="answers that are written at a time")
    p.add_argument("--model_name", metavar="NAME", help="what clients call the model (default: its folder's name)")
    p.add_argument("--max_body_mb", type=int, default=64, help="megabytes of one request")
    p.add_argument("--max_pages", type=int, default=200, help="pages of one file, unless it is asked for some of them")
    p.add_argument("--max_tokens", type=int, default=4400, help="tokens of one answer or page")
    p.add_argument("--max_seconds", type=float, default=600.0, help="seconds of one answer")
    p.add_argument("--max_queue", type=int, default=64, help="answers that may wait; more are told to come again")
    p.add_argument("--max_parses", type=int, default=2, help="files that are parsed at a time")
    p.add_argument("--image_hosts", nargs="*", default=[], metavar="HOST", help="hosts whose images may be fetched")
    return p


def main(argv: list[str]) -> int:
    """Run the verb; it ends with Ctrl-C."""
    options = parser().parse_args(argv)
    check_numbers(options)
    if options.engine != "hf":
        refuse_device(options.engine, options.device)
    token = read_token(options.token_file)
    _require_extra()

    from parsit.hub import model_folder, named_or_default
    from parsit.serve.address import bind, is_loopback

    is_local = is_loopback(options.host)
    if not is_local and token is None:
        raise UsageError(
            f"--host {options.host} can be reached by others: give --token_file FILE or set {TOKEN_VARIABLE}"
        )
    options.model = str(named_or_default(options.model))
    folder = model_folder(options.model)
    with bind(options.host, options.port) as bound:
        _serve(options, folder, token, is_local, bound)
    return 0


def _serve(options: Any, folder: Path, token: str | None, is_local: bool, bound: Any) -> None:
    from parsit.cli.console import quiet_libraries, say
    from parsit.parse.engine import load_engine
    from parsit.parse.row_engine import RowEngine
    from parsit.parse.vllm_engine import load_vllm_engine
    from parsit.serve.app import ServeSettings
    from parsit.serve.batcher import Batcher
    from parsit.serve.limits import ServeLimits
    from parsit.serve.run import serve

    quiet_libraries()
    limits = ServeLimits(
        max_body_bytes=options.max_body_mb << 20,
        max_pages=options.max_pages,
        max_tokens=options.max_tokens,
        max_seconds=options.max_seconds,
        max_queue=options.max_queue,
        max_parses=options.max_parses,
    )
    name = options.model_name or Path(options.model).resolve().name
    hosts = frozenset(host.lower() for host in options.image_hosts)
    engine: RowEngine
    if options.engine == "vllm":
        engine = load_vllm_engine(folder, options.batch_size, options.dtype)
    else:
        engine = load_engine(folder, options.device, options.batch_size, options.dtype)
    port = bound.getsockname()[1]
    shown = f"[{options.host}]" if ":" in options.host else options.host
    serve(
        Batcher(engine),
        ServeSettings(name, limits, token, hosts, is_local),
        bound,
        lambda: say(f"{name} is served at http://{shown}:{port} (Ctrl-C ends it)"),
    )


def check_numbers(options: Any) -> None:
    """Refuse limits that let nothing through.

    Raises:
        UsageError: a number that is out of range.
    """
    if not 0 <= options.port <= 65535:
        raise UsageError(f"--port {options.port} is outside 0 to 65535")
    for name in ("batch_size", "max_body_mb", "max_pages", "max_tokens", "max_seconds", "max_parses"):
        if getattr(options, name) <= 0:
            raise UsageError(f"--{name} {getattr(options, name)} lets nothing through; give 1 or more")
    if options.max_queue < 0:
        raise UsageError(f"--max_queue {options.max_queue} is less than none")


def read_token(file: str | None) -> str | None:
    """The token that clients must show: from a file, else from the environment; None: there is none.

    Raises:
        InputError: the file cannot be read or is empty.
    """
    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token_file {file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not token or not token.isascii() or not token.isprintable():
        raise InputError(f"--token_file {file}: a token of printable ASCII characters is needed in it")
    return token


def _require_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import multipart  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(f"`parsit serve` needs {error.name}: pip install 'parsit[serve]'") from error
