"""Export and parity, for both families, on what really ships."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from export.bundle import ExportOptions, export_bundle
from export.parity.proof import require_passed
from export.parity.prove import BATCH_SIZES
from export.prove_bundle import prove_again
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.files import sha256_of
from toolkit.runs.finished_run import Run, run_of
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.session import Session
from toolkit.runtime.verify import verify
from toolkit.serving.classifier import Classifier


@pytest.fixture
def bundle(finished_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished_bundle, tmp_path / "bundle"))


def test_the_bundle_holds_what_the_contract_says(finished_bundle: Path) -> None:
    for name in ("model.onnx", "preprocess.json", "labels.json", "parity.json", "MODEL_CARD.md", "report.html"):
        assert (finished_bundle / name).stat().st_size > 0, name
    manifest = json.loads((finished_bundle / "manifest.json").read_text())
    on_disk = {p.relative_to(finished_bundle).as_posix() for p in finished_bundle.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == on_disk - {"manifest.json"}
    for name, entry in manifest["files"].items():
        assert entry == {"sha256": sha256_of(finished_bundle / name), "size": (finished_bundle / name).stat().st_size}
    assert {"recipe", "checkpoint_sha256", "data_fingerprint", "training_libraries"} <= set(manifest["provenance"])


def test_parity_passed_at_every_batch_size_within_the_tolerance(finished_bundle: Path) -> None:
    entry = json.loads((finished_bundle / "parity.json").read_text())["results"]["fp32"]["cpu"]
    assert entry["passed"]
    assert entry["batch_sizes"] == list(BATCH_SIZES) == [1, 2, 7, 32]
    assert set(entry["max_abs_logit_by_batch_size"]) == {"1", "2", "7", "32"}
    assert entry["max_abs_logit"] <= entry["tolerance"] == entry["noise_multiple"] * entry["noise_floor"]
    assert entry["top1_agreement"] == 1.0
    assert entry["images"] == 36  # all held-out images: 21 test and 15 validation
    assert entry["top1_agreement_at_least"] == pytest.approx(0.05 ** (1 / 36))  # 36 of 36, exactly
    assert entry["stages"]["preprocess"]["max_pixel_value"] == entry["stages"]["decode"]["max_grey_levels"] == 0
    assert entry["stages"]["embedding_cosine"] == pytest.approx(1, abs=1e-5)
    assert entry["figures"]["accuracy"]["change"] == 0


def test_the_graph_alone_can_be_served(finished_bundle: Path) -> None:
    model = onnx.load(finished_bundle / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["logits", "probabilities"]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param
    for value in model.graph.output:
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    metadata = Session(finished_bundle / "model.onnx").metadata
    assert json.loads(metadata["labels"]) == ["blue", "green", "red"]
    opened = Bundle(finished_bundle)
    assert Preprocess.model_validate_json(metadata["preprocess"]) == opened.preprocess
    provenance = opened.manifest.provenance
    assert json.loads(metadata["provenance"]) == {k: v for k, v in provenance.items() if k != "parity_sha256"}
    assert provenance["parity_sha256"] == sha256_of(finished_bundle / "parity.json")


def test_probabilities_are_the_softmax_of_the_logits_over_the_temperature(
    pixel_bundle: Path, finished_run: Path
) -> None:
    golden = Bundle(pixel_bundle).golden()
    logits, probabilities = Bundle(pixel_bundle).session().run(golden.inputs).values()
    temperature = Run(finished_run).summary["temperature"]
    expected = torch.softmax(torch.from_numpy(logits).double() / temperature, dim=-1).numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)


def test_any_batch_size_gives_the_same_logits(pixel_bundle: Path) -> None:
    session, golden = Bundle(pixel_bundle).session(), Bundle(pixel_bundle).golden()
    whole = session.run(golden.inputs)["logits"]
    for batch_size in (1, 3, 5, 8):
        parts = session.run_batches(golden.inputs, batch_size)["logits"]
        np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_both_inputs_give_the_same_bits(finished_bundle: Path, pixel_bundle: Path) -> None:
    image_bundle, opened = Bundle(finished_bundle), Bundle(pixel_bundle)
    names = [finished_bundle / "golden" / name for name in image_bundle.golden().names]
    by_image, by_pixels = (list(Classifier.open(each).entries(names)) for each in (image_bundle, opened))
    assert by_image == by_pixels


def test_the_same_run_gives_the_same_graph_bytes(finished_run: Path, finished_bundle: Path, tmp_path: Path) -> None:
    export_bundle(Run(finished_run), tmp_path / "again")
    assert sha256_of(tmp_path / "again" / "model.onnx") == sha256_of(finished_bundle / "model.onnx")


def test_more_images_than_there_are_is_an_error_that_leaves_nothing(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="37 held-out images were asked for, but there are 36"):
        export_bundle(Run(finished_run), tmp_path / "bundle", ExportOptions(images=37))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(1, 0, 5, 3), (1, 5, 0, 3), (1, 5, 5, 4), (5, 5, 3)])
def test_an_image_without_pixels_or_of_another_form_is_refused(finished_bundle: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ToolkitError, match=r"image must be uint8 .*with at least one pixel"):
        Bundle(finished_bundle).session(threads=1).run({"image": np.zeros(shape, np.uint8)})


def test_a_processor_that_the_graph_can_not_express_leaves_nothing(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    settings = next(run.glob("best/*processor*.json"))
    content = json.loads(settings.read_text())
    (content.get("image_processor") or content)["resample"] = 1  # lanczos
    settings.write_text(json.dumps(content))
    with pytest.raises(ToolkitError, match="lanczos") as caught:
        export_bundle(Run(run), tmp_path / "bundle")
    assert "--input pixel_values" in caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_golden_images_come_back_as_the_reference_has_them(finished_bundle: Path) -> None:
    opened = Bundle(finished_bundle)
    golden = opened.golden()
    again = opened.preprocess.batch([finished_bundle / "golden" / name for name in golden.names])
    assert np.array_equal(again, golden.inputs["pixel_values"])
    assert verify(finished_bundle)["passed"]


def test_an_existing_bundle_is_refused_and_replaced_when_forced(finished_run: Path, bundle: Path) -> None:
    before = sha256_of(bundle / "manifest.json")
    with pytest.raises(ToolkitError, match="there already"):
        export_bundle(Run(finished_run), bundle)
    assert sha256_of(bundle / "manifest.json") == before
    export_bundle(Run(finished_run), bundle, force=True)
    assert verify(bundle)["passed"]


def test_force_never_replaces_a_folder_that_is_no_bundle(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ToolkitError, match="no bundle"):
        export_bundle(Run(finished_run), tmp_path, force=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def spoil_graph(bundle: Path) -> None:
    """Shift the last bias of the graph by 0.01 and give the file a fresh hash, as a faulty conversion would."""
    model = onnx.load(bundle / "model.onnx")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head.3.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32([0.01, 0, 0]), bias.name))
    onnx.save(model, bundle / "model.onnx")
    Bundle(bundle).update_manifest()


def test_a_graph_that_gives_something_else_fails_parity_and_then_verification(finished_run: Path, bundle: Path) -> None:
    spoil_graph(bundle)
    with pytest.raises(CheckFailed, match="parity failed"):
        require_passed(prove_again(Bundle(bundle), Run(finished_run), provider="cpu", threads=1))
    entry = json.loads((bundle / "parity.json").read_text())["results"]["fp32"]["cpu"]
    assert not entry["passed"]
    assert entry["max_abs_logit"] == pytest.approx(0.01, rel=0.1)
    report = verify(bundle)
    assert not report["passed"]
    assert any("parity.json" in problem for problem in report["problems"])


def test_a_failed_parity_leaves_no_bundle(finished_run: Path, tmp_path: Path) -> None:
    """Finite weights whose logits are infinities that cancel can't be proven, whatever the graph gives."""
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    weights = load_file(run / "best" / "model.safetensors")
    weights["head.0.weight"] *= 1e6
    weights["head.3.weight"][0] = torch.tensor([3e38, -3e38]).repeat(8)
    save_file(weights, run / "best" / "model.safetensors")
    with pytest.raises(CheckFailed, match=r"parity failed.*first node that leaves the tolerance is (logits|head\.3)"):
        export_bundle(Run(run), tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_parity_on_other_images_leaves_the_bundle_as_it_is(finished_run: Path, bundle: Path, color_data: Path) -> None:
    before = sha256_of(bundle / "manifest.json")
    folder = color_data / "train" / "red"
    parity = prove_again(Bundle(bundle), Run(finished_run), provider="cpu", threads=1, folder=folder)
    entry = parity["results"]["fp32"]["cpu"]
    assert (entry["images"], entry["passed"], entry["images_from"]) == (12, True, str(folder))
    assert Bundle(bundle).differences() == []
    assert sha256_of(bundle / "manifest.json") == before


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("summary.json", "garbage", "summary.json"),
        ("summary.json", "{}", "lacks temperature"),
        ("recipe.yaml", "a: b", "unknown key"),
        ("best/config.json", "[]", "damaged checkpoint"),
        ("environment.json", None, "environment.json"),
    ],
)
def test_a_damaged_run_is_said_and_leaves_nothing(
    file: str, content: str | None, says: str, finished_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_text(content)
    with pytest.raises(ToolkitError) as caught:
        export_bundle(Run(run), tmp_path / "bundle")
    assert says in caught.value.as_line()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_changed_file_stops_parity(finished_run: Path, bundle: Path) -> None:
    (bundle / "labels.json").write_bytes((bundle / "labels.json").read_bytes() + b" ")
    with pytest.raises((CheckFailed, ToolkitError), match=r"labels\.json"):
        prove_again(Bundle(bundle), Run(finished_run), provider="cpu", threads=1)


def test_another_checkpoint_is_not_taken_for_the_reference(finished_run: Path, bundle: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(finished_run, tmp_path / "other"))
    weights = load_file(other / "best" / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, other / "best" / "model.safetensors")
    with pytest.raises(ToolkitError, match="not the one in the bundle"):
        run_of(Bundle(bundle), other)
    with pytest.raises(ToolkitError, match="no such run folder"):
        run_of(Bundle(bundle), tmp_path / "gone")
    assert run_of(Bundle(bundle), None).path == finished_run


def test_a_run_without_a_best_checkpoint_is_refused_and_leaves_nothing(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    shutil.rmtree(run / "best")
    with pytest.raises(ToolkitError, match="no trained classifier"):
        export_bundle(Run(run), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_held_out_images_are_never_training_images(finished_run: Path) -> None:
    run = Run(finished_run)
    held_out = {example.path for example in run.held_out(1000)}
    assert held_out == {e.path for split in ("test", "validation") for e in run.data.splits[split]}
    assert len(run.held_out(10)) == 10
    assert {example.label for example in run.held_out(10)} == {0, 1, 2}


def test_golden_reference_is_plain_arrays(finished_bundle: Path) -> None:
    golden = Bundle(finished_bundle).golden()
    assert golden.inputs["pixel_values"].dtype == golden.logits.dtype == np.float32
    assert len(golden.names) == len(golden.inputs["pixel_values"]) == len(golden.logits) == 8
