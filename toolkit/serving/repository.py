"""The bundles that a server answers for: by name and version, loaded and exchanged while it runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import CheckFailed, ToolkitError
from toolkit.runtime.manifest import MANIFEST
from toolkit.serving.batcher import BatchRun
from toolkit.serving.limits import Limits
from toolkit.serving.refusal import Reason, Refused
from toolkit.serving.served_model import ServedModel, ServingSettings, Workers

FIRST = "1"
"""The version of a bundle whose folder holds no versions."""
DECODERS = "decode"


@dataclass(frozen=True)
class BundlePlace:
    """Where a version of a model lies."""

    name: str
    version: str
    path: Path


@dataclass(frozen=True)
class Loaded:
    """How the last load of a version ended."""

    good: bool
    reason: str = ""


@dataclass(frozen=True)
class Entry:
    """A version of a model, for an index."""

    name: str
    version: str
    state: str
    """``READY``, ``LOADING`` or ``UNAVAILABLE``."""
    reason: str = ""


def name_of(path: Path) -> str:
    """What a folder is called where it was named, whatever a link leads to."""
    return path.absolute().name or path.resolve().name


def places_of(paths: Sequence[Path]) -> list[BundlePlace]:
    """Bundles by name and version: a bundle's folder, or a folder of versions (``1``, ``2``, ...) of a bundle.

    Raises:
        ToolkitError: neither, or a name twice.
    """
    found: list[BundlePlace] = []
    for path in paths:
        name = name_of(path)
        if any(place.name == name for place in found):
            raise ToolkitError(f"two bundles are called {name}", where=path, fix="rename one of the folders")
        versions = sorted((each for each in path.glob("*") if _is_version(each)), key=lambda each: int(each.name))
        if (path / MANIFEST).is_file() or not versions:
            if not (path / MANIFEST).is_file():
                what = "no bundle, and no folder of versions (1, 2, ...)" if path.is_dir() else "no such folder"
                raise ToolkitError(what, where=path, fix="give a folder that toolkit export wrote")
            found.append(BundlePlace(name, FIRST, path))
        else:
            found += [BundlePlace(name, version.name, version) for version in versions]
    return found


def _is_version(path: Path) -> bool:
    return path.name.isascii() and path.name.isdecimal() and (path / MANIFEST).is_file()


class Repository:
    """Models by name and version.

    It belongs to one event loop; what takes long runs in threads.

    Args:
        roots: folders of bundles, or of versions of a bundle.
        settings: how bundles are opened.
        limits: bounds of requests.
        decoders: threads that decode images, of all models.

    Raises:
        ToolkitError: a folder that holds no bundle.
    """

    def __init__(
        self, roots: Sequence[Path], settings: ServingSettings, limits: Limits, decoders: int | None = None
    ) -> None:
        self._roots = {name_of(place): place for place in roots}
        self._settings, self._limits = settings, limits
        self._places = {(place.name, place.version): place for place in places_of(roots)}
        self._served: dict[tuple[str, str], ServedModel] = {}
        self._outcomes: dict[tuple[str, str], Loaded] = {}
        self._decoders = ThreadPoolExecutor(decoders or os.cpu_count() or 1, thread_name_prefix=DECODERS)
        self._loading = asyncio.Lock()
        self._retired: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> list[str]:
        """The models."""
        return list(dict.fromkeys(name for name, _ in self._places))

    @property
    def ready(self) -> bool:
        """Whether every version answers."""
        return bool(self._places) and set(self._places) <= set(self._served)

    @property
    def answering(self) -> list[ServedModel]:
        """Every version that answers."""
        return list(self._served.values())

    def versions(self, name: str) -> list[str]:
        """The versions of a model that answer."""
        return [version for known, version in self._served if known == name]

    def served(self, name: str, version: str) -> ServedModel | None:
        """A version that answers; None if it doesn't."""
        return self._served.get((name, version))

    def get(self, name: str, version: str = "") -> ServedModel:
        """A model that answers, its newest version unless one is named.

        Raises:
            Refused: there is no such model or version, or it isn't ready.
        """
        answering = [version] if version else self.versions(name)
        if len(answering) > 1:
            answering = [max(answering, key=int)]
        if answering and (served := self._served.get((name, answering[0]))):
            return served
        known = [of for model, of in self._places if model == name]
        if not known or (version and version not in known):
            what = f"no model {name!r}" if not known else f"model {name} has no version {version!r}"
            have = ", ".join(self.names) if not known else ", ".join(known)
            raise Refused(Reason.NOT_FOUND, f"{what}; there is {have or 'none'}")
        raise Refused(Reason.UNAVAILABLE, f"model {name} is not ready", retry_after=1.0)

    def index(self) -> list[Entry]:
        """Every version and its state."""
        return [Entry(name, version, *self._state(name, version)) for name, version in self._places]

    def _state(self, name: str, version: str) -> tuple[str, str]:
        outcome = self._outcomes.get((name, version))
        if (name, version) in self._served:
            stale = outcome is not None and not outcome.good
            return "READY", f"serving what was loaded before: {outcome.reason}" if outcome and stale else ""
        return ("LOADING", "") if outcome is None else ("UNAVAILABLE", outcome.reason)

    async def load(
        self, name: str, observe: Callable[[BatchRun], object] = lambda run: None
    ) -> list[tuple[BundlePlace, Loaded]]:
        """Load every version of a model from its folder, as it is now, beside those that answer.

        A version that passed its proof takes the requests from then on; the one before it ends what it has. One that
        did not leaves the one before it in place. Versions that are gone from the folder are retired.

        Raises:
            Refused: there is no such model.
        """
        if name not in self._roots:
            raise Refused(Reason.NOT_FOUND, f"no model {name!r}; there is {', '.join(self._roots)}")
        async with self._loading:
            try:
                found = places_of([self._roots[name]])
            except ToolkitError as error:
                gone = [place for place in self._places.values() if place.name == name]
                for place in gone:
                    self._outcomes[place.name, place.version] = Loaded(good=False, reason=error.as_line())
                return [(place, self._outcomes[place.name, place.version]) for place in gone]
            for key in [key for key in self._places if key[0] == name]:
                if key not in {(place.name, place.version) for place in found}:
                    del self._places[key]
                    self._outcomes.pop(key, None)
                    self._retire(self._served.pop(key, None))
            outcomes = []
            for place in found:
                self._places[place.name, place.version] = place
                outcomes.append((place, await self._exchange(place, observe)))
            return outcomes

    async def _exchange(self, place: BundlePlace, observe: Callable[[BatchRun], object]) -> Loaded:
        key = place.name, place.version
        try:
            model = await asyncio.to_thread(
                ServedModel.open,
                place.name,
                place.version,
                place.path,
                Workers(asyncio.get_running_loop(), self._decoders),
                self._settings,
                self._limits,
                observe,
            )
        except (CheckFailed, ToolkitError, OSError) as error:
            reason = error.as_line() if isinstance(error, ToolkitError) else str(error)
            self._outcomes[key] = Loaded(good=False, reason=reason)
        else:
            before = self._served.get(key)
            self._served[key] = model
            self._outcomes[key] = Loaded(good=True)
            self._retire(before)
        return self._outcomes[key]

    def unload(self, name: str) -> None:
        """Let a model end what it has and answer nothing more.

        Raises:
            Refused: there is no such model.
        """
        keys = [key for key in self._places if key[0] == name]
        if not keys:
            raise Refused(Reason.NOT_FOUND, f"no model {name!r}; there is {', '.join(self.names)}")
        for key in keys:
            self._outcomes[key] = Loaded(good=False, reason="unloaded")
            self._retire(self._served.pop(key, None))

    def _retire(self, model: ServedModel | None) -> None:
        if model is None:
            return

        async def end() -> None:
            await model.drained()
            await asyncio.to_thread(model.close)

        task = asyncio.create_task(end())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    async def close(self) -> None:
        """Let every model end what it has."""
        for key in list(self._served):
            self._retire(self._served.pop(key))
        await asyncio.gather(*self._retired)
        self._decoders.shutdown(wait=False, cancel_futures=True)
