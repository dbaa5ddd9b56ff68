"""What LangChain's ChatOpenAI makes of a server: run by an environment that has it, as `langchain_client.py URL`.

Takes `{"question", "image"}` (a `data:` URL) on stdin and prints what came back as JSON.
"""

from __future__ import annotations

import json
import sys

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from openai import BadRequestError

SCHEMA = {"title": "Paid", "type": "object", "properties": {"paid": {"type": "boolean"}}, "required": ["paid"]}


def main(url: str) -> None:
    asked = json.load(sys.stdin)
    parts = [{"type": "image_url", "image_url": {"url": asked["image"]}}, {"type": "text", "text": asked["question"]}]
    messages = [HumanMessage(parts)]
    chat = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="mini", temperature=0, max_tokens=12, max_retries=0)
    whole = chat.invoke(messages)
    pieces = list(chat.stream(messages, stream_usage=True))
    measured = chat.bind(logprobs=True, top_logprobs=2).invoke(messages).response_metadata["logprobs"]["content"]
    strict = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="mini", max_tokens=60, max_retries=0)
    try:
        chat.bind_tools([SCHEMA]).invoke(messages)
        refused = ""
    except BadRequestError as error:
        refused = str(error)
    found = {
        "text": whole.content,
        "usage": whole.usage_metadata,
        "ended": whole.response_metadata["finish_reason"],
        "streamed": "".join(str(piece.content) for piece in pieces),
        "streamed_tokens": sum((piece.usage_metadata or {}).get("output_tokens", 0) for piece in pieces),
        "many": [answer.content for answer in chat.batch([messages] * 6)],
        "top": [len(token["top_logprobs"]) for token in measured],
        "structured": strict.with_structured_output(SCHEMA, method="json_schema").invoke(messages),
        "refused": refused,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
