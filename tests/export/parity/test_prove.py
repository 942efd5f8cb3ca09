from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from export.graph.classifier_graph import build_graph
from export.graph.config import FUSED, config_of
from export.graph.external_data import save_graph
from export.graph.fusion_check import check_nodes
from export.latency.pool import folder_contents
from export.parity.agreement import agreement, changes
from export.parity.float64 import in_float64
from export.parity.prove import BATCH_SIZES, _batches
from export.parity.reference import Reference, noise_floor, noise_places, one_thread
from export.prove_bundle import prove_again
from toolkit.errors import CheckFailed
from toolkit.metrics.split import split_metrics
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decode import UnreadableImageError
from toolkit.runtime.node_profile import ExecutedNode
from toolkit.runtime.session import Session
from toolkit.tasks.task import SINGLE_LABEL

CPU = "CPUExecutionProvider"


@pytest.mark.parametrize("covered", [set(), set(BATCH_SIZES)], ids=["first", "covered"])
@pytest.mark.parametrize("groups", [[[*range(42)]], [[*range(36)]], [[0, 3], [1], [2, 4, 5]], [[0]]])
def test_batches_hold_every_image_and_every_size_has_its_turn(groups: list[list[int]], covered: set[int]) -> None:
    batches = list(_batches(groups, [max(BATCH_SIZES)] * len(groups), covered))
    assert {place for batch in batches for place in batch} == {place for group in groups for place in group}
    for batch in batches:
        assert any(set(batch) <= set(group) for group in groups)
    if covered:
        assert sum(map(len, batches)) == sum(map(len, groups))
    else:
        assert set(BATCH_SIZES) <= {len(batch) for batch in batches}


def test_batches_of_large_images_stay_within_what_fits() -> None:
    large, small = [0, 1, 2], [3, 4]
    batches = list(_batches([large, small], [1, 7], set()))
    assert [batch for batch in batches if batch[0] in large] == [[0], [1], [2]]
    assert {len(batch) for batch in batches if batch[0] in small} == {1, 2, 7}


