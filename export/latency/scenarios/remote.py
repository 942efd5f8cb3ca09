"""The Server scenario against a running server: the same arrivals, over the Open Inference Protocol.

A latency runs from the time at which a request was to arrive to the last byte of its answer (no coordinated omission),
as in :mod:`export.latency.scenarios.server`. What the client costs on the server's own machine is part of it.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, TypeVar

import numpy as np

from export.latency.http_client import HttpClient, Response, Target
from export.latency.measure import MinSamples
from export.latency.pool import SEED
from export.latency.queueing import GROWTH, poisson_arrivals
from export.latency.scenarios.server import DRAIN, LEAD, LEAST, figures_of, note_of
from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.inputs import INPUT_IDS, TEXT, stacked
from toolkit.runtime.session import IMAGE_INPUTS

OK, REFUSED = 200, (429, 503)
ALONE = 20
"""Requests, one after the other, that tell what one takes alone."""
SPIN = 0.0005
"""Seconds before an arrival for which the client looks at the clock rather than sleep: timers are that coarse."""
WANTED = ("probabilities", "value")
"""The output that a request asks for: the first that there is."""
HEADER_LENGTH = "Inference-Header-Content-Length"
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteServer:
    """A model behind a URL, and requests for it."""

    url: str
    model: str
    requests: Sequence[bytes]
    """Bytes of whole requests, an image each."""
    platform: str
    """What the server says the model runs on."""
    headers: dict[str, str]
    progress: Progress = SILENT
    """Called after each point."""

    @property
    def held(self) -> int:
        """Requests that the server's sessions hold at once; a client can't know, so few."""
        return 1

    def describe(self) -> dict[str, Any]:
        """For the file."""
        return {"scenario": "Server", "url": self.url, "model": self.model, "platform": self.platform}

    def alone_seconds(self) -> float:
        """Median seconds of a request when no other is on its way."""

        async def ask(client: HttpClient) -> list[float]:
            found = []
            for request in list(self.requests)[:ALONE]:
                started = time.perf_counter()
                answer = await client.send(request)
                found.append(time.perf_counter() - started)
                self._require(answer)
            return found

        return float(np.median(self._with_client(ask)))

    def offer(self, rate: float, least: MinSamples = LEAST, *, seed: int = SEED) -> dict[str, Any]:
        """Send requests at a rate and count what comes back; see :func:`export.latency.scenarios.server.serve`.

        Returns:
            The keys of a local point, but for memory, and ``refused`` (429 and 503) and ``failed`` (anything else); a
            refused request is ``dropped`` too.

        Raises:
            ToolkitError: a rate that is not above 0.
        """
        least.check()
        if not (rate > 0 and math.isfinite(rate)):
            raise ToolkitError(f"a rate of {rate:g} a second offers nothing", where="--rate", fix="give more than 0")
        seconds = max(least.seconds, least.runs / rate)
        arrivals = poisson_arrivals(rate, -LEAD * seconds, seconds, seed)

        async def run(client: HttpClient) -> _Outcome:
            return await _offered(client, self.requests, arrivals, seconds)

        outcome = self._with_client(run)
        self.progress.step()
        window = arrivals >= 0
        done = window & (outcome.statuses == OK)
        latencies = (outcome.finished - arrivals)[done]
        refused = int((window & np.isin(outcome.statuses, REFUSED)).sum())
        unfinished = int((window & (outcome.statuses == -1)).sum())
        requests = int(window.sum())
        behind = outcome.backlog_at_end - outcome.backlog_at_start
        point = {
            "offered_ips": requests / seconds,
            "achieved_ips": float((done & (outcome.finished < seconds)).sum() / seconds),
            **figures_of(latencies),
            "mean_batch": None,
            "seconds": seconds,
            "requests": requests,
            "dropped": refused,
            "refused": refused,
            "failed": requests - int(done.sum()) - refused - unfinished,
            "statuses": dict(Counter(str(status) for status in outcome.statuses[window].tolist())),
            "unfinished": unfinished,
            "saturated": bool(refused or unfinished or behind > max(2, GROWTH * requests)),
        }
        return point | {"note": note_of(point)}

    def _require(self, answer: Response) -> None:
        if answer.status != OK:
            said = answer.body.decode(errors="replace")[:300] or "the connection was lost"
            what = f"the server answers {answer.status}: {said}"
            raise ToolkitError(what, where=self.url, fix="give the URL of a server that has this bundle")

    def _with_client(self, work: Any) -> Any:
        async def run() -> Any:
            client = HttpClient(Target.of(self.url))
            try:
                return await work(client)
            finally:
                client.close()

        return run_loop(run())


@dataclass(frozen=True)
class _Outcome:
    finished: Any
    """Seconds at which each request was answered; NaN for none."""
    statuses: Any
    """Of each request; -1 for none."""
    backlog_at_start: int
    backlog_at_end: int


async def _offered(client: HttpClient, requests: Sequence[bytes], arrivals: Any, seconds: float) -> _Outcome:
    """Send each request at its time, whether or not the others came back."""
    finished, statuses = np.full(len(arrivals), np.nan), np.full(len(arrivals), -1)
    order = np.random.default_rng(SEED).permutation(len(requests))
    zero = time.perf_counter() + LEAD * seconds + 0.05
    backlog = {"now": 0, "start": 0, "end": 0}
    sent: set[asyncio.Task[None]] = set()

    async def ask(place: int) -> None:
        backlog["now"] += 1
        answer = await client.send(requests[order[place % len(requests)]])
        finished[place], statuses[place] = time.perf_counter() - zero, answer.status
        backlog["now"] -= 1

    first = int(np.searchsorted(arrivals, 0.0))
    for place, arrival in enumerate(arrivals):
        if place == first:
            backlog["start"] = backlog["now"]
        delay = arrival - (time.perf_counter() - zero)
        if delay > SPIN:
            await asyncio.sleep(delay - SPIN)
        while time.perf_counter() - zero < arrival:
            await asyncio.sleep(0)
        task = asyncio.ensure_future(ask(place))
        sent.add(task)
        task.add_done_callback(sent.discard)
    await asyncio.sleep(max(0.0, seconds - (time.perf_counter() - zero)))
    backlog["end"] = backlog["now"]
    if sent:
        _, late = await asyncio.wait(sent, timeout=max(1.0, DRAIN * seconds))
        for task in late:
            task.cancel()
    return _Outcome(finished, statuses, backlog["start"], backlog["end"])


def remote_server(
    bundle: Bundle,
    contents: Sequence[bytes],
    url: str,
    model: str,
    headers: dict[str, str] | None = None,
    progress: Progress = SILENT,
) -> RemoteServer:
    """Requests for a bundle that a server has: files and texts where it takes them, else tensors as the graph has them.

    Args:
        bundle: the same bundle, which says how images and texts become tensors.
        contents: encoded images, or texts in UTF-8 where the bundle takes them alone; beside images the golden texts
            stand in turns.
        url: of the server.
        model: its name there.
        headers: of every request, such as a key.
        progress: called after each point.

    Raises:
        ToolkitError: nothing answers there, or it has no such model.
    """
    target, given = Target.of(url), dict(headers or {})

    async def ask() -> Response:
        client = HttpClient(target)
        try:
            return await client.send(target.request("GET", f"/v2/models/{model}", headers=given))
        finally:
            client.close()

    answer = run_loop(ask())
    if answer.status != OK:
        said = answer.body.decode(errors="replace")[:300] if answer.status else "nothing answers"
        raise ToolkitError(f"no model {model} there: {said}", where=url, fix="start toolkit serve with this bundle")
    metadata = json.loads(answer.body)
    inputs = {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}
    encoded = TEXT in inputs or "BYTES" in metadata.get("properties", {}).get("image", "")
    kind = next((name for name in inputs if name in IMAGE_INPUTS), INPUT_IDS)
    reader, texts = bundle.reader(kind), cycle(bundle.golden().texts or [None])
    outputs = [each["name"] for each in metadata["outputs"]]
    wanted = next(name for name in WANTED if name in outputs)
    path = f"/v2/models/{model}/infer"
    requests = []
    for content, text in zip(contents, texts, strict=False):
        if encoded:
            sent = {TEXT: content} if not reader.takes_image else {"image": content}
            if reader.takes_image and text is not None:
                sent[TEXT] = text.encode()
            tensors = [(name, "BYTES", [1], len(each).to_bytes(4, "little") + each) for name, each in sent.items()]
        else:
            feed = stacked([reader.of_content(content, text)])
            tensors = [
                (name, inputs[name], list(each.shape), np.ascontiguousarray(each).tobytes())
                for name, each in feed.items()
            ]
        head = _head([(name, datatype, shape, len(tail)) for name, datatype, shape, tail in tensors], wanted)
        own = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
        body = b"".join([head, *(tail for *_, tail in tensors)])
        requests.append(target.request("POST", path, body, given | own))
    return RemoteServer(url, model, requests, str(metadata.get("platform")), given, progress)


def _head(tensors: Sequence[tuple[str, str, list[int], int]], output: str) -> bytes:
    inputs = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
        for name, datatype, shape, size in tensors
    ]
    return json.dumps({"inputs": inputs, "outputs": [{"name": output}]}).encode()


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in uvloop's loop, where there is one."""
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)
