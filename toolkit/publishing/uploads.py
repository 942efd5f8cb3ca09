"""What goes where when a bundle is pushed: the bundle in a folder of its own, its card as the page beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import MANIFEST, SIGNATURE, Bundle

PAGE = "README.md"
NEUTRAL = frozenset({PAGE, ".gitattributes"})
"""What a repository holds beside a pushed bundle."""


@dataclass(frozen=True)
class Upload:
    """A file and its place in the repository."""

    path: str
    content: Path | bytes
    size: int
    sha256: str


def uploads_of(bundle: Bundle, repo: str) -> list[Upload]:
    """The page, and every file of a whole bundle in a folder called like the repository.

    Nothing else lies in that folder, so that a download of it is a bundle again, byte for byte.

    Raises:
        ToolkitError: the bundle has no ``MODEL_CARD.md``.
    """
    folder = folder_of(repo)
    card = bundle.read("MODEL_CARD.md").decode()
    uploads = [_held(PAGE, f"{card.rstrip()}\n{_use(repo)}".encode())]
    for name in (MANIFEST, SIGNATURE):
        if (bundle.path / name).is_file():
            uploads.append(_held(f"{folder}/{name}", (bundle.path / name).read_bytes()))
    for name, entry in bundle.manifest.files.items():
        uploads.append(Upload(f"{folder}/{name}", bundle.path / name, entry.size, entry.sha256))
    return uploads


def folder_of(repo: str) -> str:
    """The folder of a repository that holds the bundle; a server calls the bundle so."""
    return repo.rpartition("/")[2]


def stale_files(there: Iterable[str], repo: str, uploads: Iterable[Upload]) -> list[str]:
    """Files of an earlier bundle that the new one does not have.

    Args:
        there: the files of the repository.
        repo: its name.
        uploads: what is to be in it.

    Raises:
        ToolkitError: it holds something else than a bundle that was pushed there.
    """
    present, folder = set(there), folder_of(repo)
    inside = {name for name in present if name.startswith(f"{folder}/")}
    others = sorted(present - inside - NEUTRAL)
    if not others and present - {".gitattributes"} and f"{folder}/{MANIFEST}" not in inside:
        others = sorted(present - {".gitattributes"})
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        what = f"the repository holds other files: {others[0]}{more}"
        raise ToolkitError(what, where=repo, fix="push to another name, or remove them there first")
    return sorted(inside - {upload.path for upload in uploads})


def _held(path: str, content: bytes) -> Upload:
    return Upload(path, content, len(content), hashlib.sha256(content).hexdigest())


def _use(repo: str) -> str:
    folder = folder_of(repo)
    return f"""
## Use

The folder `{folder}` is a bundle of clip-toolkit, which proves itself where it arrives:

```
hf download {repo} --include "{folder}/*" --local-dir .
toolkit verify {folder}
toolkit predict {folder} image.png
```
"""
