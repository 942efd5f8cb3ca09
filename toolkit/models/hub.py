"""The hub, asked once before a load: its client would try for minutes, file after file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from toolkit.errors import ToolkitError
from toolkit.models.checkpoint import Source

SECONDS = 5.0
"""To wait for the hub's first answer; ``HF_HUB_ETAG_TIMEOUT`` may make it less."""
ASKED_FOR = "config.json"


@dataclass(frozen=True)
class Silence:
    """The hub did not answer."""

    endpoint: str
    seconds: float
    reason: str

    def __str__(self) -> str:
        return f"the hub ({self.endpoint}) gave no answer within {self.seconds:g} s ({self.reason})"


def ask_hub(
    name: str, endpoint: str | None = None, seconds: float = SECONDS, revision: str | None = None
) -> Silence | None:
    """Ask the hub once for a repository; None if it answers, whatever it says.

    Args:
        name: of the repository.
        endpoint: of the hub, the usual one (``HF_ENDPOINT``) unless given.
        seconds: to wait.
        revision: of the repository.
    """
    try:
        address = hf_hub_url(name, ASKED_FOR, revision=revision, endpoint=endpoint)
        get_hf_file_metadata(address, timeout=seconds)
    except HfHubHTTPError:
        return None  # no such repository, or none for this user: the load says so
    except ValueError:
        return None  # no name that a repository can have
    except Exception as error:  # the HTTP library's own kinds, which are another library's from version to version
        return Silence(endpoint or constants.ENDPOINT, seconds, type(error).__name__)
    return None


@contextmanager
def hub_once(place: Source, endpoint: str | None = None, seconds: float = SECONDS) -> Iterator[str | None]:
    """Load in here: where the hub does not answer, from what was fetched before, or not at all.

    Yields:
        A note where the hub does not answer; None otherwise, and for folders.

    Raises:
        ToolkitError: it does not answer, and nothing was fetched before.
    """
    if place.folder is not None or constants.HF_HUB_OFFLINE:
        yield None
        return
    silence = ask_hub(place.location, endpoint, min(seconds, constants.HF_HUB_ETAG_TIMEOUT), place.revision)
    if silence is None:
        yield None
        return
    if not isinstance(try_to_load_from_cache(place.location, ASKED_FOR, revision=place.revision), str):
        fix = "check the network or the proxy; or download the encoder elsewhere and give its folder, or use tiny-clip"
        raise ToolkitError(str(silence), where=place.where, fix=fix)
    constants.HF_HUB_OFFLINE = True  # what HF_HUB_OFFLINE=1 does, which is read when the package is imported
    try:
        yield f"{silence}; what was fetched before is used"
    finally:
        constants.HF_HUB_OFFLINE = False
