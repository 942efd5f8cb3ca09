from __future__ import annotations

import pytest
import torch

from toolkit.errors import ToolkitError
from toolkit.training.precision import check_precision, precision_handlers

without_gpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has a GPU")


@without_gpu
@pytest.mark.parametrize(
    ("precision", "missing"),
    [("fp16", "needs a GPU"), ("fp8", r"needs a CUDA device.* 8\.9 .*there is no CUDA device")],
)
def test_a_precision_that_needs_a_gpu_is_refused_and_says_what_is_missing(precision: str, missing: str) -> None:
    with pytest.raises(ToolkitError, match=f"^{precision} training {missing}") as caught:
        check_precision(precision)
    assert caught.value.where == "training.mixed_precision"
    assert "training.mixed_precision=bf16" in caught.value.fix


@without_gpu
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_cpu_trains_in_fp32_and_bf16(precision: str) -> None:
    check_precision(precision)
    assert precision_handlers(precision) == []
