"""Several labels an image, from the manifest to the bundle: loss, temperatures, thresholds, graph, predictions."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet
import pytest
import torch
import tritonclient.grpc
import tritonclient.http
from onnx import numpy_helper
from server_process import serving
from torch.nn import functional
from typer.testing import CliRunner

import toolkit
from export.bundle import ExportOptions, export_bundle
from recipes.finetune import finetune
from toolkit.cli.main import app
from toolkit.data.shapes import MANIFEST, SHAPES, write_shapes
from toolkit.errors import ToolkitError
from toolkit.models.processing import preprocess_from
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.training import ThresholdsConfig, TrainingConfig
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decision import EachLabel
from toolkit.runtime.label_thresholds import LabelThresholds
from toolkit.runtime.manifest import write_manifest
from toolkit.runtime.verify import verify
from toolkit.tasks.label_set_loss import LabelSetLoss, positive_weights
from toolkit.tasks.registry import TASKS
from toolkit.tasks.temperature import fit_temperature
from toolkit.training.explain import explain
from toolkit.training.label_thresholds import choose_thresholds
from toolkit.training.mixing import Mix

TASK = TASKS["multi-label"]
LOGITS = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) * 3
LABELS = (torch.rand(9, 4, generator=torch.Generator().manual_seed(1)) < 0.4).long()


def config_of(**keys: Any) -> TrainingConfig:
    return TrainingConfig(epochs=1, **keys)


def test_without_any_key_the_loss_is_binary_cross_entropy() -> None:
    expected = functional.binary_cross_entropy_with_logits(LOGITS, LABELS.float(), reduction="none").sum(-1)
    torch.testing.assert_close(LabelSetLoss(config_of())(LOGITS, LABELS), expected)


def test_weights_are_torchs_positive_weights() -> None:
    weights = torch.tensor([0.5, 2.0, 1.0, 7.0])
    expected = functional.binary_cross_entropy_with_logits(
        LOGITS, LABELS.float(), pos_weight=weights, reduction="none"
    ).sum(-1)
    torch.testing.assert_close(LabelSetLoss(config_of(), weights)(LOGITS, LABELS), expected)


def test_the_asymmetric_loss_is_the_published_formula() -> None:
    config = config_of(positive_gamma=1, negative_gamma=4, negative_clip=0.05)
    p = LOGITS.double().sigmoid()
    shifted = (p - 0.05).clamp(min=0)
    expected = torch.where(LABELS > 0, -(1 - p) * p.log(), -(shifted**4) * (1 - shifted).log()).sum(-1)
    torch.testing.assert_close(LabelSetLoss(config)(LOGITS, LABELS).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 4.0])
def test_a_certain_answer_has_a_finite_slope(clip: float, gamma: float) -> None:
    logits = torch.tensor([[120.0, -120.0], [-120.0, 120.0]], requires_grad=True)
    loss = LabelSetLoss(config_of(negative_gamma=gamma, positive_gamma=gamma, negative_clip=clip))
    found = loss(logits, torch.tensor([[1, 0], [1, 0]]))
    found.sum().backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(found).all())
    assert bool(torch.isfinite(logits.grad).all())


def test_a_mixed_image_counts_for_the_labels_of_both() -> None:
    loss, partners = LabelSetLoss(config_of(negative_gamma=2)), [3, 0, 1, 2, 6, 4, 5, 8, 7]
    expected = 0.7 * loss(LOGITS, LABELS) + 0.3 * loss(LOGITS, LABELS[partners])
    torch.testing.assert_close(loss(LOGITS, LABELS, Mix(partners, 0.7)), expected)


def test_balanced_weights_give_both_answers_of_a_label_the_same_weight() -> None:
    shown = torch.tensor([[1, 0], [0, 1], [0, 1], [0, 1]])
    weights = positive_weights("balanced", ["a", "b"], shown, torch.device("cpu"))
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([3.0, 1 / 3]))
    given = positive_weights({"b": 5.0, "a": 1.0}, ["a", "b"], shown, torch.device("cpu"))
    assert given is not None
    assert given.tolist() == [1.0, 5.0]
    with pytest.raises(ToolkitError, match="differ in: b, c"):
        positive_weights({"a": 1.0, "c": 1.0}, ["a", "b"], shown, torch.device("cpu"))
    with pytest.raises(ToolkitError, match="every training image shows a"):
        positive_weights("balanced", ["a", "b"], torch.tensor([[1, 0], [1, 1]]), torch.device("cpu"))


@pytest.mark.parametrize("keys", [{"label_smoothing": 0.1}, {"focal_gamma": 2.0}, {"sampling": "balanced"}])
def test_keys_of_one_class_an_image_are_refused_by_name(keys: dict[str, Any]) -> None:
    with pytest.raises(ToolkitError, match=next(iter(keys))) as caught:
        TASK.loss(config_of(**keys), ["a", "b"], torch.tensor([[1, 0]]), torch.device("cpu"))
    assert caught.value.where == f"training.{next(iter(keys))}"


def spoiled(factors: list[float], images: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of labels, each times a factor that spoils its calibration."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, len(factors), generator=generator) * 2 - 1
    labels = (torch.rand(logits.shape, generator=generator) < logits.sigmoid()).long()
    return logits * torch.tensor(factors), labels


def test_labels_that_differ_get_temperatures_of_their_own() -> None:
    found = TASK.temperature(*spoiled([0.5, 1.0, 3.0]))
    assert found == pytest.approx([0.5, 1.0, 3.0], rel=0.15)


def test_labels_that_are_alike_get_the_one_that_all_answers_fit() -> None:
    logits, labels = spoiled([2.0, 2.0, 2.0, 2.0, 2.0, 2.0], images=60)
    found = TASK.temperature(logits, labels)
    assert isinstance(found, list)
    assert len(set(found)) == 1
    yes = logits.flatten()
    common = fit_temperature(torch.stack([torch.zeros_like(yes), yes], 1), labels.flatten())
    assert found[0] == pytest.approx(common)


def test_a_prior_of_each_label_moves_with_its_logits() -> None:
    logits, labels = spoiled([1.0, 2.0], images=200)
    scale = torch.tensor([5.0, 0.2])
    before, after = TASK.temperature(logits, labels), TASK.temperature(logits * scale, labels, scale.tolist())
    assert after == pytest.approx((np.array(before) * scale.numpy()).tolist(), rel=1e-3)


def test_a_decision_is_the_comparison_of_single_precision() -> None:
    cut = float(np.float32(0.1))
    below = np.nextafter(np.float32(0.1), np.float32(0))
    decision = EachLabel(LabelThresholds(cuts=(cut, None)))
    logits = np.array([[cut, 1e30], [below, 5.0]], np.float32)
    assert decision.decide(logits).tolist() == [[True, False], [False, False]]
    assert decision.margins(logits).tolist() == [0.0, pytest.approx(cut - below)]
    assert decision.right(logits, np.array([[1, 0], [1, 0]])).tolist() == [True, False]
    assert decision.agree(logits, logits[::-1]).tolist() == [False, False]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, images=500)
    return folder / MANIFEST


def recipe_of(shapes: Path, *, plots: bool = False, **training: Any) -> Recipe:
    content = {
        "data": {"path": shapes, "columns": {"labels": "labels"}},
        "model": {"task": "multi-label", "unfreeze_last": 1, "head": {"type": "linear"}},
        "training": {"epochs": 8, "learning_rate": 2e-3, "head_learning_rate": 6e-3, "batch_size": 16} | training,
        "tracking": {"trackers": [], "plots": plots},
    }
    return Recipe.model_validate(content)


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "shapes"
    finetune(recipe_of(shapes, plots=True, boundary_cache={"enabled": True}), out)
    return Run(out)


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "shapes"
    export_bundle(run, out)
    return out


def test_it_learns_and_says_what_each_label_reaches(run: Run) -> None:
    test = run.summary["test"]
    assert test["average_precision"] > 0.75  # 0.24 by chance
    assert run.recipe.training.select_by == "average_precision"  # type: ignore[union-attr]
    assert set(test["per_class"]) == set(SHAPES)
    low, high = test["intervals"]["micro_f1"]
    assert low <= test["micro_f1"] <= high
    assert len(run.summary["temperature"]) == len(SHAPES)
    assert run.summary["confusion_matrix"] is None
    thresholds = run.summary["thresholds"]
    assert thresholds["aim"] == {"f1": "best"}
    for each, temperature in zip(thresholds["labels"].values(), run.summary["temperature"], strict=True):
        assert each["probability"] == pytest.approx(1 / (1 + np.exp(-each["cut"] / temperature)))
    entries = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "accuracy", "average_precision"} <= set(next(e for e in entries if e["split"] == "validation"))
    for plot in ("labels", "label_reliability", "precision_recall", "roc", "worst_errors", "curves"):
        assert (run.path / "plots" / f"{plot}.png").is_file()


def test_predictions_of_the_test_split_are_decided_as_production_will(run: Run) -> None:
    with (run.path / "test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    logits = np.array([[float(row[f"logit:{name}"]) for name in SHAPES] for row in rows], np.float32)
    said = run.decision.decide(logits)
    assert [row["predicted"] for row in rows] == [
        ", ".join(name for name, there in zip(SHAPES, row, strict=True) if there) for row in said
    ]
    accuracy = np.mean([row["predicted"] == row["label"] for row in rows])
    assert accuracy == pytest.approx(run.summary["test"]["accuracy"])


def test_cached_and_uncached_runs_are_the_same(shapes: Path, tmp_path: Path) -> None:
    for name, enabled in (("cached", True), ("uncached", False)):
        finetune(recipe_of(shapes, epochs=2, boundary_cache={"enabled": enabled}), tmp_path / name)
    cached, uncached = (Run(tmp_path / name) for name in ("cached", "uncached"))
    for name, tensor in cached.classifier.state_dict().items():
        assert tensor.equal(uncached.classifier.state_dict()[name]), name
    assert uncached.summary["test"] == cached.summary["test"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_graph_decides_as_the_runtime_does_to_the_bit(precision: str, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    entry = export_bundle(run, out, ExportOptions(precisions=[precision]))["results"][precision]["cpu"]
    assert entry["passed"]
    assert entry["decisions_identical"]
    opened = Bundle(out)
    graph = onnx.load(out / opened.graph_name())
    (given,) = (value for value in graph.graph.output if value.name == "decisions")
    assert given.type.tensor_type.elem_type == onnx.TensorProto.BOOL
    session = opened.session(threads=1)
    assert session.outputs == ["logits", "probabilities", "decisions"]
    side = 64
    images = np.random.default_rng(0).integers(0, 256, (40, side, side, 3)).astype(np.uint8)
    outputs = session.run({"image": images})
    np.testing.assert_array_equal(outputs["decisions"], opened.decision.decide(outputs["logits"]))
    scale = np.array(opened.temperature(precision))
    expected = 1 / (1 + np.exp(-outputs["logits"].astype(np.float64) / scale))
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    report = verify(out)
    assert report["passed"], report["problems"]
    assert report["decisions_identical"]


def test_what_production_says_is_what_the_graph_decided(bundle: Path, run: Run) -> None:
    examples = run.held_out(30)
    with toolkit.load(bundle, threads=1) as classifier:
        predictions = classifier.predict([example.read() for example in examples])
    decision = run.decision
    hits = []
    for prediction, example in zip(predictions, examples, strict=True):
        said = decision.decide(prediction.logits[None])[0]
        assert prediction.labels == [name for name, there in zip(SHAPES, said, strict=True) if there]
        assert prediction.label == SHAPES[int(prediction.logits.argmax())]
        assert prediction.probability == prediction.probabilities[prediction.label]
        shown = [name for name, there in zip(SHAPES, example.label, strict=True) if there]  # type: ignore[arg-type]
        hits.append(prediction.labels == shown)
    assert np.mean(hits) > 0.3


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_predictions_are_written_in_every_format(bundle: Path, shapes: Path, tmp_path: Path) -> None:
    folder = shapes.parent / "images"
    done = command("predict", bundle, folder / "0000.png", folder / "0001.png", "--json")
    assert done.exit_code == 0, done.output
    entries = json.loads(done.stdout)["predictions"]
    assert [set(entry) for entry in entries] == [{"path", "label", "labels", "probabilities"}] * 2
    for suffix in ("csv", "jsonl", "parquet"):
        done = command("predict", bundle, folder / "0000.png", folder / "0001.png", "--out", tmp_path / f"out.{suffix}")
        assert done.exit_code == 0, done.output
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [json.loads(row["labels"]) for row in csv.DictReader(file)] == [entry["labels"] for entry in entries]
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["labels"] for row in table] == [entry["labels"] for entry in entries]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == entries


def test_an_evaluation_finds_what_the_run_found(bundle: Path, run: Run, shapes: Path, tmp_path: Path) -> None:
    found = toolkit.evaluate(bundle, data=shapes, out=tmp_path / "out")
    test = run.summary["test"]
    for name in ("accuracy", "micro_f1", "macro_f1", "average_precision", "auroc", "nll"):
        assert getattr(found, name) == pytest.approx(test[name], abs=1e-3)
    assert found.per_class["circle"].intervals["recall"] == pytest.approx(
        test["per_class"]["circle"]["intervals"]["recall"], abs=1e-3
    )
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "mean average precision" in page
    assert (tmp_path / "out" / "plots" / "labels.png").is_file()
    done = command("evaluate", bundle, "--data", shapes, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["thresholds"].keys() == set(SHAPES)
    with pytest.raises(ToolkitError, match=r"one class an image, and data\.columns\.labels asks"):
        toolkit.evaluate(bundle, data=shapes.parent)


def test_the_pages_say_what_is_decided_and_why(bundle: Path) -> None:
    card, report = ((bundle / name).read_text() for name in ("MODEL_CARD.md", "report.html"))
    for page in (card, report):
        assert "7 labels an image shows" in page
        assert "the best F1" in page
    assert "decisions: bool" in (bundle / "bom.json").read_text()


def test_a_recipe_is_explained_and_its_data_checked(shapes: Path) -> None:
    found = explain(recipe_of(shapes))
    assert found["data"]["classes"] == len(SHAPES)
    assert found["seconds"]["training"] > 0
    done = command("data", "check", shapes, "columns.labels=labels")
    assert done.exit_code == 0, done.output
    assert "images have none" in done.output
    assert "seen together: circle and ring" in done.output


def test_triton_is_told_that_decisions_are_yes_or_no(bundle: Path, tmp_path: Path) -> None:
    toolkit.export_triton(bundle, out=tmp_path / "models", threads=1)
    config = (tmp_path / "models" / "shapes" / "config.pbtxt").read_text()
    output = config[config.index('name: "decisions"') :]
    assert output.split("\n")[1].strip() == "data_type: TYPE_BOOL"
    assert config.count("label_filename") == 2


def sealed(bundle: Path, out: Path, **changes: Any) -> Path:
    """A copy of a bundle whose manifest says something else, and whose hashes fit."""
    shutil.copytree(bundle, out)
    manifest = Bundle(out).manifest
    for name, value in changes.items():
        setattr(manifest, name, value)
    write_manifest(out, manifest)
    return out


def test_thresholds_that_were_tampered_with_are_found(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle(bundle)
    assert opened.manifest.thresholds is not None
    cuts = opened.manifest.thresholds.cuts
    plain = tmp_path / "plain"
    shutil.copytree(bundle, plain)
    text = (plain / "manifest.json").read_text()
    (plain / "manifest.json").write_text(text.replace(str(cuts[0]), "17.0"))
    assert verify(plain)["problems"] == ["manifest.json was changed"]
    other = LabelThresholds(cuts=(17.0, *cuts[1:]))
    with pytest.raises(ToolkitError, match="differs from the graph's thresholds"):
        verify(sealed(bundle, tmp_path / "other", thresholds=other))
    with pytest.raises(ToolkitError, match="differs from the graph's thresholds"):
        verify(sealed(bundle, tmp_path / "none", thresholds=None))
    with pytest.raises(ToolkitError, match="6 thresholds, and 7 labels"):
        _ = Bundle(sealed(bundle, tmp_path / "few", thresholds=LabelThresholds(cuts=cuts[1:]))).decision
    with pytest.raises(ToolkitError, match="says one class an image, and has thresholds"):
        _ = Bundle(sealed(bundle, tmp_path / "task", task="single-label")).decision


def test_a_graph_that_decides_otherwise_than_its_thresholds_say_fails_verification(
    bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(bundle, out)
    graph = onnx.load(out / "model.onnx")
    (cuts,) = (each for each in graph.graph.initializer if each.name == "decisions/cuts")
    cuts.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(cuts) - 100, cuts.name))
    onnx.save(graph, out / "model.onnx")
    write_manifest(out, Bundle(out).manifest)
    assert verify(out)["problems"] == ["the graph in fp32 decides otherwise than its logits at the bundle's thresholds"]
    node = next(each for each in graph.graph.node if each.name == "decisions")
    graph.graph.node.remove(node)
    graph.graph.output.remove(next(each for each in graph.graph.output if each.name == "decisions"))
    onnx.save(graph, out / "model.onnx")
    write_manifest(out, Bundle(out).manifest)
    with pytest.raises(ToolkitError, match="the graph lacks the output decisions"):
        verify(out)


def test_an_aim_that_validation_cannot_reach_names_the_label_and_goes_on_with_another(
    shapes: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(shapes, epochs=1, thresholds={"precision": 0.99})
    with pytest.raises(
        ToolkitError, match=r"no threshold of the label '\w+' \(and of \d more labels\) holds"
    ) as caught:
        finetune(recipe, tmp_path / "run")
    assert "the best lower bound is 0." in caught.value.what
    assert caught.value.where == "training.thresholds.precision"
    assert not (tmp_path / "run" / "summary.json").exists()
    never = recipe_of(shapes, epochs=1, thresholds={"precision": 0.99, "unreachable": "never"})
    summary = finetune(never, tmp_path / "run", resume=True)
    labels = summary["thresholds"]["labels"]
    unreached = [name for name, each in labels.items() if each["cut"] is None]
    assert unreached
    assert all(summary["test"]["per_class"][name]["said"] == 0 for name in unreached)
    assert all(summary["test"]["per_class"][name]["precision"] is None for name in unreached)
    export_bundle(Run(tmp_path / "run"), tmp_path / "bundle")
    assert verify(tmp_path / "bundle")["passed"]
    with toolkit.load(tmp_path / "bundle", threads=1) as classifier:
        said = classifier.predict(shapes.parent / "images" / "0000.png").labels
    assert said is not None
    assert not set(said) & set(unreached)
    assert "Never said" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()


def test_a_precision_that_is_aimed_at_holds_on_the_test_split_within_its_interval(run: Run) -> None:
    logits = {split: _logits(run, split) for split in ("validation", "test")}
    aim = ThresholdsConfig(precision=0.6, unreachable="never")
    chosen = choose_thresholds(aim, run.data, logits)
    assert chosen is not None
    test = run.classifier.task.scores(logits["test"], run.data.labels("test"), run.summary["temperature"]).at(
        chosen.array()
    )
    reached = [name for name, cut in zip(SHAPES, chosen.cuts, strict=True) if cut is not None]
    assert len(reached) >= 4
    for name in reached:
        assert test.class_metrics(list(SHAPES))[name]["intervals"]["precision"][1] >= 0.6


def _logits(run: Run, split: str) -> np.ndarray:
    preprocess = preprocess_from(run.processor)
    pixels = np.stack([preprocess(example.decode()) for example in run.data.splits[split]])
    with torch.inference_mode():
        return run.classifier(torch.from_numpy(pixels)).numpy()


def test_a_recipe_and_its_data_must_mean_the_same(shapes: Path, tmp_path: Path) -> None:
    content = recipe_of(shapes).model_dump(mode="json")
    content["model"]["task"] = "single-label"
    with pytest.raises(ToolkitError, match=r"model\.task single-label takes one class an image") as caught:
        finetune(Recipe.model_validate(content), tmp_path / "run")
    assert caught.value.where == "data.columns.labels"
    content = recipe_of(shapes).model_dump(mode="json")
    content["data"]["columns"] = {}
    with pytest.raises(ToolkitError, match=r"model\.task multi-label takes several labels an image"):
        finetune(Recipe.model_validate(content), tmp_path / "run")


def test_a_server_gives_decisions_and_labels(bundle: Path, shapes: Path, tmp_path: Path) -> None:
    photo = (shapes.parent / "images" / "0003.png").read_bytes()
    with toolkit.load(bundle, threads=1) as classifier:
        prediction = classifier.predict(photo)
    assert prediction.labels is not None
    with serving(tmp_path / "log", bundle) as server:
        server.until_ready()
        answer = server.ask("POST", "/predict", photo, {"content-type": "image/png"}).json()["predictions"][0]
        assert (answer["labels"], answer["label"]) == (prediction.labels, prediction.label)
        metadata = server.ask("GET", "/v2/models/shapes").json()
        assert {"name": "decisions", "datatype": "BOOL", "shape": [-1, 7]} in metadata["outputs"]
        for client, address in (
            (tritonclient.http, server.address),
            (tritonclient.grpc, f"127.0.0.1:{server.grpc_port}"),
        ):
            given = client.InferInput("image", [1], "BYTES")
            given.set_data_from_numpy(np.array([photo], object))
            wanted = [client.InferRequestedOutput("decisions"), client.InferRequestedOutput("logits")]
            with client.InferenceServerClient(address) as connection:
                found = connection.infer("shapes", [given], outputs=wanted)
                decisions = found.as_numpy("decisions")
            assert decisions.dtype == bool
            assert [name for name, there in zip(SHAPES, decisions[0], strict=True) if there] == prediction.labels
        as_json = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [0] * 192}]}
        outputs = {
            each["name"]: each for each in server.post_json("/v2/models/shapes/infer", as_json).json()["outputs"]
        }
        assert outputs["decisions"]["datatype"] == "BOOL"
        assert set(outputs["decisions"]["data"]) <= {True, False}
