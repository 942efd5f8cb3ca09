"""``toolkit serve`` under load, beside its own sessions without HTTP and beside LitServe with the same graph.

    python -m benchmarks.serving [--bundles tiny-clip,ViT-B/32] [--minutes 5] [--rounds 3]

Bundles are made here: the embedded encoder, and ViT-B/32 of random weights (speed does not depend on their values).
``toolkit tune`` chooses the sessions, threads and batch size that all of them run with. For each, in rounds that
alternate: images a second from encoded files to labels through the pool of sessions in this process, through ``toolkit
serve``, and through LitServe where it is installed. Then, of the server alone: 80 % of its capacity for some minutes,
whose p99 stands beside that of the local server scenario at the same rate; the same beside 500 broken requests; and
twice its capacity with a deadline for every request. Client and server share the machine's cores. Writes
benchmarks/results/serving.json; with the defaults about 30 minutes on two cores that do nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.broken_requests import counted
from benchmarks.server_scenario import make_bundle
from export.latency.http_client import HttpClient, Target
from export.latency.measure import MinSamples
from export.latency.pool import golden_contents, pool_of
from export.latency.runner import onnxruntime_engine
from export.latency.scenarios.remote import RemoteServer, remote_server, run_loop
from export.latency.scenarios.server import Server, serve
from toolkit.files import write_json
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.machine import describe_machine
from toolkit.serving.classifier import Classifier
from toolkit.serving.pool import BundlePool

RESULTS = Path(__file__).parent / "results" / "serving.json"
CALLERS = 64
"""Requests on their way at once, where a server is to be saturated."""
SECONDS = 10.0
"""Of a round of each."""
SHARE, OVERLOAD = 0.8, 2.0
"""Of the capacity."""
DEADLINE = 1.0
"""Seconds that requests of the overload have."""
MIB = 1 << 20
SHOWN = ("offered_ips", "achieved_ips", "p50_ms", "p99_ms", "refused", "failed", "saturated")

LITSERVE = """
import base64
import sys
from pathlib import Path
import litserve
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.examples import decoded_source
from toolkit.runtime.inputs import stacked
from toolkit.runtime.network_size import network_sized

class Api(litserve.LitAPI):
    def setup(self, device):
        self.bundle = Bundle(Path(sys.argv[1]))
        self.session = self.bundle.session(threads=int(sys.argv[3]))
    def decode_request(self, request):
        return base64.b64decode(request["image"])
    def batch(self, inputs):
        kind, preprocess = self.session.input, self.bundle.preprocess
        images = (decoded_source(preprocess, each, grey=kind != "image") for each in inputs)
        return stacked(network_sized(kind, preprocess, image) for image in images)
    def predict(self, batch):
        return self.session.run(batch)["probabilities"]
    def unbatch(self, output):
        return list(output)
    def encode_response(self, output):
        return {"probabilities": output.tolist()}

if __name__ == "__main__":
    api = Api(max_batch_size=int(sys.argv[4]), batch_timeout=0.0)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=int(sys.argv[5])).run(
        host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
"""


@dataclass(frozen=True)
class Running:
    """A server in a process of its own."""

    process: psutil.Process
    port: int
    grpc_port: int | None = None

    @property
    def resident_mib(self) -> float:
        """Of the process and its children."""
        return sum(each.memory_info().rss for each in [self.process, *self.process.children(recursive=True)]) / MIB


def tiny_bundle(work: Path) -> Path:
    """The embedded encoder's, of ten classes."""
    import toolkit

    run = toolkit.zero_shot("tiny-clip", [f"thing {number}" for number in range(10)], out=work / "run")
    toolkit.export(run, out=work / "bundle")
    return work / "bundle"


BUNDLES = {"tiny-clip": tiny_bundle, "ViT-B/32": make_bundle}
P99_MS = {"tiny-clip": 50.0, "ViT-B/32": 1000.0}
"""That each bundle is tuned for."""


def tuned(name: str, work: Path) -> Path:
    """A bundle with its ``serving.json``."""
    path = BUNDLES[name](work)
    command = [sys.executable, "-m", "toolkit", "tune", str(path), "--p99-ms", str(P99_MS[name])]
    subprocess.run(command, check=True)
    return path


@contextmanager
def toolkit_serve(bundle: Path, log: Path) -> Iterator[Running]:
    """``toolkit serve``, ready."""
    options = ["--port", "0", "--grpc-port", "0", "--quiet"]
    with log.open("wb") as stream:
        child = subprocess.Popen([sys.executable, "-m", "toolkit", "serve", str(bundle), *options], stderr=stream)
    while not (line := log.read_text(encoding="utf-8").partition("\n"))[1]:
        time.sleep(0.1)
    listening = json.loads(line[0])
    yield from _until_answers(child, listening["port"], "/v2/health/ready", listening["grpc_port"])


@contextmanager
def lit_serve(bundle: Path, log: Path, pool: BundlePool) -> Iterator[Running]:
    """LitServe with the same graph, threads and batch size; images in JSON, since it takes no body as it is."""
    port = 8765
    given = [port, pool.sessions[0].threads, pool.batch_size, len(pool.sessions)]
    arguments = [str(bundle), *map(str, given)]
    script = log.with_suffix(".py")
    script.write_text(LITSERVE)
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, str(script), *arguments], stdout=stream, stderr=stream, cwd=Path.cwd()
        )
    yield from _until_answers(child, port, "/health")


