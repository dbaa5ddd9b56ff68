"""From a model's name to its folder: one that is here, else the Hub's, through huggingface_hub's cache.

A name is a folder or `ORG/NAME[@REVISION]`, a revision being a branch, a tag or a commit; a folder that is here wins.
Revisions are part of the name, so that they can be given wherever a model can, and stand in a run's configuration. Of a
repository only those files are fetched that a model's folder has, named one by one: no pickle, no code (design D9). The
small ones come first, so that a repository which is no Parsit model is refused before its weights are fetched.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from parsit.files import run_folder
from parsit.hub.shipped import is_shipped, require_shipped
from parsit.types import InputError

# Configuration, tokenizer, chat template and card, under every name that transformers looks for.
SMALL_FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "chat_template.jinja", "chat_template.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "README.md",
)  # fmt: skip
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")

# No connection, no answer in time, or told to stay offline. The second is the base of the errors of whichever HTTP
# library huggingface_hub is built on (httpx); those of requests, which 0.x is built on, are OSErrors.
NO_ANSWER: tuple[type[BaseException], ...] = (OSError, HfHubHTTPError.__bases__[0])


class HubError(InputError):
    """A model that cannot be had from the Hub; `reason` says why, without its name.

    `no_answer`: the Hub is silent and its cache has not got it, so that a folder would have to be named.
    """

    def __init__(self, name: str, reason: str, no_answer: bool = False) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason, self.no_answer = reason, no_answer


def model_folder(name: str | Path, weights: bool = True) -> Path:
    """The folder of a Parsit model.

    Args:
        name: a model's folder; a run's, for its best checkpoint, else its newest; `parsit-tiny`, the one in the
            package; or `ORG/NAME[@REVISION]` on the Hub.
        weights: False: configuration, tokenizer and processor are enough.

    Raises:
        InputError: there is none, it is no Parsit model, or the Hub does not give it.
        UsageError: the package has none.
    """
    name = str(name)
    if is_shipped(name):
        return require_shipped()
    if Path(name).exists() or not looks_like_id(name):
        return run_folder.find_model(name)
    repository = _Repository.named(name)
    folder = repository.fetch(weights=False)
    if not _is_parsit(folder):
        raise HubError(name, "on the Hub, but no Parsit model (its config.json has another model_type)")
    return repository.fetch(weights=True) if weights else folder


def is_parsit_id(name: str) -> bool:
    """Whether the Hub has a Parsit model of that id; False too where it gives none, for whatever reason."""
    try:
        return looks_like_id(name) and _is_parsit(fetch(name, weights=False))
    except HubError:
        return False


def _is_parsit(folder: Path) -> bool:
    return (folder / "config.json").is_file() and run_folder.is_parsit_model(folder)


def fetch(name: str, weights: bool = True) -> Path:
    """The folder of any model on the Hub, such as a language model or a vision tower: `NAME` or `ORG/NAME[@REVISION]`.

    Args:
        name: its id.
        weights: False: configuration and tokenizer are enough.

    Raises:
        HubError: the Hub does not give it.
    """
    return _Repository.named(name).fetch(weights)


def looks_like_id(name: str) -> bool:
    """Whether a name is `ORG/NAME[@REVISION]`, and not the path of a folder."""
    repo = name.partition("@")[0]
    return repo.count("/") == 1 and not repo.startswith((".", "/", "~")) and not repo.endswith("/")


def nearest_folder(name: str) -> str:
    """What to say of the folder that is probably meant; empty where none of those beside it has a like name."""
    path = Path(name)
    known = [str(one) for one in path.parent.iterdir()] if "/" in name and path.parent.is_dir() else []
    near = difflib.get_close_matches(str(path), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


@contextmanager
def no_bars_in_a_pipe() -> Iterator[None]:
    """huggingface_hub draws its bars into files and pipes too; inside, on a terminal alone."""
    silenced = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if silenced:
        disable_progress_bars()
    try:
        yield
    finally:
        if silenced:
            enable_progress_bars()


@dataclass(frozen=True, slots=True)
class _Repository:
    """A repository as the Hub tells of it; `files`: their names, None where the Hub does not answer."""

    name: str
    repo: str
    revision: str | None
    files: frozenset[str] | None

    @classmethod
    def named(cls, name: str) -> _Repository:
        """Ask the Hub once, for as long as `HF_HUB_ETAG_TIMEOUT`; by itself it would be asked again and again.

        Raises:
            HubError: it answers that it does not give the repository.
        """
        repo, _, revision = name.partition("@")
        try:
            told = HfApi().model_info(repo, revision=revision or None, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            files = frozenset(file.rfilename for file in told.siblings or ())
        except (HfHubHTTPError, HFValidationError) as error:
            if status_of(error) < 500:
                raise _refusal(name, error) from error
            files = None
        except NO_ANSWER:
            files = None
        return cls(name, repo, revision or None, files)

    def fetch(self, weights: bool) -> Path:
        """Its folder in the cache, with the files that are not there yet.

        Raises:
            HubError: it has not got what a model's folder has, or the Hub does not give it.
        """
        if self.files is not None:
            self._require_model(self.files, weights)
        patterns = [*SMALL_FILES, *(WEIGHT_FILES if weights else ())]
        try:
            with no_bars_in_a_pipe():
                snapshot = snapshot_download(
                    self.repo,
                    revision=self.revision,
                    allow_patterns=patterns,
                    local_files_only=self.files is None,
                    library_name="parsit",
                )
        except (HfHubHTTPError, HFValidationError, *NO_ANSWER) as error:
            raise self._failure(error) from error
        folder = Path(snapshot)
        if self.files is None and not _is_there(folder, weights):
            raise self._not_cached()
        return folder

    def _require_model(self, files: frozenset[str], weights: bool) -> None:
        if not files & {"config.json", *(() if weights else ("tokenizer_config.json",))}:
            run = any(fnmatchcase(file, "checkpoint-*/config.json") for file in files)
            hint = "; it is a run's folder: put a model's there, with `parsit export --push_to_hub`" if run else ""
            raise HubError(self.name, f"the repository on the Hub has no config.json{hint}")
        if weights and not any(fnmatchcase(file, pattern) for file in files for pattern in WEIGHT_FILES):
            adapters = "; its adapters need their base: put the merged model there, with `parsit export --push_to_hub`"
            hint = adapters if "adapter_config.json" in files else ""
            raise HubError(self.name, f"the repository on the Hub has no weights in safetensors{hint}")

    def _failure(self, error: BaseException) -> HubError:
        """Why fetching broke off."""
        # What is not in the cache has an error of its own, which in 0.x is an HTTP error as well.
        if not isinstance(error, LocalEntryNotFoundError) and isinstance(error, HfHubHTTPError | HFValidationError):
            return _refusal(self.name, error)
        if self.files is None:
            return self._not_cached()
        return HubError(self.name, f"cannot be fetched ({first_line(error)}); the same command goes on")

    def _not_cached(self) -> HubError:
        silent = f"the Hub ({constants.ENDPOINT}) does not answer"
        if constants.HF_HUB_OFFLINE:
            silent = "HF_HUB_OFFLINE keeps the Hub from being asked"
        return _absent(self.name, f"{silent}, and its cache has not got it", no_answer=True)


def _absent(name: str, reason: str, no_answer: bool = False) -> HubError:
    """A model that is nowhere; where a folder of a like name is here, that one is told instead."""
    near = nearest_folder(name)
    return HubError(name, f"no such folder{near}") if near else HubError(name, reason, no_answer)


def _is_there(folder: Path, weights: bool) -> bool:
    """Whether a cached folder has what a model's folder has; older versions of huggingface_hub do not look."""
    if not (folder / "config.json").is_file():
        return weights is False and (folder / "tokenizer_config.json").is_file()
    if not weights:
        return True
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    shards: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    return all((folder / shard).is_file() for shard in shards.values())


def status_of(error: BaseException) -> int:
    """The HTTP status of a refusal; 0: it never came to that."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _refusal(name: str, error: BaseException) -> HubError:
    """Why the Hub refuses a repository, and what to do about it."""
    repo, _, revision = name.partition("@")
    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, GatedRepoError):
        return HubError(name, f"gated: ask for access at {page}, and log in (`hf auth login`, or set HF_TOKEN)")
    if isinstance(error, RevisionNotFoundError):
        return HubError(name, f"has no revision {revision!r} on the Hub: {page} lists branches and tags")
    if isinstance(error, RepositoryNotFoundError):
        private = "for a private one log in (`hf auth login`, or set HF_TOKEN)"
        return _absent(name, f"no such folder, and no such model on the Hub ({page}); {private}")
    if isinstance(error, HFValidationError):
        return _absent(name, "no such folder, and no id that a model on the Hub can have")
    if status_of(error) == 401:
        again = "log in again (`hf auth login`, or set HF_TOKEN)"
        return HubError(name, f"the Hub ({constants.ENDPOINT}) does not know this token: {again}")
    return HubError(name, f"the Hub ({constants.ENDPOINT}) refuses it: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
