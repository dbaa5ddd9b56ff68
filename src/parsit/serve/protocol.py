"""The part of OpenAI's chat interface that is spoken here, as small models.

A field that would change the answer and is not known here is refused; one that only describes the request (`user`,
`metadata`, …) is taken and ignored. See https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

# Fields that would change the answer, and the values that ask for nothing.
_NOT_HERE: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "audio": (None,),
    "web_search_options": (None,),
}


class ImageUrl(BaseModel):
    """Where an image is: a `data:` URL, or http(s) at a host that the server allows."""

    url: str


class FileRef(BaseModel):
    """A file that was uploaded before, or one that comes along as a `data:` URL."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class Part(BaseModel):
    """One part of a message's content."""

    type: Literal["text", "image_url", "file"]
    text: str | None = None
    image_url: ImageUrl | str | None = None
    file: FileRef | None = None


class Message(BaseModel):
    """One message; `developer` is another word for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class JsonSchema(BaseModel):
    """A schema by name."""

    model_config = ConfigDict(populate_by_name=True)
    name: str = "schema"
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None

    @property
    def schema_text(self) -> str | None:
        """The schema that the answer follows, or None for any text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return '{"type": "object"}'
        if self.json_schema is None:
            raise ValueError("response_format.json_schema is missing")
        return json.dumps(self.json_schema.schema_)


class StreamOptions(BaseModel):
    """What a stream carries beside the text."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request for one answer. `temperature` is 0 unless it is given: a document has one text."""

    model_config = ConfigDict(extra="allow")
    model: str = ""
    messages: list[Message] = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int = Field(0, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    response_format: ResponseFormat = Field(default_factory=ResponseFormat)

    @field_validator("temperature", "top_p", "seed", "logprobs", "top_logprobs", "stream", mode="before")
    @classmethod
    def _null_is_default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    @field_validator("response_format", mode="before")
    @classmethod
    def _null_is_text(cls, value: Any) -> Any:
        return ResponseFormat() if value is None else value

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """The texts before which the answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def not_here(self) -> str | None:
        """The first field that asks for what this server cannot do."""
        given = self.model_extra or {}
        return next((name for name, idle in _NOT_HERE.items() if name in given and given[name] not in idle), None)