def _until_answers(
    child: subprocess.Popen[bytes], port: int, path: str, grpc_port: int | None = None
) -> Iterator[Running]:
    target = Target.of(f"http://127.0.0.1:{port}")
    request = target.request("GET", path)
    ends = time.monotonic() + 120
    try:
        while run_loop(_ask(target, request)) != 200:
            if child.poll() is not None or time.monotonic() > ends:
                sys.exit(f"{' '.join(child.args[:4])}: no server")  # type: ignore[index]
            time.sleep(0.1)
        yield Running(psutil.Process(child.pid), port, grpc_port)
    finally:
        others = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
        child.terminate()
        child.wait(60)
        for other in others:
            with suppress(psutil.NoSuchProcess):
                other.kill()


async def _ask(target: Target, request: bytes) -> int:
    client = HttpClient(target)
    answer = await client.send(request)
    client.close()
    return answer.status


def through_pool(classifier: Classifier, contents: Sequence[bytes]) -> float:
    """Images a second from encoded files to predictions, in this process."""
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        done += sum(1 for _ in classifier.stream(contents))
    return done / (time.perf_counter() - started)


def through_http(target: Target, requests: Sequence[bytes]) -> float:
    """Images a second that callers who each wait for their answer get from a server."""

    async def run() -> float:
        client, done, started = HttpClient(target), [0], time.perf_counter()

        async def ask(first: int) -> None:
            place = first
            while time.perf_counter() - started < SECONDS:
                answer = await client.send(requests[place % len(requests)])
                if answer.status != 200:
                    sys.exit(f"the server answers {answer.status}: {answer.body[:200]!r}")
                done[0] += 1
                place += CALLERS

        await asyncio.gather(*(ask(first) for first in range(CALLERS)))
        client.close()
        return done[0] / (time.perf_counter() - started)

    return run_loop(run())


@contextmanager
def watching(server: Running, found: list[float]) -> Iterator[None]:
    """Note the server's resident memory every second."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(1.0):
            found.append(server.resident_mib)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def capacities(
    bundle: Path, remote: RemoteServer, contents: Sequence[bytes], work: Path, rounds: int
) -> dict[str, Any]:
    """Rounds of all in turns, and the median ratios to the pool's."""
    classifier = Classifier.open(bundle)
    in_json = {"content-type": "application/json"}
    bodies = [json.dumps({"image": base64.b64encode(content).decode()}).encode() for content in contents]
    rows: list[dict[str, float]] = []
    for number in range(rounds):
        row = {"pool": through_pool(classifier, contents)}
        row["toolkit_serve"] = through_http(Target.of(remote.url), remote.requests)
        if find_spec("litserve"):
            with lit_serve(bundle, work / f"litserve-{number}.log", classifier.pool) as other:
                target = Target.of(f"http://127.0.0.1:{other.port}")
                row["litserve"] = through_http(
                    target, [target.request("POST", "/predict", body, in_json) for body in bodies]
                )
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    classifier.close()
    ratios = {name: float(np.median([row[name] / row["pool"] for row in rows])) for name in rows[0] if name != "pool"}
    return {"images_a_second": rows, "of_the_pool": ratios}


