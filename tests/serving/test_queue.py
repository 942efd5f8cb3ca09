from __future__ import annotations

import numpy as np
import pytest

from toolkit.serving.queue import BatchingQueue


@pytest.mark.parametrize("seed", range(5))
def test_each_request_leaves_once_in_order_with_others_of_its_shapes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    queue: BatchingQueue[tuple[int, int]] = BatchingQueue(most=20)
    left: list[tuple[int, int]] = []
    for number in range(300):
        request = number, int(rng.integers(3))
        assert queue.put(request, request[1]) == (len(left) < 20)
        left += [request] if len(left) < 20 else []
        if rng.random() < 0.3:
            taken = queue.take(4)
            assert taken[0] == left[0]
            assert taken == [each for each in left if each[1] == taken[0][1]][:4]
            left = [each for each in left if each not in taken]
        assert queue.waiting == len(left)
    while taken := queue.take(4):
        left = [each for each in left if each not in taken]
    assert left == []
