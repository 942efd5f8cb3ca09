"""One version of a bundle at work in a server: proven, warm, and with a queue in front of its sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from toolkit.errors import CheckFailed
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import UnreadableImageError, decoding, open_image
from toolkit.runtime.examples import decoded_source
from toolkit.runtime.inputs import Array, Feed, Inputs, stacked
from toolkit.runtime.network_size import network_sized
from toolkit.runtime.session import Outputs, Session
from toolkit.runtime.verify import verify
from toolkit.serving.batcher import Batcher, BatchRun
from toolkit.serving.limits import Limits
from toolkit.serving.pool import open_pool
from toolkit.serving.predictor import Prediction, prediction_of
from toolkit.serving.refusal import Reason, Refused, bad_request

Image = bytes | Array
"""An encoded image, or RGB pixels uint8 [height, width, 3]."""
Example = Image | Inputs
"""An image, or what the graph takes as it is."""
ROUNDS = 2
"""Runs of every batch size when a session is warmed up."""
MEMORY = 0.1
"""Weight of the newest request in the running mean of what an image at work adds to another's time."""
MARGIN = 1.25
"""By which a request's expected time is enlarged, so that what is accepted is answered in time."""
UNREAD = Path("image")
"""What errors call an image of a request."""


@dataclass(frozen=True)
class ServingSettings:
    """How a bundle is opened; None stands for what ``serving.json`` says, or the defaults of ``predict``."""

    provider: str | None = None
    precision: str | None = None
    threads: int | None = None
    sessions: int | None = None
    batch_size: int | None = None
    public_key: Path | None = None
    """PEM file of the key that must have signed a bundle."""


