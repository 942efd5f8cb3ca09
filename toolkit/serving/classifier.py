"""A bundle as a classifier: what ``toolkit.load`` gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.examples import ExampleReader, ImageText, Source
from toolkit.serving.pool import BundlePool, open_pool
from toolkit.serving.predictor import Deferred, Example, Predicted, Prediction, Predictor, entry_of

Several = list[Source] | tuple[Source, ...]


class Classifier:
    """Predicts images by a bundle's graph, in the sessions that ``serving.json`` says or one on all cores.

    It may be used from several threads, and as a context manager, which ends its own.

    Example:
        >>> with toolkit.load("bundles/digits") as classifier:
        ...     classifier.predict("digit.png").label
        '3'
    """

    def __init__(self, bundle: Bundle, pool: BundlePool) -> None:
        self.bundle, self.pool = bundle, pool
        self._predictor = Predictor(bundle, pool)

    @classmethod
    def open(cls, bundle: Bundle | Path | str, **settings: Any) -> Classifier:
        """Load a bundle; see :func:`toolkit.serving.pool.open_pool` for the settings and errors."""
        opened = bundle if isinstance(bundle, Bundle) else Bundle(Path(bundle))
        return cls(opened, open_pool(opened, **settings))

    @property
    def reader(self) -> ExampleReader:
        """What makes inputs of what is predicted."""
        return self._predictor.reader

    @property
    def labels(self) -> list[str]:
        """The classes, in the order of the logits."""
        return self.bundle.labels

    @overload
    def predict(self, images: Source, *, batch_size: int | None = None) -> Prediction: ...

    @overload
    def predict(self, images: Several, *, batch_size: int | None = None) -> list[Prediction]: ...

    def predict(self, images: Source | Several, *, batch_size: int | None = None) -> Prediction | list[Prediction]:
        """Predict one image, or several in order.

        Args:
            images: a path, the content of a file, a Pillow image, an RGB array uint8 [height, width, 3]; or a list
                or tuple of these.
            batch_size: images a run, at most.

        Returns:
            A prediction, or a list of them for a list.

        Raises:
            UnreadableImageError: an image can't be decoded.
            ToolkitError: something that is no image, or probabilities that are no numbers.
        """
        several = images if isinstance(images, (list, tuple)) else [images]
        found: list[Prediction] = []
        for predicted in self.stream(several, batch_size=batch_size):
            if isinstance(predicted, ToolkitError):
                raise predicted
            found.append(predicted)
        return found if several is images else found[0]

    def stream(
        self,
        images: Iterable[Source | Deferred],
        *,
        batch_size: int | None = None,
        readers: int = 1,
        stretch: int | None = None,
    ) -> Iterator[Predicted]:
        """Yield predictions of any number of images as they are ready, with an error in the place of a bad one.

        Args:
            images: or functions that read one.
            batch_size: images a run, at most.
            readers: threads that read, decode and preprocess beside the sessions.
            stretch: images whose batches hold none of others.
        """
        return self._predictor(images, batch_size, readers, stretch)

    def of_windows(self, read: Iterable[Sequence[Example]]) -> Iterator[Predicted]:
        """The same of what was read elsewhere; see :meth:`toolkit.serving.predictor.Predictor.of_windows`."""
        return self._predictor.of_windows(read)

    def entries(
        self,
        paths: Sequence[Path | None],
        top_k: int | None = None,
        *,
        texts: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield what ``toolkit predict --json`` says of files; see :func:`toolkit.serving.predictor.entry_of`.

        Args:
            paths: of the images; None where one is missing.
            top_k: classes whose probabilities are given.
            texts: what stands beside each image; None for images alone.
            batch_size: images a run, at most.
        """
        beside: Sequence[str | None] = [None] * len(paths) if texts is None else texts
        sources = (ImageText(path, text) for path, text in zip(paths, beside, strict=True))
        for path, text, predicted in zip(paths, beside, self.stream(sources, batch_size=batch_size), strict=True):
            yield entry_of(path, predicted, top_k, text)

    def close(self) -> None:
        """End the sessions' threads."""
        self.pool.close()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
