"""What a user gets of the settings that were chosen: files a second, from the encoded file to the label."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from export.latency.measure import MinSamples
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.serving import Serving
from toolkit.serving.pool import open_pool
from toolkit.serving.predictor import Predictor


def files_per_second(bundle: Bundle, serving: Serving, contents: Sequence[bytes], least: MinSamples) -> float:
    """Predict encoded images in a stream, as ``toolkit predict`` does with files.

    Args:
        bundle: that is served.
        serving: the settings.
        contents: encoded images, in turns.
        least: batches of every session, and seconds, at least.

    Returns:
        Images a second, those of the first batches left out.
    """
    with open_pool(bundle, serving=serving) as pool:
        a_round = pool.batch_size * len(pool.sessions)
        predictor, done, started = Predictor(bundle, pool), 0, time.perf_counter()
        warm = 2 * a_round

        def stream() -> Iterator[bytes]:
            asked = 0
            while done < warm + least.runs * a_round or time.perf_counter() - started < least.seconds:
                yield contents[asked % len(contents)]
                asked += 1

        for done, _ in enumerate(predictor(stream()), 1):
            if done == warm:
                started = time.perf_counter()
        return (done - warm) / (time.perf_counter() - started)
