"""The process that compiles JSON schemas: a script of its own, started by `parsit.parse.grammar` and never imported.

xgrammar reads schemas in C++, and some keep it busy for minutes (an object of 1,500 properties, 300 texts of a million
characters each); here that ends this process and not the caller's. The first line on stdin is the tokenizer, each
further one a schema; each is answered by one line of JSON. Without a request for a while the process ends: it holds
torch in memory.
"""

from __future__ import annotations

import json
import re
import select
import sys
from typing import Any

IDLE_S = 60.0
PLACE = re.compile(r"\[[\d:]+\] \S+:\d+: ")  # the time and the line of its source with which xgrammar begins


def compile_schema(compiler: Any, bitmask: Any, schema: str) -> dict[str, str]:
    """A schema as a serialised grammar, tried for its first token; or why that cannot be."""
    import xgrammar

    try:
        compiled = compiler.compile_json_schema(schema, any_whitespace=False)
        xgrammar.GrammarMatcher(compiled).fill_next_token_bitmask(bitmask)
        if not bitmask.any():
            return {"error": "no answer would follow it"}
        return {"grammar": compiled.serialize_json()}
    except Exception as error:  # RuntimeErrors and, by version, classes of its own
        return {"error": PLACE.sub("", " ".join(str(error).split()))}


def limit_memory(max_bytes: int) -> None:
    """Cap this process's address space, where the platform can."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError) as error:
        print(f"no memory limit: {error}", file=sys.stderr)


def main(max_memory_bytes: int) -> None:
    """Answer until stdin ends or nothing is asked."""
    import signal

    import xgrammar

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    tokenizer = xgrammar.TokenizerInfo.deserialize_json(json.loads(sys.stdin.readline()))
    compiler = xgrammar.GrammarCompiler(tokenizer, max_threads=1, cache_enabled=False)
    bitmask = xgrammar.allocate_token_bitmask(1, tokenizer.vocab_size)
    limit_memory(max_memory_bytes)
    print(json.dumps({"ready": True}), flush=True)
    while select.select([sys.stdin], [], [], IDLE_S)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        print(json.dumps(compile_schema(compiler, bitmask, json.loads(line))), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
