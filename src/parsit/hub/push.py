"""A model's folder to a repository on the Hub, in one commit, with nothing but a model's files.

Weights are sent before the commit, and what the Hub has already is not sent again: where sending was broken off, a
second try goes on. A repository is private unless it is told otherwise, as publishing cannot be taken back.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError

from parsit.hub.card import version_of
from parsit.hub.fetch import (
    NO_ANSWER,
    SMALL_FILES,
    WEIGHT_FILES,
    first_line,
    looks_like_id,
    no_bars_in_a_pipe,
    status_of,
)
from parsit.types import ParsitError, UsageError

UPLOADED = (*SMALL_FILES, *WEIGHT_FILES)


def require_token(name: str) -> None:
    """Refuse what cannot be pushed, before any work is done.

    Raises:
        UsageError: no id of a repository, or no token.
    """
    if not looks_like_id(name) or "@" in name:
        raise UsageError(f"--push_to_hub {name}: it must be ORG/NAME, with your own name or an organization's first")
    if get_token() is None:
        raise UsageError(
            f"--push_to_hub needs a token that may write: make one at {constants.ENDPOINT}/settings/tokens, and set "
            "HF_TOKEN to it, or log in with `hf auth login`"
        )


def create_repository(name: str, public: bool) -> None:
    """Make the repository, if it is not there; one that is there stays as visible as it is.

    Raises:
        ParsitError: the Hub does not let us, or does not answer.
    """
    try:
        HfApi().create_repo(name, private=not public, exist_ok=True)
    except (HfHubHTTPError, *NO_ANSWER, ValueError) as error:
        raise _refused(name, error) from error


def files_to_push(folder: Path) -> tuple[list[str], list[str]]:
    """The names of a folder's files that are a model's, and of those that stay here."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    ours = [name for name in names if any(fnmatchcase(name, pattern) for pattern in UPLOADED)]
    return ours, [name for name in names if name not in ours]


def push_folder(folder: Path, name: str) -> tuple[str, bool]:
    """Put a model's folder into a repository; weights that it had before and the folder has not are removed.

    Args:
        folder: the model's folder.
        name: `ORG/NAME`.

    Returns:
        The commit's address, and whether the repository is private.

    Raises:
        ParsitError: it cannot be sent.
    """
    api = HfApi()
    try:
        with no_bars_in_a_pipe():
            commit = api.upload_folder(
                repo_id=name,
                folder_path=folder,
                allow_patterns=list(UPLOADED),
                delete_patterns=list(WEIGHT_FILES),
                commit_message=f"Upload a model with Parsit {version_of('parsit')}",
            )
        return str(commit.commit_url), bool(api.model_info(name).private)
    except (HfHubHTTPError, *NO_ANSWER, ValueError, RuntimeError) as error:
        raise _refused(name, error) from error


def _refused(name: str, error: BaseException) -> ParsitError:
    """Why a repository cannot be written to, in a line."""
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    if isinstance(cause, HfHubHTTPError) and status_of(cause):
        said = cause.server_message or first_line(cause)
        remedy = {
            401: ": log in again (`hf auth login`, or set HF_TOKEN)",
            403: f": give the token the right to write, at {constants.ENDPOINT}/settings/tokens, or name another ORG",
        }.get(status_of(cause), "")
        return ParsitError(f"{name}: the Hub ({constants.ENDPOINT}) refuses it: {status_of(cause)}, {said}{remedy}")
    again = "`parsit export DIR --push_to_hub ORG/NAME`, with the folder that was written, sends what is missing"
    return ParsitError(f"{name}: cannot be sent ({first_line(cause)}): {again}")
