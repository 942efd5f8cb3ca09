from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from export.latency.measure import MinSamples
from export.latency.pool import Pool, golden_contents, pool_of
from export.latency.runner import SPINNING, Runner, onnxruntime_engine
from export.latency.scenarios.concurrency import (
    BLOCKS,
    SessionLayout,
    closed_loop,
    concurrency,
    layouts,
    layouts_on,
)
from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.serving import ProviderOption
from toolkit.runtime.session import PROBE, Session

POOL = Pool([], [{"pixel_values": np.zeros((8, 3, 2, 2), np.float32)}], "here")


def fake(run: Callable[[Any], Any]) -> Runner:
    return Runner("fake", "fp32", "cpu", 1, run)


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 6, 16, 64])
def test_layouts_never_take_more_than_the_cores(cores: int) -> None:
    swept = [(each.sessions, each.threads, each.allow_spinning) for each in layouts(cores)]
    assert len(set(swept)) == len(swept)
    assert {(1, 1, True), (1, cores, True), (cores, 1, True)} <= set(swept)
    for sessions, threads, allow_spinning in swept:
        assert sessions * threads <= cores
        alone = sessions == 1 or threads == 1
        assert allow_spinning or not alone
        assert alone or (sessions, threads, not allow_spinning) in swept


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_streams_share_a_gpu_with_each_choice_of_kernels_that_a_bundle_may_set(provider: str) -> None:
    swept = layouts_on(provider, cores=16)
    assert {(each.sessions, each.threads) for each in swept} == {(1, 1), (2, 1), (4, 1)}
    chosen = {tuple(each.provider_options.items()) for each in swept}
    assert () in chosen
    assert len(chosen) > 1
    assert {name for options in chosen for name, _ in options} <= set(get_args(ProviderOption))
    assert [(each.sessions, each.threads) for each in layouts_on("cpu", 4)] == [
        (each.sessions, each.threads) for each in layouts(4)
    ]


def test_layouts_alternate_and_their_sessions_are_opened_for_a_block() -> None:
    opened: list[tuple[int, int]] = []

    def opener(layout: SessionLayout) -> Runner:
        opened.append((layout.sessions, layout.threads))
        return fake(lambda _: time.sleep(0.001))

    swept = [SessionLayout(1, 2), SessionLayout(2, 1)]
    rows = [each.row() for each in concurrency(opener, POOL, swept, MinSamples(8, 0))]
    assert [(row["sessions"], row["threads"]) for row in rows] == [(1, 2), (2, 1)]
    assert opened[:6] == [(1, 2), (2, 1), (2, 1), (2, 1), (2, 1), (1, 2)]
    assert len(opened) == 3 * BLOCKS
    assert [row["runs"] for row in rows] == [8, 16]
    for row in rows:
        assert len(row["block_ips"]) == BLOCKS
        assert row["throughput_ips"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]


def test_sessions_run_at_once_and_their_throughputs_add_up() -> None:
    both = threading.Barrier(2)
    times, rate = closed_loop([fake(lambda _: both.wait(10))] * 2, POOL.batches(4), MinSamples(5, 0))
    assert len(times) == 10
    assert rate > 0


def test_a_session_that_fails_ends_all() -> None:
    def broken(_: Any) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        closed_loop([fake(lambda _: None), fake(broken)], POOL.batches(1), MinSamples(1, 0))


def test_sessions_that_do_not_fit_in_memory_are_said() -> None:
    def opener(layout: SessionLayout) -> Runner:
        if layout.sessions > 1:
            raise RuntimeError("bad allocation")
        return fake(lambda _: None)

    rows = [
        each.row() for each in concurrency(opener, POOL, [SessionLayout(1, 1), SessionLayout(2, 1)], MinSamples(4, 0))
    ]
    assert rows[0]["throughput_ips"] > 0
    assert rows[1]["throughput_ips"] is None
    assert rows[1]["note"] == "2 sessions do not fit in memory"


def test_sessions_that_would_not_fit_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([0.0, 100.0] + [0.0] * 100)
    monkeypatch.setattr("export.latency.scenarios.concurrency.resident_mib", lambda: next(held))
    room = iter([1000.0, 1000.0, 90.0])
    monkeypatch.setattr("export.latency.scenarios.concurrency.available_mib", lambda: next(room))
    swept = [SessionLayout(1, 1), SessionLayout(2, 1)]
    counted = concurrency(lambda _: fake(lambda _: None), POOL, swept, MinSamples(1, 0), blocks=1)
    rows = [each.row() for each in counted]
    assert rows[0]["runs"] == 1
    assert rows[1]["runs"] == 0
    assert "1 leave 90 MiB" in rows[1]["note"]


@pytest.mark.parametrize("swept", [[], [SessionLayout(0, 1)], [SessionLayout(1, 0)]])
def test_nothing_to_sweep_is_refused(swept: list[SessionLayout]) -> None:
    with pytest.raises(ToolkitError, match="1 session and 1 thread"):
        concurrency(lambda _: fake(lambda _: None), POOL, swept)


def test_a_session_can_do_without_spinning() -> None:
    given = [
        Session(PROBE, session_options=options)._session.get_session_options() for options in ({}, {SPINNING: "0"})
    ]
    assert given[1].get_session_config_entry(SPINNING) == "0"
    with pytest.raises(RuntimeError, match=SPINNING):
        given[0].get_session_config_entry(SPINNING)


def test_a_real_bundle_is_swept(finished_bundle: Path) -> None:
    bundle = Bundle(finished_bundle)

    def opener(layout: SessionLayout) -> Runner:
        return onnxruntime_engine(
            bundle,
            provider="cpu",
            threads=layout.threads,
            precision="fp32",
            session_options={SPINNING: "1" if layout.allow_spinning else "0"},
        )

    pool = pool_of(bundle, "image", *golden_contents(bundle))
    rows = [
        each.row()
        for each in concurrency(
            opener, pool, [SessionLayout(1, 1), SessionLayout(2, 1, False)], MinSamples(2, 0), blocks=2
        )
    ]
    assert all(row["throughput_ips"] > 0 for row in rows)
