"""`ParsitProcessor`: one conversation with its images to the model's input.

Training, evaluation and reading all come through `ParsitProcessor.encode`; the Hugging Face
interface (`__call__`, `apply_chat_template`) is written on top of the same functions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from parsit.processing.chat import (
    IMAGE_TOKEN,
    PAD_TOKEN,
    ChatLength,
    ChatTokens,
    count_chats,
    encode_chat,
    end_of_turn,
)
from parsit.processing.chat import chat_template as parsit_chat_template
from parsit.processing.glyphs import NOT_ASKED, glyph_targets, text_classes
from parsit.processing.image_processor import ParsitImageProcessor, PixelScale
from parsit.processing.images import image_size, load_image
from parsit.tiling import Layout
from parsit.types import ImageRef, Turn

# Messages as Hugging Face and OpenAI write them.
Conversation = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Features:
    """One conversation as tensors.

    `input_ids`, `labels`: `int[T]`. `image_positions`: `int[M]`, where image tokens stand among them.
    `pixels`: `uint8[N, 3, S, S]`, tiles (under native resolution patches), or None without images; `scale` makes the
    tower's numbers of them.
    `image_sizes`: `int[images, 2]`, (height, width). `glyph_targets`: `int[N, P, slots]`, see
    `parsit.processing.glyphs`, or None where they were not asked for. `line_texts`: for each image the classes of the
    characters on it, `int[L]`, none where it is not said which image a text belongs to; None likewise.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    image_positions: torch.Tensor
    pixels: torch.Tensor | None
    scale: PixelScale
    image_sizes: torch.Tensor
    glyph_targets: torch.Tensor | None = None
    line_texts: tuple[torch.Tensor, ...] | None = None

    @property
    def pixel_values(self) -> torch.Tensor | None:
        """`float[N, 3, S, S]`, what the tower takes; None without images."""
        return None if self.pixels is None else self.scale(self.pixels)

    @property
    def num_supervised(self) -> int:
        """Positions that carry a label."""
        return int((self.labels != -100).sum())