def measured(name: str, minutes: float, rounds: int) -> dict[str, Any]:
    """Everything of one bundle."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        path = tuned(name, work)
        bundle = Bundle(path)
        contents, _ = golden_contents(bundle)
        with toolkit_serve(path, work / "serve.log") as server:
            url = f"http://127.0.0.1:{server.port}"
            remote = remote_server(bundle, contents, url, path.name)
            alone = remote.alone_seconds()
            found: dict[str, Any] = {"capacity": capacities(path, remote, contents, work, rounds)}
            capacity = float(np.median([row["toolkit_serve"] for row in found["capacity"]["images_a_second"]]))
            found |= {"alone_ms": 1000 * alone, "at_80_percent": steady(remote, server, SHARE * capacity, minutes)}
            found["among_broken"] = among_broken(remote, server, SHARE * capacity)
            hurried = remote_server(bundle, contents, url, path.name, {"x-request-timeout": str(DEADLINE)})
            found["at_twice"] = overload(hurried, server, OVERLOAD * capacity)
        found["local_at_80_percent"] = local(bundle, contents, SHARE * capacity, minutes)
        found["tuned"] = json.loads((path / "serving.json").read_bytes())
    ratio = found["at_80_percent"]["p99_ms"] / found["local_at_80_percent"]["p99_ms"]
    return found | {"p99_to_local": ratio}


def steady(remote: RemoteServer, server: Running, rate: float, minutes: float) -> dict[str, Any]:
    """A rate that the server keeps up with, for minutes."""
    memory: list[float] = [server.resident_mib]
    with watching(server, memory):
        point = remote.offer(rate, MinSamples(1, 60 * minutes))
    tenth = max(1, len(memory) // 10)
    grown = float(np.median(memory[-tenth:]) - np.median(memory[tenth : 2 * tenth]))
    _show(point)
    return point | {"resident_mib": {"first": memory[0], "last": memory[-1], "largest": max(memory), "grown": grown}}


def among_broken(remote: RemoteServer, server: Running, rate: float) -> dict[str, Any]:
    """The same rate while a client sends 500 broken requests, one after the other."""
    assert server.grpc_port is not None
    with ThreadPoolExecutor(1) as beside:
        wrong = beside.submit(counted, server.port, server.grpc_port, remote.model)
        point = remote.offer(rate, MinSamples(1, 60.0))
        answers = wrong.result()
    print(json.dumps(answers), file=sys.stderr, flush=True)
    _show(point)
    return point | {"broken": answers, "server_lives": server.process.is_running()}


def overload(remote: RemoteServer, server: Running, rate: float) -> dict[str, Any]:
    """More than the server can do, with a deadline for every request."""
    memory: list[float] = [server.resident_mib]
    with watching(server, memory):
        point = remote.offer(rate, MinSamples(1, 60.0))
    _show(point)
    resident = {"first": memory[0], "last": memory[-1], "largest": max(memory)}
    return point | {"deadline_ms": 1000 * DEADLINE, "resident_mib": resident}


def local(bundle: Bundle, contents: Sequence[bytes], rate: float, minutes: float) -> dict[str, Any]:
    """The server scenario in this process at the same rate for as long, with the sessions that the server has."""
    with Classifier.open(bundle) as classifier:
        pool = classifier.pool
        batch_size, sessions, threads = pool.batch_size, len(pool.sessions), pool.sessions[0].threads
    engines = [onnxruntime_engine(bundle, provider="cpu", threads=threads, precision=None) for _ in range(sessions)]
    images = pool_of(bundle, engines[0].input, contents, "golden images")
    point = serve(Server(engines, images, batch_size), rate, MinSamples(1, 60 * minutes))
    print(json.dumps({key: point.get(key) for key in SHOWN}), file=sys.stderr, flush=True)
    return point


def _show(point: dict[str, Any]) -> None:
    print(json.dumps({key: point[key] for key in SHOWN}), file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", default=",".join(BUNDLES), help="comma-separated")
    parser.add_argument("--minutes", type=float, default=5.0, help="at 80 %% of the capacity")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    libraries = {}
    for name in ("onnxruntime-gpu", "fastapi", "uvicorn", "uvloop", "litserve"):
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            libraries[name] = "not installed"
    for name in given.bundles.split(","):
        known = json.loads(given.out.read_bytes()) if given.out.is_file() else {"bundles": {}}
        entry = measured(name, given.minutes, given.rounds)
        entry["machine"] = describe_machine() | {"versions": libraries}
        write_json(given.out, {"bundles": known["bundles"] | {name: entry}})
        print(
            json.dumps(
                {name: {key: entry[key] for key in ("alone_ms", "p99_to_local")} | entry["capacity"]["of_the_pool"]}
            )
        )


if __name__ == "__main__":
    main()
