"""A bundle goes to the Hugging Face hub in one commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit import __version__
from toolkit.errors import ToolkitError
from toolkit.publishing.uploads import NEUTRAL, Upload, folder_of, stale_files, uploads_of
from toolkit.runtime.bundle import Bundle

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

MAIN = "main"
HTTP_LIBRARIES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"})
"""What the hub's client sends requests with, another library from version to version."""
REFUSED = {
    401: ("the hub does not accept the token", "hf auth login, or set HF_TOKEN to a token that is valid"),
    403: ("the token may not write there", "give a repository of yours, or a token with write access"),
    412: ("the repository changed meanwhile", "push again"),
}


@dataclass(frozen=True)
class PushOptions:
    """How a bundle is pushed."""

    private: bool = False
    """Make a repository that is not there yet private, and refuse one that is public."""
    revision: str = MAIN
    """The branch; made from ``main`` where it is not there yet."""
    message: str | None = None
    """Of the commit."""


def check_repo(repo: str) -> None:
    """Raise :class:`ToolkitError` unless a repository can be called so."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    fix = "write OWNER/NAME, of letters, digits, '-', '_' and '.'"
    if repo.count("/") != 1 or folder_of(repo) in NEUTRAL:
        raise ToolkitError("no name of a repository", where=repo, fix=fix)
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ToolkitError("no name of a repository", where=repo, fix=fix) from error


def require_token() -> None:
    """Raise :class:`ToolkitError` unless the hub's client finds a token where it keeps it."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise ToolkitError("no token of the hub", where="HF_TOKEN", fix="hf auth login, or set HF_TOKEN")


def hide_progress() -> None:
    """Have the hub's client draw no bars, which fill a file with one line for each step."""
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()


def planned(bundle: Bundle, repo: str, options: PushOptions) -> dict[str, Any]:
    """What :func:`push` would send, without a network.

    Returns:
        As :func:`push`, with ``dry_run`` true and nothing of what only the hub knows.
    """
    return _said(repo, options, uploads_of(bundle, repo)) | {"private": options.private, "dry_run": True}


def push(bundle: Bundle, repo: str, options: PushOptions) -> dict[str, Any]:
    """Send a whole bundle: all of its files, or none, in one commit.

    Args:
        bundle: that was verified.
        repo: ``OWNER/NAME``; made where it is not there yet.
        options: how.

    Returns:
        ``repo``, ``revision``, ``url``, ``private``, ``commit``, ``files`` (path, size, SHA-256), ``bytes``, and
        ``deleted``: files of the bundle that was there before.

    Raises:
        ToolkitError: the hub does not answer or refuses, the repository holds something else, or it is public and was
            to be private.
    """
    from huggingface_hub import CommitOperationDelete, HfApi

    api = HfApi(library_name="clip-toolkit", library_version=__version__)
    uploads = uploads_of(bundle, repo)
    with _explaining(repo, api.endpoint):
        api.whoami()
        private = _ready_repo(api, repo, options)
        there = api.model_info(repo, revision=options.revision)
        deleted = stale_files([each.rfilename for each in there.siblings or ()], repo, uploads)
        added = additions(uploads)
        commit = api.create_commit(
            repo,
            [*added, *map(CommitOperationDelete, deleted)],
            commit_message=options.message or _message(bundle),
            revision=options.revision,
            parent_commit=there.sha,
        )
    found = {"private": private, "dry_run": False, "deleted": deleted, "commit": commit.oid}
    return _said(repo, options, uploads, api.endpoint) | found


def additions(uploads: Sequence[Upload]) -> list[CommitOperationAdd]:
    """What is committed, hashed once more as it is read.

    Raises:
        ToolkitError: a file is no longer the one that was verified.
    """
    from huggingface_hub import CommitOperationAdd

    added = []
    for each in uploads:
        added.append(
            CommitOperationAdd(each.path, each.content if isinstance(each.content, bytes) else str(each.content))
        )
        if added[-1].upload_info.sha256.hex() != each.sha256:
            raise ToolkitError(f"{each.path} changed meanwhile", where="toolkit push", fix="push again")
    return added


def _ready_repo(api: HfApi, repo: str, options: PushOptions) -> bool:
    """Make the repository and its branch where they are not there yet; whether it is private."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        private = bool(api.model_info(repo).private)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=options.private)
        private = options.private
    if options.private and not private:
        what = "the repository is public, and --private was asked for"
        raise ToolkitError(what, where=repo, fix="make it private on its page, push to another name, or leave it out")
    if options.revision != MAIN:
        api.create_branch(repo, branch=options.revision, exist_ok=True)
    return private


def _said(repo: str, options: PushOptions, uploads: Sequence[Upload], endpoint: str | None = None) -> dict[str, Any]:
    from huggingface_hub import constants

    page = f"{endpoint or constants.ENDPOINT}/{repo}"
    return {
        "repo": repo,
        "revision": options.revision,
        "url": page if options.revision == MAIN else f"{page}/tree/{options.revision}",
        "files": [{"path": each.path, "size": each.size, "sha256": each.sha256} for each in uploads],
        "bytes": sum(each.size for each in uploads),
    }


def _message(bundle: Bundle) -> str:
    manifest = bundle.manifest
    return f"Bundle {(manifest.manifest_sha256 or '')[:12]}, clip-toolkit {manifest.toolkit_version}"


@contextmanager
def _explaining(repo: str, endpoint: str) -> Iterator[None]:
    """What the hub refuses, and a hub out of reach, as an error in one line."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled as error:
        what = "the hub is switched off by HF_HUB_OFFLINE"
        raise ToolkitError(what, where=repo, fix="unset it, or look at --dry-run") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        what, fix = REFUSED.get(status, (f"the hub refused ({status}): {_line(error)}", "do as it says, or push again"))
        raise ToolkitError(what, where=repo, fix=fix) from error
    except Exception as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(error, RuntimeError):  # an upload of a large file, by whichever protocol
            what = f"an upload to the hub ({endpoint}) failed: {_line(cause)}"
        elif type(error).__module__.partition(".")[0] in HTTP_LIBRARIES:
            what = f"the hub ({endpoint}) gave no answer ({type(error).__name__})"
        else:
            raise
        raise ToolkitError(what, where=repo, fix="check the network or the proxy, then push again") from error


def _line(error: BaseException) -> str:
    """The hub's own words, without what its client writes around them."""
    said = getattr(error, "server_message", None) or str(error)
    return " ".join(said.split())[:300]