class ParsitProcessor(ProcessorMixin):
    """Tokenizer and image processor of a Parsit model, and the chat format that joins them.

    Args:
        image_processor: cuts images into tiles.
        tokenizer: must have `<|im_start|>`, `<|im_end|>` or an end of text, `<|image_pad|>`, and a pad token that ends
            no turn (`parsit.processing.chat.add_missing_tokens` adds them).
        chat_template: Jinja template for tools that render text; None: Parsit's own.
        mm_use_im_start_end: put `<|vision_start|>` and `<|vision_end|>` around each image.
        reading_unit: what the model was trained to read at once, `page` or `line`.
        read_prompt: the prompt with which it was trained to read.
        tasks: what it is known to be able to do (`parsit.hub.tasks`); none: that is not known.

    Raises:
        ValueError: a tokenizer that lacks a token or pads with the end of a turn.
    """

    attributes = ["image_processor", "tokenizer"]  # noqa: RUF012  (transformers' interface)
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        image_processor: ParsitImageProcessor,
        tokenizer: PreTrainedTokenizerFast,
        chat_template: str | None = None,
        mm_use_im_start_end: bool = True,
        reading_unit: str = "page",
        read_prompt: str = "Read this page as Markdown.",
        tasks: Sequence[str] = (),
        **_: Any,
    ) -> None:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = PAD_TOKEN
        self.added_tokens: tuple[str, ...] = ()  # by whoever made the tokenizer ready; not saved
        self.mm_use_im_start_end = mm_use_im_start_end
        self.reading_unit = reading_unit
        self.read_prompt = read_prompt
        self.tasks = tuple(tasks)
        self.chat_tokens = ChatTokens.of(tokenizer, mm_use_im_start_end)
        if chat_template is None:
            bos = "" if self.chat_tokens.bos is None else str(tokenizer.bos_token)
            chat_template = parsit_chat_template(mm_use_im_start_end, end_of_turn(tokenizer), bos)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> ParsitProcessor:  # type: ignore
        """Load from a folder or the Hub; written and read the same way by every transformers version."""
        settings, kwargs = cls.get_processor_dict(pretrained_model_name_or_path, **kwargs)
        chosen = ("chat_template", "mm_use_im_start_end", "reading_unit", "read_prompt", "tasks")
        return cls(
            ParsitImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            PreTrainedTokenizerFast.from_pretrained(pretrained_model_name_or_path, **kwargs),
            **{key: settings[key] for key in chosen if settings.get(key) is not None},
        )

    def save_pretrained(self, save_directory: Any, **_: Any) -> list[str]:  # type: ignore[override]
        """Write the tokenizer, `preprocessor_config.json`, `processor_config.json` and `chat_template.jinja`.

        Not `ProcessorMixin`'s own: transformers 5.x folds the image processor into
        `processor_config.json` and names a tokenizer class, both of which 4.x cannot read.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        _rewrite_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
        settings = {
            "processor_class": type(self).__name__,
            "mm_use_im_start_end": self.mm_use_im_start_end,
            "reading_unit": self.reading_unit,
            "read_prompt": self.read_prompt,
        }
        settings |= {"tasks": list(self.tasks)} if self.tasks else {}
        (folder / "processor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        (folder / "chat_template.jinja").write_text(str(self.chat_template), encoding="utf-8")
        return sorted(str(path) for path in folder.iterdir())

    def count(self, turns: Sequence[Turn]) -> tuple[int, int]:
        """(tokens, tiles) of the conversation, from its text and its images' headers alone.

        Raises:
            InputError: an image without a readable header.
        """
        length, num_tiles = self.measure(turns)
        return length.num_tokens, num_tiles

    def measure(self, turns: Sequence[Turn]) -> tuple[ChatLength, int]:
        """The lengths of the conversation and of its turns, and its tiles. Raises as `count`."""
        layout = self.image_processor.layout
        plans = [layout.plan(*image_size(image.source)) for turn in turns for image in turn.images]
        (length,) = count_chats([turns], [[plan.num_tokens for plan in plans]], self.tokenizer, self.chat_tokens)
        return length, sum(plan.num_tiles for plan in plans)

    def encode(
        self,
        turns: Sequence[Turn],
        add_generation_prompt: bool = False,
        with_glyphs: bool = False,
        with_line_texts: bool = False,
    ) -> Features:
        """One conversation to tensors.

        Args:
            turns: the conversation.
            add_generation_prompt: end with the start of an assistant's turn.
            with_glyphs: also make targets of the images' glyph boxes.
            with_line_texts: also make targets of what is answered about an image, for images of one line.

        Raises:
            InputError: an image that cannot be read.
        """
        references = [image for turn in turns for image in turn.images]
        images = [load_image(reference.source) for reference in references]
        layout = self.image_processor.layout
        counts = [layout.num_image_tokens(*image.size) for image in images]
        chat = encode_chat(turns, counts, self.tokenizer, self.chat_tokens, add_generation_prompt)
        input_ids = torch.tensor(chat.input_ids)
        return Features(
            input_ids=input_ids,
            labels=torch.tensor(chat.labels),
            image_positions=(input_ids == self.chat_tokens.image).nonzero()[:, 0],
            pixels=torch.cat([self.image_processor.pixels(image) for image in images]) if images else None,
            scale=self.image_processor.scale,
            image_sizes=torch.tensor([[image.height, image.width] for image in images]).view(-1, 2),
            glyph_targets=_glyph_targets(references, images, layout) if with_glyphs and images else None,
            line_texts=_line_texts(turns) if with_line_texts and images else None,
        )

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        return_tensors: str | None = "pt",
        return_text_replacement_offsets: bool = False,
        **_: Any,
    ) -> BatchFeature:
        """Rendered prompts with one `<|image_pad|>` for each image, and the images, to a left-padded batch.

        The Hugging Face way, for tools that expect it. Special tokens in `text` are structure here;
        `encode` and `apply_chat_template` are the ways for text that is not trusted.

        Args:
            images: as `ParsitImageProcessor` takes them.
            text: one prompt or several.
            return_tensors: "pt".
            return_text_replacement_offsets: for programs that put the images' tokens into the prompt themselves (vLLM):
                also give, for each prompt, what takes the place of each of its placeholders, and `pixel_values` as a
                list, the tiles of each image by themselves.

        Raises:
            ValueError: more or fewer images than placeholders.
        """
        texts = [text] if isinstance(text, str) else list(text or [])
        features = self.image_processor(images) if images is not None and images != [] else None
        sizes = features["image_sizes"].tolist() if features is not None else []
        plans = [self.image_processor.layout.plan(width, height) for height, width in sizes]
        expanded = self._expand(texts, [plan.num_tokens for plan in plans])
        batch = self.tokenizer(
            expanded, padding=True, padding_side="left", add_special_tokens=False, return_tensors=return_tensors
        )
        data = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], **(features or {})}
        if return_text_replacement_offsets:
            counts = iter(plan.num_tokens for plan in plans)
            data["text_replacement_offsets"] = [
                [{"type": "image", "replacement": IMAGE_TOKEN * next(counts)} for _ in range(prompt.count(IMAGE_TOKEN))]
                for prompt in texts
            ]
        if return_text_replacement_offsets and features is not None:
            data["pixel_values"] = list(features["pixel_values"].split([plan.num_tiles for plan in plans]))
        return BatchFeature(data)

    @property
    def image_token(self) -> str:
        """The placeholder that an image's tokens take the place of."""
        return IMAGE_TOKEN

    @property
    def image_token_id(self) -> int:
        """The placeholder's id."""
        return self.chat_tokens.image

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[Sequence[int]] | None = None, **_: Any
    ) -> dict[str, list[int]]:
        """For vLLM: how many tokens images become, from their sizes (height, width) alone.

        An image counts as one patch, since its tiles are one entry of `pixel_values`.
        """
        layout = self.image_processor.layout
        tokens = [layout.num_image_tokens(width, height) for height, width in image_sizes or ()]
        return {"num_image_tokens": tokens, "num_image_patches": [1] * len(tokens)}

    def _expand(self, texts: list[str], counts: list[int]) -> list[str]:
        """Each placeholder repeated as often as its image has tokens."""
        found = sum(text.count(IMAGE_TOKEN) for text in texts)
        if found != len(counts):
            raise ValueError(f"the text has {found} {IMAGE_TOKEN}, but {len(counts)} images were given")
        remaining = iter(counts)
        expanded = []
        for text in texts:
            first, *rest = text.split(IMAGE_TOKEN)
            expanded.append(first + "".join(IMAGE_TOKEN * next(remaining) + piece for piece in rest))
        return expanded

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Conversation | Sequence[Conversation],
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Render messages as text, or, with `tokenize`, encode them safely to the model's input.

        Args:
            conversation: messages `{"role", "content"}`; content is text or a list of parts
                `{"type": "text", "text"}` / `{"type": "image", "image" | "path" | "url"}` / OpenAI's `image_url`. An
                image is a `pathlib.Path`, bytes, a Pillow image or a `data:` URL; any other string is refused, since
                messages come from elsewhere, and text must not open files here. A list of such conversations gives a
                list of texts, or a batch, padded on the left unless `padding_side` is "right".
            chat_template: another template, for rendering only.
            add_generation_prompt: end with the start of an assistant's turn.
            tokenize: return ids and pixels instead of text.
            return_dict: with `tokenize`, return everything; False: `input_ids` alone.
            kwargs: for rendering, the template's variables.

        Raises:
            ValueError: no message at all, an unknown role or content part, or with `tokenize` what would have to be
                cut to a length or returned as something else than tensors.
        """
        conversations = _conversations(conversation)
        if not tokenize:
            return self.tokenizer.apply_chat_template(
                list(conversation),
                chat_template=chat_template or self.chat_template,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **{key: value for key, value in kwargs.items() if key != "return_tensors"},
            )
        _check_batch_options(kwargs)
        from parsit.processing.collate import collate  # which needs `Features`

        features = [self.encode(turns_of_messages(messages), add_generation_prompt) for messages in conversations]
        batch = collate(features, self.chat_tokens.pad, kwargs.get("padding_side") or "left")
        if not return_dict:
            return batch.input_ids
        inputs = batch.model_inputs(with_labels=False)
        del inputs["image_positions"]  # whoever changes the ids afterwards would have to change them as well
        return BatchFeature(inputs)


def _conversations(given: Conversation | Sequence[Conversation]) -> Sequence[Conversation]:
    """One conversation as a list of one, several as they are. Raises `ValueError` where there is none."""
    if not given or not all(given):
        raise ValueError("a conversation without messages: nothing can be said to the model")
    return [given] if isinstance(given[0], Mapping) else given  # type: ignore[list-item,return-value]


def _check_batch_options(options: Mapping[str, Any]) -> None:
    """Refuse what transformers' processors could do and this one cannot, instead of doing something else."""
    if options.get("truncation"):
        raise ValueError("truncation: a conversation is not cut, since that would cut through its images' tokens")
    if options.get("return_tensors") not in (None, "pt"):
        raise ValueError(f"return_tensors={options['return_tensors']!r}: only 'pt' is made")


