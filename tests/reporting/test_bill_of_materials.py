from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from toolkit.files import sha256_of
from toolkit.models.encoder_origin import encoder_origin
from toolkit.recipe.model import ModelConfig
from toolkit.reporting.bill_of_materials import BOM, bill_of_materials
from toolkit.reporting.model_card import card_metadata
from toolkit.reporting.pages import pages
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.verify import verify

HASHES = {"model.onnx": "0" * 64, "labels.json": "1" * 64}


def fault_in(bill: str) -> object:
    """What the schema of CycloneDX 1.6 finds, in which no unknown key may stand; None for a valid bill."""
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill)


@pytest.fixture
def bundle(finished_bundle: Path) -> Bundle:
    return Bundle(finished_bundle)


def model(encoder: str) -> ModelConfig:
    return ModelConfig(encoder=encoder, unfreeze_last=1)


def bill_of(bundle: Bundle, labels: list[str] | None = None) -> dict[str, Any]:
    text = bill_of_materials(bundle.manifest, labels or bundle.labels, bundle.parity, HASHES)
    assert fault_in(text) is None
    found: dict[str, Any] = json.loads(text)
    return found


def test_an_exported_bundle_has_a_valid_bill_that_names_its_graphs_and_metrics(bundle: Bundle) -> None:
    text = (bundle.path / BOM).read_text("utf-8")
    assert fault_in(text) is None
    assert fault_in(text.replace('"modelCard"', '"modelcard"')) is not None
    bill, origin = json.loads(text), bundle.manifest.provenance
    model = bill["metadata"]["component"]
    assert (model["type"], bill["metadata"]["timestamp"]) == ("machine-learning-model", bundle.manifest.created)
    hashes = {each["name"]: each["hashes"][0]["content"] for each in model["components"]}
    assert set(hashes) == {"model.onnx", "labels.json", "preprocess.json"}
    assert hashes == {name: sha256_of(bundle.path / name) for name in hashes}
    card = model["modelCard"]
    assert card["modelParameters"]["architectureFamily"] == origin["encoder"]["family"]
    whole = {each["type"]: each for each in card["quantitativeAnalysis"]["performanceMetrics"]}
    accuracy, test = whole["accuracy"], origin["figures"]["test"]
    assert float(accuracy["value"]) == pytest.approx(test["accuracy"], abs=1e-5)
    bounds = [float(accuracy["confidenceInterval"][name]) for name in ("lowerBound", "upperBound")]
    assert bounds == pytest.approx(test["intervals"]["accuracy"], abs=1e-5)
    assert whole["top1_agreement"]["slice"].startswith("fp32 graph on cpu")
    versions = {each["name"]: each["version"] for each in bill["components"] if each["type"] == "library"}
    assert (
        versions.items()
        >= {name: found for name, found in origin["export_libraries"].items() if name != "python"}.items()
    )


def test_every_reference_of_a_bill_leads_somewhere(bundle: Bundle) -> None:
    bill = bill_of(bundle)
    names = [part["bom-ref"] for part in bill["components"]] + [bill["metadata"]["component"]["bom-ref"]]
    assert len(set(names)) == len(names)
    assert {each["ref"] for each in bill["dependencies"]} == set(names)
    needed = bill["dependencies"][0]["dependsOn"]
    assert set(needed) <= set(names)
    assert {"encoder", "data"} < set(needed)
    assert [name for name in needed if "onnxruntime" in name]
    assert not [name for name in needed if "torch" in name]


def test_the_serial_number_is_that_of_the_content_and_no_clocks(bundle: Bundle) -> None:
    first = bill_of(bundle)
    bundle.manifest.created = "2031-01-01T00:00:00+00:00"
    later = bill_of(bundle)
    assert later["serialNumber"] == first["serialNumber"]
    assert later["metadata"].pop("timestamp") != first["metadata"].pop("timestamp")
    assert later == first
    assert bill_of(bundle, [*bundle.labels, "another"])["serialNumber"] != first["serialNumber"]


def test_a_measurement_writes_the_bill_anew_and_the_bundle_stays_whole(bundle: Bundle, tmp_path: Path) -> None:
    from export.change import change

    copy = Bundle(Path(shutil.copytree(bundle.path, tmp_path / "copy")))
    (copy.path / BOM).unlink()
    with change(copy):
        pass
    assert (copy.path / BOM).read_text("utf-8") == pages(bundle.path, bundle.manifest)[BOM]
    assert verify(copy.path)["passed"]
    (copy.path / BOM).write_text("{}")
    assert verify(copy.path)["problems"] == [f"{BOM} was changed"]


def test_a_run_without_labelled_images_says_so(bundle: Bundle) -> None:
    origin = bundle.manifest.provenance
    origin["recipe"] |= {"data": None, "method": "zero-shot"}
    origin |= {"figures": {}, "data": {}, "data_fingerprint": None}
    bill = bill_of(bundle)
    card = bill["metadata"]["component"]["modelCard"]
    assert "approach" not in card["modelParameters"]
    assert card["modelParameters"]["datasets"] == []
    assert card["considerations"]["technicalLimitations"][0].startswith("not measured")
    assert [each["bom-ref"] for each in bill["components"]][:1] == ["encoder"]
    assert "data" not in {each["bom-ref"] for each in bill["components"]}


def test_names_of_any_kind_and_metrics_that_are_none_keep_it_valid(bundle: Bundle) -> None:
    origin = bundle.manifest.provenance
    origin["data"] = {"name": 'a "b" <c>\x1b\udcff', "licence": "CC BY-NC-SA 4.0"}
    origin["figures"]["test"]["auroc"] = float("nan")
    bill = bill_of(bundle)
    data = next(each for each in bill["components"] if each["type"] == "data")
    assert data["licenses"] == [{"license": {"id": "CC-BY-NC-SA-4.0"}}]
    metrics = bill["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert "auroc" not in {each["type"] for each in metrics}


def test_the_encoders_page_and_licence(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    known = encoder_origin(model("google/siglip-base-patch16-224"), "siglip")
    assert known["licence"] == "apache-2.0"
    assert known["page"] == "https://huggingface.co/google/siglip-base-patch16-224"
    assert encoder_origin(model("some/model"), "vit") == {
        "family": "vit",
        "page": "https://huggingface.co/some/model",
        "licence": None,
    }
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "some" / "model"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert encoder_origin(model("some/model"), "vit") == {"family": "vit", "page": None, "licence": "mit"}
    origin = bundle.manifest.provenance
    origin["recipe"]["model"]["encoder"] = "some/model"
    assert "base_model" not in card_metadata(origin, bundle.labels)
    origin["recipe"]["model"]["encoder"] = "another/model"
    assert "base_model: another/model" in card_metadata(origin, bundle.labels)
    origin["encoder"] = known
    encoder = bill_of(bundle)["components"][0]
    assert encoder["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert encoder["externalReferences"] == [{"type": "model-card", "url": known["page"]}]
