"""Small real things that the tests share: a data set of drawings, tiny encoders of every family, a finished run."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chest_xrays import write_chest_xrays
from color_images import write_images

from toolkit.recipe.recipe import Recipe

FAMILY_BLIND = (
    *("test_server", "test_remote", "test_app", "test_batcher", "test_clients", "test_push", "test_mlflow"),
    *("test_api", "test_benchmark", "test_bill_of_materials", "test_change", "test_concurrency", "test_duration"),
    *("test_embed", "test_evaluate", "test_memory", "test_multi_stream", "test_offline", "test_operators"),
    *("test_regression", "test_report", "test_serve_image", "test_architecture", "test_binding", "test_cli"),
    *("test_bundle", "test_contract", "test_external_data", "test_full_disk", "test_hostile_bundles", "test_onnx_file"),
    *("test_plots", "test_resume", "test_signature", "test_tensorrt", "test_triton_config"),
    *("test_ceilings", "test_reference_runners"),
)
"""Files whose tests take a run or a bundle as it is and see nothing of its encoder: one family is enough for CI."""


def pytest_configure() -> None:
    """Give each of several workers cores of its own, since pools of threads that share cores wait for each other.

    Processes that a test starts stay on them too.
    """
    if "CLIP_TOOLKIT_CACHE" not in os.environ:  # nothing of a test stays on the machine, and nothing helps one
        os.environ["CLIP_TOOLKIT_CACHE"] = tempfile.mkdtemp(prefix="clip-toolkit-cache-")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker and hasattr(os, "sched_setaffinity"):
        cores, workers = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        if workers <= len(cores):
            os.sched_setaffinity(0, cores[int(worker) :: workers])


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--slow``: the slow tests too. ``--write-docs``: what tests measure goes into the docs."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")
    parser.addoption("--write-docs", action="store_true", help="write tables that tests measure into the docs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The files that take longest first, so that no worker is left alone with one at the end; slow tests if asked."""
    items.sort(key=lambda item: "training" not in item.path.parts and item.path.stem != "test_family_table")
    for item in items:
        of = getattr(item, "callspec", None)
        if item.path.stem.startswith(FAMILY_BLIND) and of and of.params.get("finished_run") == "siglip":
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow; pytest --slow runs it"))


@pytest.fixture(scope="session")
def color_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three colours, with splits of odd sizes: 36 train, 15 validation, 21 test images."""
    return write_images(tmp_path_factory.mktemp("data") / "colors")


@pytest.fixture(scope="session")
def chest_xrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins in the layout of published chest X-rays, whose patients stand in the file names."""
    return write_chest_xrays(tmp_path_factory.mktemp("data") / "chest_xray")


