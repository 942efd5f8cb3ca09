from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import planted
import pytest

from export.parity.bisect import first_fault
from export.prove_bundle import bisect_bundle, prove_again
from toolkit.files import sha256_of, write_json
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle

FAULTS = {
    planted.wrong_epsilon: ("layers.1.layer_norm2", "layers.1.layer_norm2"),
    planted.overflowing_fp16: ("layers.1.mlp.fc1/MatMul", "layers.1.mlp.fc1"),
    planted.swapped_mean_and_std: ("pixel_values", "normalize"),
    planted.wrong_crop: ("preprocess.resized", "center_crop"),
    planted.other_weight: ("layers.0.self_attn.out_proj/input", "layers.0.self_attn"),
}
"""The node and the module, by their ends, that each fault must be found at."""


@pytest.fixture
def bundle(finished_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found_at_its_node_and_module(
    fault: Callable[[onnx.ModelProto], None], finished_run: Path, bundle: Path
) -> None:
    planted.plant(bundle, fault)
    node, module = FAULTS[fault]
    report = bisect_bundle(Bundle(bundle), Run(finished_run), provider="cpu", threads=1)
    preprocess = Bundle(bundle).preprocess
    if fault is planted.swapped_mean_and_std and preprocess.mean == preprocess.std:
        assert report["first_fault"] is None  # SigLIP's are equal, so that nothing is wrong
        return
    if fault is planted.wrong_crop and preprocess.crop is None:
        module = "resize"  # SigLIP does not crop: the cut belongs to the resize
    assert report["first_fault"]["node"].endswith(node)
    assert report["first_fault"]["module"].endswith(module)
    assert report["first_fault"]["error"] is None or report["first_fault"]["error"] > report["first_fault"]["tolerance"]
    assert (report["first_fault"]["error"] is None) == (fault is planted.overflowing_fp16)  # infinite
    assert node in first_fault(report)
    assert json.loads(json.dumps(report)) == report
    assert Bundle(bundle).differences() == []


@pytest.mark.parametrize("finished_run", ["clip", pytest.param("siglip", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_parity_fails_on_every_planted_fault(
    fault: Callable[[onnx.ModelProto], None], finished_run: Path, bundle: Path
) -> None:
    planted.plant(bundle, fault)
    parity = prove_again(Bundle(bundle), Run(finished_run), provider="cpu", threads=1)
    preprocess = Bundle(bundle).preprocess
    harmless = fault is planted.swapped_mean_and_std and preprocess.mean == preprocess.std
    assert parity["results"]["fp32"]["cpu"]["passed"] == harmless


@pytest.mark.parametrize("graph_input", ["image", "pixel_values"])
def test_a_sound_bundle_has_no_fault(
    graph_input: str, finished_run: Path, finished_bundle: Path, pixel_bundle: Path
) -> None:
    path = finished_bundle if graph_input == "image" else pixel_bundle
    before = sha256_of(path / "manifest.json")
    report = bisect_bundle(Bundle(path), Run(finished_run), provider="cpu", threads=1)
    assert report["first_fault"] is None
    assert report["closest"]["error"] <= report["closest"]["tolerance"]
    assert report["tensors"] > 30
    assert "all" in first_fault(report)
    assert sha256_of(path / "manifest.json") == before


@pytest.mark.parametrize(
    ("change", "stage"), [({"mean": (0.2, 0.2, 0.2)}, "normalize"), ({"resample": "bilinear"}, "resize")]
)
def test_a_fault_of_the_preprocessing_outside_the_graph_is_found(
    change: dict[str, object], stage: str, finished_run: Path, pixel_bundle: Path, tmp_path: Path
) -> None:
    """The same wrong value in preprocess.json and in the graph's metadata, as one bug would write it."""
    bundle = Path(shutil.copytree(pixel_bundle, tmp_path / "bundle"))
    wrong = Bundle(bundle).preprocess.model_copy(update=change)
    write_json(bundle / "preprocess.json", wrong.model_dump(mode="json"))

    def rewrite(model: onnx.ModelProto) -> None:
        (entry,) = (entry for entry in model.metadata_props if entry.key == "preprocess")
        entry.value = wrong.model_dump_json()

    planted.plant(bundle, rewrite)
    fault = bisect_bundle(Bundle(bundle), Run(finished_run), provider="cpu", threads=1)["first_fault"]
    assert fault["node"] == f"preprocess.json: {stage}"
    assert fault["module"].endswith(f"ImageProcessorPil.{stage}")
