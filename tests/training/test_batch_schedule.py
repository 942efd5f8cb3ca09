from __future__ import annotations

import itertools

import pytest

from toolkit.training.batch_schedule import BatchSchedule, MicroBatch

IMAGES, BATCH_SIZES, BATCHES_PER_STEP, PROCESSES = (1, 2, 7, 23, 96), (1, 3, 8, 200), (1, 2, 5), (1, 2, 3, 7)
SHAPES = list(itertools.product(IMAGES, BATCH_SIZES, BATCHES_PER_STEP))
EVERYWHERE = pytest.mark.parametrize("processes", PROCESSES)


def steps_of_all(
    shape: tuple[int, int, int], processes: int, first: int = 0, epoch: int = 1
) -> list[list[list[MicroBatch]]]:
    """For each step, the micro-batches of each process."""
    ranks = [BatchSchedule(*shape, seed=3, process=rank, processes=processes) for rank in range(processes)]
    return [list(step) for step in zip(*(plan.steps(epoch, first) for plan in ranks), strict=True)]


def counted(step: list[list[MicroBatch]]) -> list[MicroBatch]:
    """What a step learns from, in order, over all processes."""
    return sorted((batch for share in step for batch in share if batch.counts), key=lambda batch: batch.number)


@EVERYWHERE
def test_every_image_counts_exactly_once_an_epoch(processes: int) -> None:
    for shape in SHAPES:
        batches = [batch for step in steps_of_all(shape, processes) for batch in counted(step)]
        assert sorted(index for batch in batches for index in batch.indices) == list(range(shape[0])), shape
        assert [batch.number for batch in batches] == list(range(len(batches))), shape


@EVERYWHERE
def test_all_processes_meet_as_often_in_each_step(processes: int) -> None:
    for shape in SHAPES:
        for step in steps_of_all(shape, processes):
            assert len({len(share) for share in step}) == 1, shape
            assert all(batch.indices for share in step for batch in share), shape


@EVERYWHERE
def test_the_processes_of_a_step_compute_together_what_one_process_computes(processes: int) -> None:
    for shape in SHAPES:
        assert [counted(step) for step in steps_of_all(shape, processes)] == [
            counted(step) for step in steps_of_all(shape, 1)
        ], shape


@EVERYWHERE
def test_the_weights_of_a_steps_images_sum_to_one(processes: int) -> None:
    for shape in SHAPES:
        for step in steps_of_all(shape, processes):
            weight = sum(batch.weight * len(batch.indices) for share in step for batch in share)
            assert weight == pytest.approx(1, rel=1e-12), shape


@EVERYWHERE
def test_starting_at_a_step_is_leaving_out_those_before(processes: int) -> None:
    for shape in SHAPES:
        steps = steps_of_all(shape, processes)
        assert len(steps) == BatchSchedule(*shape).steps_per_epoch
        for first in range(len(steps) + 1):
            assert steps_of_all(shape, processes, first) == steps[first:], shape


def test_no_batch_and_no_step_is_larger_than_asked_for() -> None:
    for images, batch_size, batches_per_step in SHAPES:
        plan = BatchSchedule(images, batch_size, batches_per_step)
        *full, last = plan.steps(1)
        assert all(len(batch.indices) == batch_size for step in full for batch in step)
        assert {batch.step_images for step in full for batch in step} <= {plan.effective_batch}
        assert {batch.step_images for batch in last} == {images - len(full) * plan.effective_batch}


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    keys = list(itertools.product((0, 1, 7), (1, 2, 3)))
    orders = {(seed, epoch): BatchSchedule(50, 8, seed=seed).order(epoch) for seed, epoch in keys}
    again = {
        (seed, epoch): BatchSchedule(50, 3, 2, seed, process=1, processes=4).order(epoch)
        for seed, epoch in reversed(keys)
    }
    assert orders == again
    assert len({tuple(order) for order in orders.values()}) == len(keys)


def test_without_a_seed_the_order_is_the_splits_own_in_every_epoch() -> None:
    plan = BatchSchedule(50, 8)
    assert plan.order(1) == plan.order(2) == list(range(50))
