"""Parsit as a model of lmms-eval: `lmms-eval --model parsit --model_args pretrained=runs/tiny --tasks …`.

lmms-eval finds it through the entry point `lmms_eval.models` of this package, in an environment where both are
installed; Parsit itself does not depend on it. Answers are generated with the same engine as everywhere, in batches.
Tasks that ask for likelihoods, or for several rounds, are refused: the benchmarks of documents are answered in one
turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms  # type: ignore[import-not-found]
from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]
from PIL import Image

from parsit.parse.engine import load_engine
from parsit.types import ImageRef, InputError, Sampling, Turn, UsageError

MAX_NEW_TOKENS = 1024


def manifest() -> Any:
    """What the entry point hands to lmms-eval: the name of the model and where its class is."""
    return ModelManifest(model_id="parsit", simple_class_path=f"{__name__}.ParsitLmms")


class ParsitLmms(lmms):
    """A Parsit model under lmms-eval.

    Args:
        pretrained: folder of a model or of a run, or ORG/NAME[@REVISION] on the Hub.
        batch_size: prompts that go through the model together.
        device: `cpu`, `cuda`, …; None: the GPU where there is one.
        max_new_tokens: longest answer where a task does not say.
        kwargs: what lmms-eval adds for every model, such as `max_batch_size`; anything else is refused.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 8,
        device: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        unknown = sorted(
            set(kwargs) - {"max_batch_size", "system_prompt"} - {k for k, v in kwargs.items() if v is None}
        )
        if unknown:
            raise UsageError(f"--model_args {unknown[0]}: unknown; known are pretrained, device and max_new_tokens")
        self.engine = load_engine(pretrained, device, int(batch_size))
        self.max_new_tokens = int(max_new_tokens)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers, in order. Requests with equal settings share batches, whatever task they are of."""
        answers: list[str] = [""] * len(requests)
        by_settings: dict[tuple[int, Sampling], list[int]] = defaultdict(list)
        prompts = []
        for place, request in enumerate(requests):
            context, settings, to_visual, document, task, split = request.args
            shown = to_visual(self.task_dict[task][split][document]) if to_visual else None
            prompts.append((Turn("user", (*map(_image, shown or ()), context)),))
            by_settings[self._settings(settings)].append(place)
        for (longest, sampling), places in by_settings.items():
            for start in range(0, len(places), self.engine.batch_size):
                batch = places[start : start + self.engine.batch_size]
                found = self.engine.generate(
                    [prompts[place] for place in batch], max_new_tokens=longest, sampling=sampling
                )
                for place, answer in zip(batch, found, strict=True):
                    answers[place] = answer.text
        return answers

    def _settings(self, asked: Mapping[str, Any]) -> tuple[int, Sampling]:
        """The most tokens, and how to draw them, from a task's `generation_kwargs`."""
        longest = int(asked.get("max_new_tokens") or asked.get("max_gen_toks") or self.max_new_tokens)
        until = asked.get("until") or ()
        stop = (until,) if isinstance(until, str) else tuple(until)
        # An empty line is lmms-eval's default between examples; here it would end a page at its first paragraph.
        stop = tuple(text for text in stop if text.strip())
        temperature = float(asked.get("temperature") or 0.0)
        return longest, Sampling(temperature=temperature, top_p=float(asked.get("top_p") or 1.0), stop=stop)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refused. Raises `UsageError`."""
        raise UsageError(f"{len(requests)} requests ask for likelihoods: choose a task with output_type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused. Raises `UsageError`."""
        raise UsageError(f"{len(requests)} requests take several rounds: choose a task with output_type generate_until")


def _image(visual: Any) -> ImageRef:
    """A picture as tasks hand it over: Pillow's, or the name of a file.

    Raises:
        InputError: something else, such as a video.
    """
    if isinstance(visual, Image.Image):
        return ImageRef(visual)
    if isinstance(visual, str | Path):
        return ImageRef(Path(visual))
    raise InputError(f"a task shows a {type(visual).__name__}: Parsit reads images")