def _glyph_targets(references: Sequence[ImageRef], images: Sequence[Image.Image], layout: Layout) -> torch.Tensor:
    """Targets of all tiles; tiles of an image whose glyphs are not known are not asked."""
    targets = []
    for reference, image in zip(references, images, strict=True):
        target = glyph_targets(reference.glyphs, image.size, layout)
        targets.append(target if reference.glyphs else torch.full_like(target, NOT_ASKED))
    return torch.cat(targets)


def _line_texts(turns: Sequence[Turn]) -> tuple[torch.Tensor, ...]:
    """The classes of the text on each image, where one image and one answer belong together; none elsewhere."""
    images = [image for turn in turns for image in turn.images]
    answers = [turn.text for turn in turns if turn.role == "assistant"]
    is_known = len(images) == len(answers) == 1
    return tuple(text_classes(answers[0] if is_known else "") for _ in images)


def turns_of_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Turn, ...]:
    """Chat messages as Hugging Face and OpenAI write them, as turns.

    Raises:
        ValueError: an unknown role or content part, or an image that is a string and no `data:` URL.
    """
    return tuple(_turn_of_message(message) for message in messages)


def _turn_of_message(message: Mapping[str, Any]) -> Turn:
    role, content = message["role"], message["content"]
    if role not in ("system", "user", "assistant"):
        raise ValueError(f"role {role!r} of a message: use system, user or assistant")
    if isinstance(content, str):
        return Turn(role, (content,))
    return Turn(role, tuple(_part_of_content(part) for part in content))


