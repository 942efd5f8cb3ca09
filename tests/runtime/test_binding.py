from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state

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


def test_no_provider_of_this_build_has_pinned_memory_to_give() -> None:
    """Where this fails, inputs can be staged in pinned memory; toolkit/runtime/binding.py says by which calls."""
    pinned = onnxruntime_pybind11_state.OrtDeviceMemoryType.HOST_ACCESSIBLE
    assert "cuda-plugin-ep" not in ort.get_build_info()
    assert [device.ep_name for device in ort.get_ep_devices() if device.memory_info(pinned) is not None] == []
