from __future__ import annotations

import numpy as np
import pytest
import torch

from toolkit.recipe.training import TrainingConfig
from toolkit.training.batch_schedule import BatchSchedule, MicroBatch
from toolkit.training.mixing import Mix, Mixing

IMAGES = torch.randn(6, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def batch(number: int = 0, images: int = 6) -> MicroBatch:
    return MicroBatch(1, number, list(range(images)), first=number * images, step_images=images)


def mixing(**keys: float) -> Mixing:
    return Mixing(TrainingConfig(epochs=1, **keys), (8, 12))  # type: ignore[arg-type]


def test_nothing_is_mixed_unless_asked_nor_a_single_image() -> None:
    assert mixing()(batch()) is None
    assert mixing(mixup=1.0)(batch(images=1)) is None


def test_a_mix_is_a_function_of_seed_epoch_and_place() -> None:
    assert mixing(mixup=0.4, cutmix=1.0)(batch(3)) == mixing(mixup=0.4, cutmix=1.0)(batch(3))
    assert mixing(mixup=0.4)(batch(3)) != mixing(mixup=0.4)(batch(4))
    assert mixing(mixup=0.4)(batch(3)) != mixing(mixup=0.4, seed=1)(batch(3))


def test_mixup_is_the_weighted_mean_of_two_images() -> None:
    mix = mixing(mixup=1.0)(batch())
    assert mix is not None
    assert 0.5 <= mix.share <= 1
    expected = mix.share * IMAGES + (1 - mix.share) * IMAGES[mix.partners]
    torch.testing.assert_close(mix(IMAGES), expected)
    torch.testing.assert_close(mix(IMAGES.flatten(1)), expected.flatten(1))


def test_cutmix_takes_a_window_whose_area_is_the_partners_share() -> None:
    for number in range(40):
        mix = mixing(cutmix=1.0)(batch(number))
        assert mix is not None
        mixed = mix(IMAGES)
        own, theirs = (mixed == IMAGES).all(1), (mixed == IMAGES[mix.partners]).all(1)
        assert bool((own | theirs).all())
        for place, partner in enumerate(mix.partners):
            if partner != place:
                assert float(own[place].float().mean()) == pytest.approx(mix.share)


def test_cutmix_windows_lie_as_published() -> None:
    """With alpha 1 the corner is replaced where the centre lies within half a window of it: (side / 2)^2 on average.

    The side's square is uniform, so that is 1/8; the middle is replaced whenever the centre lies within half a window
    on either side of it.
    """
    draws = Mixing(TrainingConfig(epochs=1, cutmix=1.0), (224, 224))
    mixes = [draws(batch(number)) for number in range(4000)]
    boxes = np.array([mix.box for mix in mixes if mix is not None])
    shares = np.array([mix.share for mix in mixes if mix is not None])
    corner = ((boxes[:, 0] == 0) & (boxes[:, 1] == 0) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)).mean()
    assert corner == pytest.approx(0.125, abs=0.02)
    middle = ((boxes[:, :2] <= 112) & (boxes[:, 2:] > 112)).all(1).mean()
    assert middle == pytest.approx(0.5, abs=0.03)
    assert shares.min() < 0.2  # not folded: the partner may dominate
    # of a window with sides r, r - r^2 / 4 of each axis lies inside: the mean of its square for r with density 2r
    assert shares.mean() == pytest.approx(1 - 77 / 240, abs=0.015)


def test_the_dominant_label_is_that_of_the_larger_share() -> None:
    labels = torch.tensor([0, 1, 2])
    assert Mix([1, 2, 0], 0.7).dominant(labels).tolist() == [0, 1, 2]
    assert Mix([1, 2, 0], 0.3).dominant(labels).tolist() == [1, 2, 0]


def test_with_both_each_gets_its_turn() -> None:
    kinds = [mixing(mixup=1.0, cutmix=1.0)(batch(number)) for number in range(40)]
    cut = sum(mix is not None and mix.box is not None for mix in kinds)
    assert 5 < cut < 35


def test_a_balanced_epoch_holds_each_class_alike_and_no_image_twice_more_than_another() -> None:
    labels = np.array([0] * 70 + [1] * 25 + [2] * 5)
    plan = BatchSchedule(images=100, batch_size=8, seed=0, balance=tuple(labels.tolist()))
    orders = [plan.order(epoch) for epoch in (1, 2)]
    assert orders[0] != orders[1]
    assert plan.order(1) == orders[0]
    for order in orders:
        assert len(order) == 100
        assert set(np.bincount(labels[order]).tolist()) <= {33, 34}
        for label in range(3):
            counts = np.bincount(order, minlength=100)[labels == label]
            assert counts.max() - counts.min() <= 1