def _save_tiny_clip(folder: Path) -> Path:
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = tower | {"image_size": 32, "patch_size": 8}
    text = tower | {"vocab_size": 100, "max_position_embeddings": 16, "eos_token_id": 99}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _save_tiny_laion(folder: Path) -> Path:
    """CLIP as larger OpenCLIP models are: GELU, and other widths, heads and layers than the texts have."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(0)
    vision: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3}
    vision |= {"num_attention_heads": 3, "image_size": 32, "patch_size": 8, "hidden_act": "gelu"}
    text: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 1, "vocab_size": 100, "max_position_embeddings": 16, "hidden_act": "gelu"}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=40)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _save_tiny_siglip(folder: Path) -> Path:
    import torch
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
    )
    SiglipVisionModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _save_tiny_dinov2(folder: Path, *, registers: int = 0) -> Path:
    import torch
    from transformers import (
        BitImageProcessorPil,
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
    )

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32}
    sizes |= {"patch_size": 8, "layerscale_value": 0.5}
    if registers:
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, num_register_tokens=registers))
    else:
        model = Dinov2Model(Dinov2Config(**sizes))
    for name, parameter in model.named_parameters():
        if "lambda" in name or "token" in name:  # as trained ones, no two alike
            parameter.data = 0.5 + torch.rand_like(parameter)
    model.save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _save_tiny_vit(folder: Path) -> Path:
    import torch
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    ViTModel(ViTConfig(**sizes)).save_pretrained(folder)  # with a pooler, which is left alone
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _save_tiny_dinov3_vit(folder: Path, *, gated: bool = False) -> Path:
    import torch
    from transformers import DINOv3ViTConfig, DINOv3ViTModel, ViTImageProcessorPil

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    sizes |= {"image_size": 32, "patch_size": 8, "num_register_tokens": 2, "use_gated_mlp": gated}
    model = DINOv3ViTModel(DINOv3ViTConfig(**sizes, hidden_act="silu" if gated else "gelu"))
    for name, parameter in model.named_parameters():
        if "lambda" in name or "token" in name or "bias" in name:  # as trained ones, no two alike
            parameter.data = 0.5 + torch.rand_like(parameter)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _save_tiny_siglip2(folder: Path) -> Path:
    import torch
    from transformers import Siglip2ImageProcessorPil, Siglip2VisionConfig, Siglip2VisionModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    Siglip2VisionModel(Siglip2VisionConfig(**sizes, num_patches=9, patch_size=8)).save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)
    return folder


def _save_tiny_blip(folder: Path) -> Path:
    import torch
    from transformers import BlipConfig, BlipForImageTextRetrieval, BlipImageProcessorPil

    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = tower | {"image_size": 32, "patch_size": 8, "initializer_range": 0.02}
    config = BlipConfig(vision_config=vision, text_config=tower | {"vocab_size": 100}, image_text_hidden_size=24)
    model = BlipForImageTextRetrieval(config)
    for name, parameter in model.vision_model.named_parameters():
        if "embedding" in name or "bias" in name:  # as trained ones, no two alike
            parameter.data = 0.5 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _save_tiny_ijepa(folder: Path) -> Path:
    import torch
    from transformers import IJepaConfig, IJepaModel, ViTImageProcessorPil

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    IJepaModel(IJepaConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Encoder folders of every family, and I-JEPA's, which none describes: real classes, few layers, random weights."""
    root = tmp_path_factory.mktemp("encoders")
    return {
        "clip": _save_tiny_clip(root / "clip"),
        "laion": _save_tiny_laion(root / "laion"),
        "siglip": _save_tiny_siglip(root / "siglip"),
        "dinov2": _save_tiny_dinov2(root / "dinov2"),
        "dinov2_with_registers": _save_tiny_dinov2(root / "dinov2_with_registers", registers=2),
        "dinov3_vit": _save_tiny_dinov3_vit(root / "dinov3_vit"),
        "dinov3_vit_gated": _save_tiny_dinov3_vit(root / "dinov3_vit_gated", gated=True),
        "siglip2": _save_tiny_siglip2(root / "siglip2"),
        "vit": _save_tiny_vit(root / "vit"),
        "blip": _save_tiny_blip(root / "blip"),
        "ijepa": _save_tiny_ijepa(root / "ijepa"),
    }