def _part_of_content(part: Mapping[str, Any]) -> str | ImageRef:
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind in ("image", "image_url"):
        keys = ("image", "path", "url") if kind == "image" else ("image_url",)
        source = next((part[key] for key in keys if part.get(key) is not None), None)
        if isinstance(source, Mapping):  # OpenAI's {"url": …}
            source = source.get("url")
        if source is not None:
            return ImageRef(image_from_url(source) if isinstance(source, str) else source)
    raise ValueError(f"content part {_shortened(part)}: use a text part, or an image part with image, path or url")


def image_from_url(url: str) -> bytes:
    """The bytes in a `data:` URL (RFC 2397) in base64. Any other string is refused: it would name a file or a host.

    Raises:
        ValueError: the string is no such URL; the message says what to give instead.
    """
    head, comma, data = url.partition(",")
    if not head.lower().startswith("data:") or not comma:
        raise ValueError(
            f"image {_shortened(url)}: a string in a message must be a data: URL; from Python a file is a pathlib.Path"
        )
    if not head.lower().endswith(";base64"):
        raise ValueError(f"image {_shortened(url)}: a data: URL must be in base64, as in data:image/png;base64,iVBO…")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ValueError(f"image {_shortened(url)}: its base64 is broken ({error})") from error


def _shortened(value: object, limit: int = 80) -> str:
    """A value for an error message: a picture in base64 would fill the screen."""
    text = repr(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _rewrite_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; keys that older versions cannot read are taken out."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values.update(changes)
    values.pop("extra_special_tokens", None)
    values.pop("backend", None)
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