def test_images_of_many_sizes_and_modes_are_proven(finished_run: Path, finished_bundle: Path, tmp_path: Path) -> None:
    """From the encoded file on: modes, orientations, aspects of 1:50 and 50:1."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    shapes = [(40, 60), (8, 400), (400, 8), (1, 50), (50, 1), (33, 33), (40, 60)]
    for number, (height, width) in enumerate(shapes):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = number % 8 + 1
        for mode, ending in (("RGB", "png"), ("L", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "jpg")):
            image.convert(mode).save(folder / f"{number}-{mode}.{ending}", exif=exif)
    bundle = Path(shutil.copytree(finished_bundle, tmp_path / "bundle"))
    parity = prove_again(Bundle(bundle), Run(finished_run), provider="cpu", threads=1, folder=folder)
    entry = parity["results"]["fp32"]["cpu"]
    assert (entry["passed"], entry["images"], entry["top1_agreement"]) == (True, 5 * len(shapes), 1.0)
    assert entry["stages"]["preprocess"]["max_pixel_value"] == 0
    assert "figures" not in entry  # nobody knows their classes


def test_agreement_counts_flips_by_their_margin() -> None:
    expected = np.array([[3, 1, 0], [1, 1.5, 0], [0, 0, 0.25], [5, 0, 0]], np.float32)
    logits = expected.copy()
    logits[1] = [2, 1, 0]
    logits[2] = [1, 0, 0]
    found = agreement(SINGLE_LABEL.decision, expected, logits, ["a", "b", "c", "d"])
    assert found["top1_agreement"] == 0.5
    assert found["flip_count"] == 2
    assert found["flips"] == [{"image": "b", "margin": 0.5}, {"image": "c", "margin": 0.25}]
    assert (found["largest_flip_margin"], found["smallest_margin"]) == (0.5, 0.25)
    assert found["top1_agreement_at_least"] == pytest.approx(0.0976, abs=1e-4)  # Clopper-Pearson, 2 of 4, one-sided
    patients = ["left", "right", "right", "left"]
    grouped = agreement(SINGLE_LABEL.decision, expected, logits, ["a", "b", "c", "d"], patients)
    assert grouped["top1_agreement_at_least"] < found["top1_agreement_at_least"]  # two patients, one flipped


def test_changes_are_the_graphs_figures_minus_the_references() -> None:
    expected = np.array([[2, 0], [0, 2], [2, 0], [0, 2]], np.float32)
    logits = np.array([[2, 0], [0, 2], [2, 0], [2, 0]], np.float32)
    metrics = changes(SINGLE_LABEL, expected, logits, [0, 1, 0, 1], temperature=2.0)
    assert metrics["accuracy"] == {"reference": 1.0, "graph": 0.75, "change": -0.25}
    assert metrics["nll"]["reference"] == pytest.approx(np.log1p(np.exp(-1)))
    assert metrics["nll"]["change"] == pytest.approx(1 / 4)  # one image: log(1+e) - log(1+1/e) = 1
    assert metrics["expected_calibration_error"]["change"] != 0


@pytest.mark.parametrize("classes", [2, 5])
def test_the_calibration_error_is_trainings(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(301, classes, generator=generator) * 3
    labels = torch.randint(classes, (301,), generator=generator)
    expected = split_metrics(logits, labels, 1.3)["expected_calibration_error"]
    metrics = changes(SINGLE_LABEL, logits.numpy(), logits.numpy(), labels.tolist(), temperature=1.3)
    assert metrics["expected_calibration_error"]["graph"] == expected > 0


@pytest.mark.parametrize(("images", "expected"), [(1, 1), (8, 8), (256, 8), (640, 20), (2624, 64), (100_000, 64)])
def test_the_noise_floor_is_taken_over_more_images_where_more_are_compared(images: int, expected: int) -> None:
    places = noise_places(images)
    assert len(set(places)) == expected
    assert all(0 <= place < images for place in places)
    assert max(places) >= images * (1 - 1 / expected) - 1  # over all of them, not the first ones


def test_the_noise_floor_is_what_pytorch_differs_from_itself(finished_run: Path) -> None:
    reference = Reference(Run(finished_run))
    pixel_values = np.random.default_rng(0).normal(size=(5, 3, 32, 32)).astype(np.float32)
    expected = reference.logits({"pixel_values": pixel_values})
    floor = noise_floor(reference, {"pixel_values": pixel_values}, expected)
    with one_thread():
        alone = reference.logits({"pixel_values": pixel_values}, 7)
    assert floor.reordered == np.abs(alone - expected).max()
    assert floor.rounding == np.abs(expected - floor.truth).max() > 0
    assert floor.largest >= max(floor.reordered, floor.rounding)


def test_float64_group_by_group_is_float64_of_a_copy(finished_run: Path) -> None:
    classifier = Run(finished_run).classifier
    before = {name: values.clone() for name, values in classifier.state_dict().items()}
    pixel_values = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        wanted = copy.deepcopy(classifier).double().reference_logits(pixel_values)
        with in_float64(classifier):
            given = classifier.reference_logits(pixel_values)
    assert given.dtype == torch.float64
    assert torch.equal(given, wanted)
    after = classifier.state_dict()
    assert all(
        values.dtype == after[name].dtype and torch.equal(values, after[name]) for name, values in before.items()
    )


def executed(bundle: Path) -> list[ExecutedNode]:
    opened = Bundle(bundle)
    return Session(bundle / "model.onnx", threads=1, record_nodes=True).executed_nodes(opened.golden().inputs)


def test_the_gate_counts_what_runs(finished_run: Path, pixel_bundle: Path, tmp_path: Path) -> None:
    """What a CPU is given has its norms apart; what CUDA is given has them joined, and runs on a CPU too."""
    classifier, opened = Run(finished_run).classifier, Bundle(pixel_bundle)
    shipped = config_of(onnx.load(pixel_bundle / "model.onnx"))
    counts = check_nodes(executed(pixel_bundle), classifier, "cpu", shipped)
    assert min(counts["attention"], counts["activation"]) >= 3
    assert counts["layer norm with residual"] == counts["integer product"] == 0
    assert opened.parity_results["fp32"]["cpu"]["form"]["joined_norms"] is False
    save_graph(build_graph(classifier, opened.preprocess, {}, "pixel_values", FUSED), tmp_path / "joined.onnx")
    nodes = Session(tmp_path / "joined.onnx", threads=1, record_nodes=True).executed_nodes(opened.golden().inputs)
    assert check_nodes(nodes, classifier, "cpu", FUSED)["layer norm with residual"] == 6


def test_the_gate_names_what_is_not_fused_or_runs_elsewhere(finished_run: Path, pixel_bundle: Path) -> None:
    classifier, nodes = Run(finished_run).classifier, executed(pixel_bundle)
    shipped = config_of(onnx.load(pixel_bundle / "model.onnx"))
    with pytest.raises(CheckFailed, match=r"not run fused.*6 of layer norm with residual, but 0 ran"):
        check_nodes(nodes, classifier, "cpu", FUSED)
    with pytest.raises(CheckFailed, match=r"not run fused.*3 of attention, but 0 ran"):
        check_nodes([node for node in nodes if "Attention" not in node.operator], classifier, "cpu", shipped)
    matmul = next(node for node in nodes if node.operator == "MatMul")
    with pytest.raises(CheckFailed, match=r"elsewhere than on cuda") as caught:
        check_nodes(nodes, classifier, "cuda", shipped)
    assert matmul.name in str(caught.value)


def test_an_image_of_a_folder_that_cannot_be_decoded_is_named(
    finished_run: Path, finished_bundle: Path, color_data: Path, tmp_path: Path
) -> None:
    shutil.copyfile(color_data / "test" / "red" / "00.png", tmp_path / "good.png")
    bad, bundle = tmp_path / "cut.png", Bundle(finished_bundle)
    bad.write_bytes((color_data / "test" / "red" / "00.png").read_bytes()[:-30])
    for look in (
        lambda: prove_again(bundle, Run(finished_run), provider="cpu", threads=None, folder=tmp_path),
        lambda: folder_contents(tmp_path, bundle.preprocess),
    ):
        with pytest.raises(UnreadableImageError) as caught:
            look()
        assert caught.value.where == str(bad)
