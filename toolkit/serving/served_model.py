"""One version of a bundle at work in a server: proven, warm, and with a queue in front of its sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from toolkit.errors import CheckFailed, ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import TooManyPixelsError, UnreadableImageError
from toolkit.runtime.examples import ExampleReader, ImageText, decoded_source
from toolkit.runtime.inputs import Array, Feed, Inputs, stacked
from toolkit.runtime.network_size import network_sized
from toolkit.runtime.session import Outputs, Session
from toolkit.runtime.verify import verify
from toolkit.serving.batcher import Batcher, BatchRun, Outcome
from toolkit.serving.limits import Limits
from toolkit.serving.pool import BundlePool, open_pool
from toolkit.serving.predictor import Decided, Prediction, decided_of, prediction_of
from toolkit.serving.refusal import Reason, Refused, bad_request

Image = bytes | Array
"""An encoded image, or RGB pixels uint8 [height, width, 3]."""
Example = Image | ImageText | Inputs
"""An image, an image with a text, or what the graph takes as it is."""
ROUNDS = 2
"""Runs of every batch size when a session is warmed up."""
MEMORY = 0.1
"""Weight of the newest request in the running mean of what an image at work adds to another's time."""
SMALL_BYTES, SMALL_PIXELS = 4096, 64 * 64
"""An image of no more is decoded in the event loop: that takes 0.05 ms, a quarter of what a turn in a thread costs."""
SMALL_FORMATS = (b"\x89PNG\r\n", b"\xff\xd8\xff")
"""First bytes of PNG and JPEG, whose pixels cost no more to decode than their number says."""
MARGIN = 1.4
"""By which a request's expected time is enlarged, so that what is accepted is answered in time."""


Waiting = asyncio.Future[Outcome]


