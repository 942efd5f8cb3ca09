from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from recipes.finetune import finetune
from toolkit.errors import ToolkitError
from toolkit.models.fp32 import compute_fp32_fully, fp32_arithmetic
from toolkit.recipe.recipe import Recipe
from toolkit.training import setup
from toolkit.training.precision import check_precision, check_sharded, precision_handlers

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


@pytest.fixture
def torchs_defaults() -> Iterator[None]:
    """TF32 as torch has it in a new process."""
    kept = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32 = kept


@pytest.mark.usefixtures("torchs_defaults")
def test_convolutions_in_fp32_are_not_rounded_to_tf32() -> None:
    assert fp32_arithmetic(torch.device("cuda")) == {"tf32_matmuls": False, "tf32_convolutions": True}
    compute_fp32_fully()
    assert fp32_arithmetic(torch.device("cuda")) == {"tf32_matmuls": False, "tf32_convolutions": False}
    assert torch.backends.cudnn.conv.fp32_precision != "tf32"
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # which asks torch's old names and its new ones
        assert not torch.backends.cudnn.allow_tf32


def test_the_arithmetic_of_a_cpu_has_no_place_in_a_key() -> None:
    assert fp32_arithmetic(torch.device("cpu")) == {}


@pytest.mark.usefixtures("torchs_defaults")
def test_a_run_says_how_it_computes_fp32(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    cache = {"enabled": True, "dir": tmp_path / "cache"}
    finetune(make_recipe(training={"epochs": 1, "boundary_cache": cache}), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["tf32_convolutions"] is False
    (key,) = (tmp_path / "cache").glob("*/key.json")
    assert ("tf32_convolutions" in json.loads(key.read_text())) == torch.cuda.is_available()


def test_fp16_with_weights_in_shards_is_refused() -> None:
    with pytest.raises(ToolkitError, match="FSDP") as caught:
        check_sharded("fp16", sharded=True)
    assert "bf16" in caught.value.fix
    check_sharded("fp16", sharded=False)
    check_sharded("bf16", sharded=True)


class Overflowing(torch.amp.GradScaler):
    """A gradient scaler on the CPU, as fp16 has one on a GPU, whose first step overflows."""

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=2.0**10)
        self.scales: list[float] = []

    def scale(self, outputs: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        self.scales.append(self.get_scale())
        return super().scale(outputs) * (torch.inf if len(self.scales) == 1 else 1)


def test_a_step_that_the_gradient_scaler_skips_leaves_the_schedule_alone(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fused optimiser is called all the same, so Accelerate's ``optimizer_step_was_skipped`` doesn't know."""
    scaler = Overflowing()
    build = setup.build_accelerator

    def with_scaler(recipe: Recipe, out: Path) -> Accelerator:
        accelerator = build(recipe, out)
        accelerator.scaler = scaler
        return accelerator

    monkeypatch.setattr(setup, "build_accelerator", with_scaler)
    finetune(make_recipe(training={"epochs": 1, "warmup_share": 0.0}), tmp_path / "run")
    (newest,) = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1:]
    state = json.loads((newest / "state.json").read_text())
    assert state["standing"]["scheduled"] == state["step"] - 1 == len(scaler.scales) - 1
    assert scaler.get_scale() == scaler.scales[0] / 2
