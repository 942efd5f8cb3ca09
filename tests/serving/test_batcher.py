"""Requests of many callers in batches, by real sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from toolkit.runtime.bundle import Bundle
from toolkit.runtime.inputs import Inputs
from toolkit.runtime.session import Outputs
from toolkit.serving.batcher import Batcher, BatchRun, Outcome
from toolkit.serving.pool import open_pool
from toolkit.serving.refusal import Reason, Refused

FAR = 60.0


def images(number: int, side: int = 32) -> list[Inputs]:
    rng = np.random.default_rng(side)
    return [{"image": rng.integers(0, 256, (side, side, 3), dtype=np.uint8)} for _ in range(number)]


Waiting = Future[Outputs]


def batcher_of(
    bundle: Path, batch_size: int, waiting: int = 100, observe: Callable[[BatchRun], object] = lambda run: None
) -> Batcher[Waiting]:
    return Batcher(open_pool(Bundle(bundle), batch_size=batch_size), waiting, deliver, observe)


def deliver(outcomes: Sequence[tuple[Waiting, Outcome]]) -> None:
    for waiting, outcome in outcomes:
        if isinstance(outcome, Exception):
            waiting.set_exception(outcome)
        else:
            waiting.set_result(outcome)


def submitted(batcher: Batcher[Waiting], examples: list[Inputs], seconds: float = FAR) -> list[Waiting]:
    found = []
    for example in examples:
        waiting: Waiting = Future()
        try:
            batcher.submit(example, time.monotonic() + seconds, waiting)
        except Refused as refused:
            waiting.set_exception(refused)
        found.append(waiting)
    return found


def test_outputs_are_those_of_a_run_alone_whatever_the_batch(finished_bundle: Path) -> None:
    runs: list[BatchRun] = []
    batcher = batcher_of(finished_bundle, 4, observe=runs.append)
    examples = [image for pair in zip(images(15), images(15, 40), strict=True) for image in pair]
    waiting = submitted(batcher, examples)
    session = batcher.pool.sessions[0]
    for example, done in zip(examples, waiting, strict=True):
        alone = session.run({"image": example["image"][None]})
        np.testing.assert_array_equal(done.result(FAR)["logits"], alone["logits"][0])
    batcher.close()
    assert sum(run.images for run in runs) == len(examples)
    assert max(run.images for run in runs) == 4
    assert all(len(run.waited) == run.images for run in runs)


def test_what_waits_is_computed_before_the_end_and_nothing_is_taken_after(finished_bundle: Path) -> None:
    batcher = batcher_of(finished_bundle, 2)
    waiting = submitted(batcher, images(20))
    batcher.close()
    assert all(done.done() and done.exception() is None for done in waiting)
    (late,) = submitted(batcher, images(1))
    with pytest.raises(Refused) as caught:
        late.result(FAR)
    assert caught.value.reason is Reason.UNAVAILABLE


def test_a_full_queue_refuses(finished_bundle: Path) -> None:
    batcher = batcher_of(finished_bundle, 1, 1)
    waiting = submitted(batcher, images(300))
    batcher.close()
    errors = [done.exception() for done in waiting]
    refused = [error for error in errors if isinstance(error, Refused)]
    assert refused
    assert {error.reason for error in refused} == {Reason.OVERLOADED}
    assert errors.count(None) == len(waiting) - len(refused)


def test_what_nobody_waits_for_any_more_is_left_out(finished_bundle: Path) -> None:
    runs: list[BatchRun] = []
    batcher = batcher_of(finished_bundle, 1, 1000, runs.append)
    waiting = submitted(batcher, images(60))
    late = submitted(batcher, images(5), seconds=-1.0)
    cancelled = [done.cancel() for done in waiting[-10:]]
    batcher.close()
    for done in late:
        with pytest.raises(Refused) as caught:
            done.result(FAR)
        assert caught.value.reason is Reason.DEADLINE
    assert sum(run.images for run in runs) == len(waiting) - sum(cancelled)


def test_a_bad_example_costs_no_other(finished_bundle: Path) -> None:
    """Of the same shape, so that it may stand in a batch with good ones."""
    batcher = batcher_of(finished_bundle, 8)
    good = images(20)
    bad: Inputs = {"image": good[0]["image"].astype(np.int64)}
    waiting = submitted(batcher, [*good[:10], bad, *good[10:]])
    batcher.close()
    errors = [done.exception() for done in waiting]
    assert [place for place, error in enumerate(errors) if error is not None] == [10]
