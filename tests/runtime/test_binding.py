from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolkit.runtime.binding import Binding
from toolkit.runtime.bundle import Bundle


@pytest.mark.parametrize("provider", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_bound_runs_give_what_others_give(finished_bundle: Path, provider: str) -> None:
    if provider == "cuda":
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
    session = Bundle(finished_bundle).session(provider=provider, threads=1)
    binding = Binding(session, {"image": (2, 40, 50, 3)})
    rng = np.random.default_rng(0)
    for _ in range(3):
        feed = {"image": rng.integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)}
        bound, plain = binding.run(feed), session.run(feed)
        assert list(bound) == list(plain)
        for name in plain:
            np.testing.assert_array_equal(bound[name], plain[name])
