"""`--engine`: what answers: the model in this process, vLLM, or a server at an address."""

from __future__ import annotations

import os
from typing import Any

from parsit.cli.parser import Parser
from parsit.types import UsageError

TOKEN_VARIABLE = "PARSIT_TOKEN"
LOCAL = ("hf", "vllm")


def add_engine_option(p: Parser) -> None:
    """The option of verbs that let a model answer."""
    p.add_argument(
        "--engine",
        default="hf",
        metavar="hf | vllm | http://ADDRESS",
        help="what answers: transformers here, vLLM here, or a server that speaks OpenAI's interface; --model is then "
        f"its name there, and ${TOKEN_VARIABLE} the token that it wants",
    )


def is_address(engine: str) -> bool:
    """Whether the engine is a server's address.

    Raises:
        UsageError: it is neither that nor an engine that there is.
    """
    if engine.startswith(("http://", "https://")):
        return True
    if engine not in LOCAL:
        raise UsageError(f"--engine {engine}: use hf, vllm, or a server's http://ADDRESS")
    return False


def make_engine(engine: str, model: str | None, device: str | None = None, batch_size: int | None = None) -> Any:
    """The engine that was asked for; torch is imported here.

    Args:
        engine: `hf`, `vllm` or an address.
        model: folder or name on the Hub; for an address, what the server calls it, or None for its only one. For the
            others None is the default model, which is then said.
        device: for `hf`: cpu, cuda, …; None: the best there is.
        batch_size: answers that are written at a time; None: as the engine likes.

    Raises:
        UsageError: no such engine, no model and no default, or a device for one that does not take it.
        InputError: there is no model, it cannot be loaded, or the server does not answer.
    """
    more: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    if is_address(engine):
        refuse_device(engine, device)
        from parsit.parse.http_engine import HttpEngine

        return HttpEngine(engine, model, os.environ.get(TOKEN_VARIABLE) or None, **more)

    from parsit.hub import model_folder, named_or_default

    folder = model_folder(named_or_default(model))

    from parsit.cli.console import quiet_libraries

    if engine == "vllm":
        refuse_device(engine, device)
        from parsit.parse.vllm_engine import load_vllm_engine

        quiet_libraries()
        return load_vllm_engine(folder, **more)

    from parsit.parse.engine import load_engine

    quiet_libraries()
    return load_engine(folder, device=device, **more)


def refuse_device(engine: str, device: str | None) -> None:
    """Raise `UsageError` for a device where something else chooses it."""
    if device is not None:
        raise UsageError(f"--device {device} goes with --engine hf; {engine} has chosen its own")