@dataclass(frozen=True)
class Workers:
    """What models of a server share."""

    loop: asyncio.AbstractEventLoop
    """In which requests wait."""
    decoders: ThreadPoolExecutor


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
        pool: BundlePool,
        workers: Workers,
        limits: Limits,
        observe: Callable[[BatchRun], object],
    ) -> None:
        self.name, self.version, self.bundle, self.limits = name, version, bundle, limits
        self._workers, self._reader = workers, bundle.reader(pool.input, reduced_jpeg=pool.reduced_jpeg)
        self._batcher: Batcher[Waiting] = Batcher(pool, limits.waiting, self._deliver_soon, observe)
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
        workers: Workers,
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
            golden, reader = bundle.golden(), bundle.reader(pool.input)
            texts: Sequence[str | None] = golden.texts or [None] * len(golden.names)
            images = [bundle.read(f"golden/{name}") if reader.takes_image else None for name in golden.names]
            examples = [
                _prepared(reader, ImageText(image, text), limits.pixels)
                for image, text in zip(images, texts, strict=True)
            ]
            _ = bundle.labels, bundle.decision  # read while the files are those that were proven
        sizes = sorted({1 << power for power in range(pool.batch_size.bit_length())} | {pool.batch_size})
        for size in sizes:
            feed = stacked(examples[0] for _ in range(size))
            for _ in range(ROUNDS):
                pool.each(partial(_run, feed))
        return cls(name, version, bundle, pool, workers, limits, observe)

    @property
    def inputs(self) -> str:
        """How the graph takes its image: ``image`` or ``pixel_values``; ``input_ids`` where it takes texts alone."""
        return self._batcher.pool.input

    @property
    def takes_text(self) -> bool:
        """Whether the graph takes texts."""
        return self._reader.takes_text

    @property
    def takes_image(self) -> bool:
        """Whether the graph takes images."""
        return self._reader.takes_image

    @property
    def batcher(self) -> Batcher[Waiting]:
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

    def decided(self, outputs: Outputs) -> Decided:
        """The label of an image alone.

        Raises:
            Refused: probabilities that are no numbers.
        """
        decided = decided_of(self.bundle, outputs)
        if isinstance(decided, ToolkitError):
            raise Refused(Reason.FAILED, decided.what)
        return decided

    def decoded(self, image: Image) -> PillowImage.Image:
        """An image upright, in RGB, or grey (mode L) where it is grey and the graph takes ``pixel_values``.

        Raises:
            UnreadableImageError: it can't be decoded, or has more pixels than the limit.
        """
        grey = self.inputs != "image"
        return decoded_source(self._reader.preprocess, image, grey=grey, most_pixels=self.limits.pixels)

    def prepared(self, image: PillowImage.Image | None, text: str | None = None) -> Inputs:
        """A decoded image as the graph takes it, at the network's size, with its text; or either alone.

        Raises:
            ToolkitError: an image or a text that the graph doesn't take, or lacks.
        """
        self._reader.check(image=image is not None, text=text is not None)
        sized = None if image is None else network_sized(self.inputs, self.bundle.preprocess, image)
        return self._reader.beside(sized, text)

    @property
    def takes_missing(self) -> bool:
        """Whether image or text may be missing."""
        return self._reader.takes_missing

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
            waiting = [self._begin(example, deadline) for example in examples]
            timer = self._workers.loop.call_later(max(0.0, deadline - started), _give_up, waiting)
            try:
                outcomes = [await each for each in waiting]
            finally:
                timer.cancel()
                for each in waiting:
                    each.cancel()  # where the request itself was given up
            self._learn((time.monotonic() - started) / at_work)
            return [_answerable(outcome) for outcome in outcomes]

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

    def _begin(self, example: Example, deadline: float) -> Waiting:
        """Put an example into the queue once it is decoded: small images here and now, others in a thread."""
        waiting: Waiting = self._workers.loop.create_future()
        if not _is_small(example) or not self._prepare(
            example, deadline, waiting, min(SMALL_PIXELS, self.limits.pixels)
        ):
            self._workers.decoders.submit(self._prepare, example, deadline, waiting, self.limits.pixels)
        return waiting

    def _prepare(self, example: Example, deadline: float, waiting: Waiting, most_pixels: int) -> bool:
        """Decode an example, if need be, and put it into the queue; False if it has too many pixels for now."""
        if waiting.done():
            return True
        try:
            if time.monotonic() > deadline:
                raise Refused(Reason.DEADLINE, "the image was not decoded before the request's deadline")
            if isinstance(example, (bytes, np.ndarray)):
                example = ImageText(example, None)
            if isinstance(example, ImageText):
                example = _prepared(self._reader, example, most_pixels)
            self._batcher.submit(example, deadline, waiting)
        except UnreadableImageError as error:
            if isinstance(error, TooManyPixelsError) and most_pixels < self.limits.pixels:
                return False
            self._deliver_soon([(waiting, bad_request(f"unreadable image: {error.reason}"))])
        except ToolkitError as error:  # of the text
            self._deliver_soon([(waiting, bad_request(f"{error.what}; {error.fix}"))])
        except Exception as error:
            self._deliver_soon([(waiting, error)])
        return True

    def _deliver_soon(self, outcomes: Sequence[tuple[Waiting, Outcome]]) -> None:
        """Hand outcomes to those who wait, from any thread."""
        self._workers.loop.call_soon_threadsafe(_deliver, outcomes)


def _deliver(outcomes: Sequence[tuple[Waiting, Outcome]]) -> None:
    for waiting, outcome in outcomes:
        if not waiting.done():
            waiting.set_result(outcome)


def _is_small(example: Example) -> bool:
    if isinstance(example, ImageText) and len(example.text or "") > SMALL_BYTES:
        return False
    image = example.image if isinstance(example, ImageText) else example
    if isinstance(image, bytes):
        return len(image) <= SMALL_BYTES and image.startswith(SMALL_FORMATS)
    return not isinstance(image, np.ndarray)  # nothing is left to do


def _run(feed: Feed, session: Session, place: int) -> Outputs:
    return session.run(feed)


def _prepared(reader: ExampleReader, example: ImageText, most_pixels: int) -> Inputs:
    """An image as the graph takes it, at the network's size, with its text."""
    kind, image = reader.kind, example.image
    reader.check(image=image is not None, text=example.text is not None)
    if image is None:
        return reader.beside(None, example.text)
    decoded = decoded_source(reader.preprocess, image, grey=kind != "image", most_pixels=most_pixels)
    return reader.beside(network_sized(kind, reader.preprocess, decoded), example.text)


def _give_up(waiting: Sequence[Waiting]) -> None:
    """Tell those that still wait that it is too late."""
    _deliver([(each, Refused(Reason.DEADLINE, "the request's deadline passed")) for each in waiting])


def _answerable(outcome: Outcome) -> Outputs | Refused:
    """The outputs of an image, or why there are none."""
    if isinstance(outcome, Exception) and not isinstance(outcome, Refused):
        return Refused(Reason.FAILED, f"the graph could not be computed: {outcome}")
    return outcome