@pytest.fixture(scope="session")
def tiny_swin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an encoder that no family describes: a Swin with random weights."""
    import torch
    from transformers import SwinConfig, SwinModel, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("encoders") / "swin"
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "window_size": 4}
    SwinModel(SwinConfig(**sizes, depths=[1, 1], num_heads=[1, 2])).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _save_with_texts(folder: Path, family: str) -> Path:
    """Both towers of a family, with the embedded model's tokenizer."""
    import torch
    import transformers
    from transformers import CLIPImageProcessorPil, CLIPTokenizer, Siglip2ImageProcessorPil, SiglipImageProcessorPil

    from toolkit.models.load import EMBEDDED, resolve

    tokenizer = CLIPTokenizer.from_pretrained(resolve(EMBEDDED))
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = tower | {"patch_size": 8} | ({"num_patches": 16} if family == "Siglip2" else {"image_size": 32})
    text = tower | {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 32}
    if family == "Siglip2":  # its own kind of tokenizer knows single letters alone of that vocabulary
        text["max_position_embeddings"] = 32
    torch.manual_seed(0)
    if family.startswith("Siglip"):
        options: dict[str, Any] = {}
    else:
        text |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        options = {"projection_dim": 24}
    config = getattr(transformers, f"{family}Config")(vision_config=vision, text_config=text, **options)
    model = getattr(transformers, f"{family}Model")(config)
    if family.startswith("Siglip"):
        model.logit_scale.data.fill_(2.0)
        model.logit_bias.data.fill_(-3.0)
    model.save_pretrained(folder)
    processor = {
        "Siglip": SiglipImageProcessorPil(size={"height": 32, "width": 32}),
        "Siglip2": Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16),
    }
    cropping = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.get(family, cropping).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Encoder folders with both towers and a tokenizer: real classes, two layers, random weights."""
    root = tmp_path_factory.mktemp("text_encoders")
    families = {"clip": "CLIP", "metaclip_2": "MetaClip2", "siglip": "Siglip", "siglip2": "Siglip2"}
    return {name: _save_with_texts(root / name, family) for name, family in families.items()}


@pytest.fixture(scope="session")
def make_recipe(color_data: Path, encoders: dict[str, Path]) -> Callable[..., Recipe]:
    """A recipe on the colours, for a family, with overrides by section."""

    def make(family: str = "clip", **sections: dict[str, Any]) -> Recipe:
        model = {"encoder": str(encoders[family]), "head": {"hidden_size": 16}} | sections.get("model", {})
        if not {"unfreeze", "unfreeze_last"} & set(model):
            model["unfreeze_last"] = 1
        training = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3} | sections.get("training", {})
        data = {"path": color_data} | sections.get("data", {})
        tracking = {"trackers": [], "log_every": 2, "plots": False} | sections.get("tracking", {})
        return Recipe.model_validate({"data": data, "model": model, "training": training, "tracking": tracking})

    return make


@pytest.fixture(scope="session")
def made() -> dict[str, Path]:
    """Runs and bundles that tests share, by name.

    pytest ends a fixture with parameters whenever another of them follows, as it does in nearly every file.
    """
    return {}


@pytest.fixture(scope="session", params=["clip", "siglip"])
def finished_run(
    request: pytest.FixtureRequest,
    make_recipe: Callable[..., Recipe],
    made: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run folder of each family, trained for two epochs; tests that change it copy it first."""
    if request.param not in made:
        from recipes.finetune import finetune

        out = tmp_path_factory.mktemp("runs") / request.param
        finetune(make_recipe(request.param, tracking={"trackers": ["tensorboard"], "plots": True}), out)
        made[request.param] = out
    return made[request.param]


@pytest.fixture(scope="session")
def finished_bundle(finished_run: Path, made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of each finished run, whose graph takes images; tests that change it copy it first."""
    return _exported(finished_run, "image", made, tmp_path_factory)


@pytest.fixture(scope="session")
def pixel_bundle(finished_run: Path, made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a graph that takes ``pixel_values``."""
    return _exported(finished_run, "pixel_values", made, tmp_path_factory)


def _exported(run: Path, graph_input: Any, made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = f"{run.name}-{graph_input}"
    if name not in made:
        from export.bundle import ExportOptions, export_bundle
        from toolkit.runs.finished_run import Run

        out = tmp_path_factory.mktemp("bundles") / name
        export_bundle(Run(run), out, ExportOptions(graph_input))
        made[name] = out
    return made[name]


Ended = subprocess.CompletedProcess[str]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs ``toolkit``, or a script, by its own entry point in this process: its end is that of a process.

    What a new process adds (arguments and streams of the system's own, signals, what is imported) needs a real one.
    """

    def run(*arguments: object, cwd: Path | None = None, script: Path | None = None) -> Ended:
        from toolkit.cli.main import main

        words = [*map(str, arguments)]
        with monkeypatch.context() as there:
            there.setattr(sys, "argv", [str(script or "toolkit"), *words])
            there.setenv("TOKENIZERS_PARALLELISM", "false")  # as the command does, and here it goes again
            there.chdir(cwd or Path(__file__).parents[1])
            capfd.readouterr()
            with _warnings_as_of_a_process(), pytest.raises(SystemExit) as end:
                runpy.run_path(str(script), run_name="__main__") if script else main()
            said = capfd.readouterr()
        assert end.value.code is None or isinstance(end.value.code, int)
        return Ended(words, end.value.code or 0, said.out, said.err)

    return run


@contextmanager
def _warnings_as_of_a_process() -> Iterator[None]:
    """Warnings go to stderr, as Python's own filters have it, and not into pytest's summary."""

    def show(message: Warning | str, category: type[Warning], file: str, line: int, *_: object) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, file, line))

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for unseen in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", unseen)
        warnings.showwarning = show
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if shutil.which("mount") is None:
        pytest.skip("a small disk needs mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk can't be mounted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
