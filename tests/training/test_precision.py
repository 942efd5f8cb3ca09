from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from recipes.finetune import finetune, opened_trainer
from toolkit.errors import ToolkitError
from toolkit.models.fp32 import compute_fp32_fully, fp32_arithmetic
from toolkit.recipe.recipe import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.training import setup
from toolkit.training.optimizer import learning_rate_factor
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


@pytest.fixture
def with_scaler(monkeypatch: pytest.MonkeyPatch) -> Callable[[torch.amp.GradScaler], None]:
    """Gives the processes of a test a gradient scaler, which Accelerate makes for GPUs alone."""
    build = setup.build_accelerator

    def give(scaler: torch.amp.GradScaler) -> None:
        def with_it(recipe: Recipe, out: Path) -> Accelerator:
            accelerator = build(recipe, out)
            accelerator.scaler = scaler
            return accelerator

        monkeypatch.setattr(setup, "build_accelerator", with_it)

    return give


@pytest.mark.parametrize("training", [{}, {"ema_decay": 0.5}])
def test_a_step_that_the_gradient_scaler_skips_leaves_the_schedule_alone(
    training: dict[str, Any],
    with_scaler: Callable[[torch.amp.GradScaler], None],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    """The fused optimiser is called all the same, so Accelerate's ``optimizer_step_was_skipped`` doesn't know."""
    scaler = Overflowing()
    with_scaler(scaler)
    recipe = make_recipe(training={"epochs": 1, "warmup_share": 0.0} | training, tracking={"log_every": 1})
    finetune(recipe, tmp_path / "run")
    (newest,) = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1:]
    state = json.loads((newest / "state.json").read_text())
    assert state["standing"]["scheduled"] == state["step"] - 1 == len(scaler.scales) - 1
    assert state["standing"]["skipped"] == 0
    assert scaler.get_scale() == scaler.scales[0] / 2
    steps = [each for each in RunFolder(tmp_path / "run").history() if "learning_rates" in each]
    assert [each["learning_rates"]["head"] for each in steps] == [
        pytest.approx(recipe.training.learning_rate * learning_rate_factor(recipe.training, len(steps), scheduled))
        for scheduled in (0, *range(len(steps) - 1))
    ]


class Order(TorchDispatchMode):
    """Notes when torch copies a number to the host, for which it would wait for a GPU, and between what.

    The loss of a step, its gradient's norm and its optimiser are told by operators that nothing else runs.
    """

    MARKS: ClassVar = {
        "aten::_local_scalar_dense": "read",
        "aten::nll_loss_backward": "backward",
        "aten::linalg_vector_norm": "norm",
        "aten::_foreach_norm.Scalar": "norm",
        "aten::_fused_adamw_": "optimizer",
    }

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        mark = self.MARKS.get(func.name()) or self.MARKS.get(func.name().partition(".")[0])
        if mark and (mark == "read" or self.seen[-1:] != [mark]):
            self.seen.append(mark)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_waits_for_nothing_that_it_has_queued_itself(
    scaled: bool,
    with_scaler: Callable[[torch.amp.GradScaler], None],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    """What a gradient scaler skipped is asked once a step, when the gradient of the next one is queued.

    The first step is logged, for which its outcome is asked behind it.
    """
    if scaled:
        with_scaler(torch.amp.GradScaler("cpu", init_scale=2.0**10))
    order = Order()
    cached = {"boundary_cache": {"enabled": True}}  # no loader, which draws a seed on the host
    training = {"epochs": 1, "gradient_accumulation": 2, "batch_size": 4} | cached
    recipe = make_recipe(training=training, tracking={"log_every": 1000})
    with opened_trainer(recipe, tmp_path / "run") as trainer:
        step = trainer._step

        def watched(*args: Any) -> Any:
            with order:
                order.seen.append("step")
                return step(*args)

        trainer._step = watched  # type: ignore[method-assign]
        trainer.train()
        steps = trainer.state.step
    asked = ["read"] if scaled else []
    first_two = 2 * ["step", "backward", "norm", "optimizer"]
    assert steps > 3
    assert order.seen == first_two + (steps - 2) * ["step", "backward", "norm", *asked, "optimizer"]
