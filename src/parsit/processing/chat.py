r"""One conversation to token ids and labels, in ChatML.

    <|im_start|>user
    <|vision_start|><|image_pad|>…<|image_pad|><|vision_end|>What is the total?<|im_end|>
    <|im_start|>assistant
    42.00 €<|im_end|>

Supervised are the assistant's words and the `<|im_end|>` that closes them, nothing else. Three
things are decided here. Structure comes from ids, never from text: a user's text is tokenised
with special tokens switched off, so that `<|im_end|>` or `<|image_pad|>` in a document stays
text. "assistant\n" is tokenised apart from the answer, as it is at inference, where the prompt
ends there; an answer that begins with a newline therefore has the same tokens in both. And what a
language model has learnt to begin and to end with, it keeps: a conversation starts with the token
that its tokenizer puts before every text, if it does, and a tokenizer without `<|im_end|>` ends turns
with its own end of text. Its other tokens are added where they are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from parsit.types import ImageRef, Turn

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
IMAGE_TOKEN = "<|image_pad|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
PAD_TOKEN = "<|endoftext|>"
_OTHER_PAD_TOKEN = "<|pad|>"

IGNORE_INDEX = -100

_SHORT = 40  # characters


@dataclass(frozen=True, slots=True)
class ChatTokens:
    """The ids that give a conversation its structure.

    `im_end`: ends a turn. `vision_start`/`vision_end`: see `mm_use_im_start_end`. `bos`: begins each conversation, if
    the tokenizer begins texts with it.
    """

    im_start: int
    im_end: int
    image: int
    pad: int
    vision_start: int | None
    vision_end: int | None
    bos: int | None = None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, mm_use_im_start_end: bool) -> ChatTokens:
        """Look the tokens up.

        Raises:
            ValueError: a token that the tokenizer does not have, or that a text could contain, or a pad token that
                ends turns.
        """
        end, pad = end_of_turn(tokenizer), str(tokenizer.pad_token or PAD_TOKEN)
        needed = _needed(end, pad, mm_use_im_start_end)
        ids = {token: number for token in needed if (number := _id_of(token, tokenizer)) is not None}
        missing = [token for token in needed if token not in ids]
        if missing:
            raise ValueError(
                f"the tokenizer has no {', '.join(missing)}: let mm_use_im_patch_token add what is missing, "
                "or use a tokenizer with ChatML tokens"
            )
        if pad == end:
            raise ValueError(
                f"pad token and end of turn are both {end}: the end of a turn would never be learnt; "
                f"set pad_token to {PAD_TOKEN}"
            )
        tokens = cls(
            im_start=ids[IM_START],
            im_end=ids[end],
            image=ids[IMAGE_TOKEN],
            pad=ids[pad],
            vision_start=ids.get(VISION_START),
            vision_end=ids.get(VISION_END),
            bos=_begins_with(tokenizer),
        )
        _require_no_text_gives(tokens, tokenizer)
        return tokens


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that ends a turn: `<|im_end|>`, or where the tokenizer has none the end of its own texts."""
    if _id_of(IM_END, tokenizer) is not None or not tokenizer.eos_token:
        return IM_END
    return str(tokenizer.eos_token)


def add_missing_tokens(tokenizer: PreTrainedTokenizerBase, mm_use_im_start_end: bool) -> tuple[str, ...]:
    """Add to a tokenizer what the chat format needs and it has not; those tokens, in the order of their new ids.

    A pad token that ends turns, as SmolLM2's, gives way to `<|endoftext|>`, or where that ends them to `<|pad|>`.
    """
    end = end_of_turn(tokenizer)
    if tokenizer.pad_token in (None, end):
        tokenizer.pad_token = PAD_TOKEN if end != PAD_TOKEN else _OTHER_PAD_TOKEN
    needed = _needed(end, str(tokenizer.pad_token), mm_use_im_start_end)
    missing = [token for token in needed if _id_of(token, tokenizer) is None]
    new = [AddedToken(token, special=True, normalized=False) for token in missing]
    tokenizer.add_tokens(new, special_tokens=True)  # type: ignore[arg-type]  (transformers' name for the same class)
    return tuple(missing)