class ServedModel:
    """A bundle that passed its proof here, and answers.

    All methods but :meth:`open` and :meth:`close` belong to one event loop.
    """

    def __init__(
        self,
        name: str,
        version: str,
        bundle: Bundle,
        batcher: Batcher,
        decoders: ThreadPoolExecutor,
        limits: Limits,
    ) -> None:
        self.name, self.version, self.bundle, self.limits = name, version, bundle, limits
        self._batcher, self._decoders = batcher, decoders
        self.images = 0
        """Images that are decoded, wait or are computed now."""
        self._seconds_an_image = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    @classmethod
    def open(
        cls,
        name: str,
        version: str,
        path: Path,
        decoders: ThreadPoolExecutor,
        settings: ServingSettings,
        limits: Limits,
        observe: Callable[[BatchRun], object] = lambda run: None,
    ) -> ServedModel:
        """Verify a bundle, open its sessions and warm them up.

        Raises:
            CheckFailed: a file differs from the manifest, the signature is not of the key, or a golden image gives
                something else here.
            ToolkitError: no bundle, or the provider is not there.
        """
        bundle = Bundle(path)
        with bundle.holding():
            report = verify(path, provider=settings.provider, public_key=settings.public_key)
            if not report["passed"]:
                raise CheckFailed(f"{path}: {'; '.join(report['problems'])}")
            pool = open_pool(  # compares every file with the manifest that was read before the proof
                bundle,
                provider=settings.provider,
                precision=settings.precision,
                threads=settings.threads,
                sessions=settings.sessions,
                batch_size=settings.batch_size,
            )
            if Bundle(path).manifest != bundle.manifest:
                raise CheckFailed(f"{path}: the bundle changed while it was verified")
            golden = bundle.golden()
            examples = [
                _prepared(bundle, pool.input, bundle.read(f"golden/{image}"), limits.pixels) for image in golden.names
            ]
            _ = bundle.labels, bundle.decision, bundle.preprocess  # read while the files are those that were proven
        sizes = sorted({1 << power for power in range(pool.batch_size.bit_length())} | {pool.batch_size})
        for size in sizes:
            feed = stacked(examples[0] for _ in range(size))
            for _ in range(ROUNDS):
                pool.each(partial(_run, feed))
        return cls(name, version, bundle, Batcher(pool, limits.waiting, observe), decoders, limits)

    @property
    def inputs(self) -> str:
        """How the graph takes its image: ``image`` or ``pixel_values``."""
        return self._batcher.pool.input

    @property
    def batcher(self) -> Batcher:
        """The queue and the sessions."""
        return self._batcher

    @property
    def outputs(self) -> list[str]:
        """Names of what the graph gives."""
        return self._batcher.pool.sessions[0].outputs

    def prediction(self, outputs: Outputs) -> Prediction:
        """What the bundle says of an image.

        Raises:
            Refused: probabilities that are no numbers.
        """
        predicted = prediction_of(self.bundle, outputs)
        if not isinstance(predicted, Prediction):
            raise Refused(Reason.FAILED, predicted.what)
        return predicted

    def decoded(self, image: Image) -> PillowImage.Image:
        """An image upright, in RGB, or grey (mode L) where it is grey and the graph takes ``pixel_values``.

        Raises:
            UnreadableImageError: it can't be decoded, or has more pixels than the limit.
        """
        return _decoded(self.bundle, self.inputs, image, self.limits.pixels)

    def prepared(self, image: PillowImage.Image) -> Inputs:
        """A decoded image as the graph takes it, at the network's size."""
        return network_sized(self.inputs, self.bundle.preprocess, image)

    async def outputs_of(self, examples: Sequence[Example], deadline: float) -> list[Outputs | Refused]:
        """What the graph gives for each of a request's images, or why it gives nothing.

        Args:
            examples: images, at least one; or what the graph takes.
            deadline: of :func:`time.monotonic`.

        Raises:
            Refused: no place in the queue, or none in time; all of the request.
        """
        with self._admitted(len(examples), deadline):
            at_work, started = self.images, time.monotonic()
            waiting = [asyncio.wrap_future(self._begin(example, deadline)) for example in examples]
            await asyncio.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            self._learn((time.monotonic() - started) / at_work)
            return [_outcome(each) for each in waiting]

    async def drained(self) -> None:
        """Return when no image is at work any more."""
        await self._idle.wait()

    def close(self) -> None:
        """Compute what waits, then free the sessions."""
        self._batcher.close()

    @contextmanager
    def _admitted(self, images: int, deadline: float) -> Iterator[None]:
        """Count a request's images in, if there is place for them in time."""
        if images > self.limits.images:
            what = f"{images} images in a request, over the limit of {self.limits.images}"
            raise Refused(Reason.TOO_LARGE, what)
        expected = MARGIN * self._seconds_an_image * (self.images + images)
        if self.images and self.images + images > self.limits.waiting:
            what = f"{self.images} images wait already"
            raise Refused(Reason.OVERLOADED, what, retry_after=expected)
        if self.images and time.monotonic() + expected > deadline:
            what = f"the images that wait take {expected:.2f} s, longer than the request has"
            raise Refused(Reason.OVERLOADED, what, retry_after=expected)
        self.images += images
        self._idle.clear()
        try:
            yield
        finally:
            self.images -= images
            if not self.images:
                self._idle.set()

    def _learn(self, seconds_an_image: float) -> None:
        """Note what a request took by the images that were at work with it (Little's law)."""
        last = self._seconds_an_image
        self._seconds_an_image = last + MEMORY * (seconds_an_image - last) if last else seconds_an_image

    def _begin(self, example: Example, deadline: float) -> Future[Outputs]:
        """Decode an example in a thread, which puts it into the queue."""
        done: Future[Outputs] = Future()
        self._decoders.submit(self._prepare, example, deadline, done)
        return done

    def _prepare(self, example: Example, deadline: float, done: Future[Outputs]) -> None:
        if done.cancelled():
            return
        try:
            if time.monotonic() > deadline:
                raise Refused(Reason.DEADLINE, "the image was not decoded before the request's deadline")
            if isinstance(example, (bytes, np.ndarray)):
                example = _prepared(self.bundle, self.inputs, example, self.limits.pixels)
            self._batcher.submit(example, deadline, done)
        except UnreadableImageError as error:
            done.set_exception(bad_request(f"unreadable image: {error.reason}"))
        except Exception as error:
            done.set_exception(error)


def _run(feed: Feed, session: Session, place: int) -> Outputs:
    return session.run(feed)


def _prepared(bundle: Bundle, kind: str, image: Image, most_pixels: int) -> Inputs:
    """An image as the graph takes it."""
    return network_sized(kind, bundle.preprocess, _decoded(bundle, kind, image, most_pixels))


def _decoded(bundle: Bundle, kind: str, image: Image, most_pixels: int) -> PillowImage.Image:
    if isinstance(image, bytes) and image:
        with decoding(UNREAD), open_image(image) as opened:
            if opened.width * opened.height > most_pixels:
                what = f"{opened.width}x{opened.height} pixels, over the limit of {most_pixels:,}"
                raise UnreadableImageError(what, where=UNREAD)
    return decoded_source(bundle.preprocess, image, grey=kind != "image")


def _outcome(waiting: asyncio.Future[Any]) -> Outputs | Refused:
    """The outputs of an image, or why there are none; one that isn't done is given up."""
    if not waiting.done():
        waiting.cancel()
        return Refused(Reason.DEADLINE, "the request's deadline passed")
    error = waiting.exception()
    if error is None:
        outputs: Outputs = waiting.result()
        return outputs
    if isinstance(error, Refused):
        return error
    return Refused(Reason.FAILED, f"the graph could not be computed: {error}")