def _id_of(token: str, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """A token's id, without a copy of the whole vocabulary; None: there is no such token."""
    return tokenizer.backend_tokenizer.token_to_id(token)  # type: ignore[attr-defined]


def _needed(end: str, pad: str, mm_use_im_start_end: bool) -> list[str]:
    around = [VISION_START, VISION_END] if mm_use_im_start_end else []
    return list(dict.fromkeys([IM_START, end, IMAGE_TOKEN, pad, *around]))


def _begins_with(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the tokenizer itself puts before every text, as Llama's does; None: it puts none."""
    first = tokenizer("a")["input_ids"][:1]  # type: ignore[index]
    return tokenizer.bos_token_id if first == [tokenizer.bos_token_id] else None  # type: ignore[return-value]


def _require_no_text_gives(tokens: ChatTokens, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that makes a structural token of a text in which nothing is special."""
    structure = {value for value in asdict(tokens).values() if value is not None}
    for token in sorted(structure):
        text = str(tokenizer.convert_ids_to_tokens(token))
        if structure & set(_any_text_ids(text, tokenizer)):
            raise ValueError(f"the text {text} gives the token itself: a document could end a turn or begin one")


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """Token ids and labels of one conversation, of equal length; -100 marks what is not supervised."""

    input_ids: list[int]
    labels: list[int]


def chat_template(mm_use_im_start_end: bool, end: str = IM_END, bos: str = "") -> str:
    """The same format as a Jinja template, shipped with the processor for tools that render text.

    `end` ends a turn, and `bos` begins the conversation, as in `ChatTokens`.

    Unlike Qwen3's own template it adds no empty `<think>` block and no default system prompt.
    Rendered text cannot tell structure from content, so text that has the name of a structural token in it is refused;
    `ParsitProcessor.apply_chat_template` with `tokenize=True` goes through `encode_chat`, which takes any text. The
    newline behind leading images is `_set_apart`'s.
    """
    image = VISION_START + IMAGE_TOKEN + VISION_END if mm_use_im_start_end else IMAGE_TOKEN
    names = _needed(end, IMAGE_TOKEN, mm_use_im_start_end) + ([bos] if bos else [])
    begin = "{{- '" + bos + "' -}}" if bos else ""
    return (
        "{%- macro plain(text) -%}{%- for token in ['" + "', '".join(names) + "'] -%}{%- if token in text -%}"
        "{{ raise_exception('a message has ' + token + ' in its text, which would be taken for structure') }}"
        "{%- endif -%}{%- endfor -%}{{ text }}{%- endmacro -%}" + begin + "{%- for message in messages -%}"
        "{{ '" + IM_START + "' + plain(message['role']) + '\n' }}"
        "{%- if message['content'] is string -%}{{ plain(message['content']) }}"
        "{%- else -%}{%- set so_far = namespace(images=false, text=false) -%}{%- for part in message['content'] -%}"
        "{%- if part['type'] == 'text' -%}"
        "{%- if so_far.images and not so_far.text and part['text'] and part['text'][0] != '\n' -%}{{ '\n' }}"
        "{%- endif -%}{{ plain(part['text']) }}{%- if part['text'] -%}{%- set so_far.text = true -%}{%- endif -%}"
        "{%- elif part['type'] in ('image', 'image_url') -%}{{ '" + image + "' }}{%- set so_far.images = true -%}"
        "{%- else -%}{{ raise_exception('content part of unknown type ' + part['type']) }}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}"
        "{{ '" + end + "\n' }}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '" + IM_START + "assistant\n' }}{%- endif -%}"
    )


def encode_chat(
    turns: Sequence[Turn],
    num_image_tokens: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    tokens: ChatTokens,
    add_generation_prompt: bool = False,
) -> EncodedChat:
    """Ids and labels of a conversation.

    Args:
        turns: the conversation.
        num_image_tokens: tokens of each image, in the order of the images.
        tokenizer: the tokenizer.
        tokens: its structural ids.
        add_generation_prompt: end with the start of an assistant's turn.

    Raises:
        ValueError: `num_image_tokens` does not have one number for each image.
    """
    num_images = sum(len(turn.images) for turn in turns)
    if num_images != len(num_image_tokens):
        raise ValueError(
            f"the conversation has {num_images} images, but {len(num_image_tokens)} image sizes were given"
        )
    counts = iter(num_image_tokens)
    ids: list[int] = [] if tokens.bos is None else [tokens.bos]
    labels: list[int] = [IGNORE_INDEX] * len(ids)
    for kind, value, supervised in _pieces(turns, tokens, add_generation_prompt):
        if kind == "text":
            piece: Sequence[int] = _text_ids(value, tokenizer)
        elif kind == "image":
            piece, supervised = [tokens.image] * next(counts), False
        else:
            piece = [value]
        ids += piece
        labels += piece if supervised else [IGNORE_INDEX] * len(piece)
    return EncodedChat(ids, labels)


@dataclass(frozen=True, slots=True)
class ChatLength:
    """Lengths of one conversation in tokens. `ends`: the length up to and with each turn."""

    num_tokens: int
    num_supervised: int
    ends: tuple[int, ...]


def count_chats(
    chats: Sequence[Sequence[Turn]],
    num_image_tokens: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    tokens: ChatTokens,
) -> list[ChatLength]:
    """The lengths that `encode_chat` would give, for many conversations at once.

    All texts go through the tokenizer in one call, which costs a fraction of one call for each.

    Args:
        chats: the conversations.
        num_image_tokens: for each conversation the tokens of each of its images.
        tokenizer: the tokenizer.
        tokens: its structural ids.
    """
    turns_of_chats = [[list(_turn_pieces(turn, tokens)) for turn in chat] for chat in chats]
    texts = {v for turns in turns_of_chats for pieces in turns for kind, v, _ in pieces if kind == "text"}
    lengths = _text_lengths(list(texts), tokenizer)
    result = []
    for turns, image_tokens in zip(turns_of_chats, num_image_tokens, strict=True):
        counts = iter(image_tokens)
        total, supervised_total = int(tokens.bos is not None), 0
        ends = []
        for pieces in turns:
            for kind, value, supervised in pieces:
                size = lengths[value] if kind == "text" else next(counts) if kind == "image" else 1
                total += size
                supervised_total += size if supervised and kind != "image" else 0
            ends.append(total)
        result.append(ChatLength(total, supervised_total, tuple(ends)))
    return result


# What a conversation consists of: a structural token's id, a text, or an image; and whether it is learnt.
_Piece = tuple[Literal["token", "text", "image"], Any, bool]


def _pieces(turns: Sequence[Turn], tokens: ChatTokens, add_generation_prompt: bool) -> Iterator[_Piece]:
    for turn in turns:
        yield from _turn_pieces(turn, tokens)
    if add_generation_prompt:
        yield "token", tokens.im_start, False
        yield "text", "assistant\n", False


def _turn_pieces(turn: Turn, tokens: ChatTokens) -> Iterator[_Piece]:
    """One turn. Text between two structural tokens is one piece, as in the rendered template.

    Only an assistant's header is tokenised apart from the content.
    """
    supervised = turn.role == "assistant"
    yield "token", tokens.im_start, False
    text = f"{turn.role}\n"
    if supervised:
        yield "text", text, False
        text = ""
    for part in _set_apart(turn.parts):
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield "text", text, supervised
        text = ""
        if tokens.vision_start is not None:
            yield "token", tokens.vision_start, supervised
        yield "image", part, supervised
        if tokens.vision_end is not None:
            yield "token", tokens.vision_end, supervised
    if text:
        yield "text", text, supervised
    yield "token", tokens.im_end, supervised
    yield "text", "\n", False


def _set_apart(parts: Sequence[str | ImageRef]) -> Iterator[str | ImageRef]:
    r"""A turn's parts with a newline between the images that it begins with and its text, unless there is one.

    LLaVA writes `<image>\nRead.`; whatever way a turn was put together, its tokens are then the same.
    """
    rest, follows_images = iter(parts), False
    for part in rest:
        if isinstance(part, str):
            yield f"\n{part}" if follows_images and part and not part.startswith("\n") else part
            if part:
                break
        else:
            follows_images = True
            yield part
    yield from rest


def _text_lengths(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Tokens of each text, nothing in it special."""
    if not texts:
        return {}
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False)
    return {text: len(ids) for text, ids in zip(texts, encoded["input_ids"], strict=True)}  # type: ignore[arg-type]


def _text_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
    """Ids of plain text, in which nothing is special."""
    return _short_text_ids(text, tokenizer) if len(text) <= _SHORT else _any_text_ids(text, tokenizer)


@lru_cache(maxsize=4096)
def _short_text_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Headers and prompts come again in every sample, and a tokenizer's call costs far more than a short text."""
    return tuple(_any_text_ids(text, tokenizer))


def _any_text_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if not text:
        return []
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]  # type: ignore[return-value]
