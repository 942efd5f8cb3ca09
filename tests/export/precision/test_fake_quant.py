"""Graphs in int8: the same integers as PyTorch computes, whatever the batch, and faults are found."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from one_family import one_family
from onnx import numpy_helper

from export.graph.classifier_graph import build_graph
from export.graph.config import GraphConfig, config_of
from export.graph.fusion_check import check_nodes
from export.graph.preprocessing import RESIZED
from export.parity.bisect import bisect
from export.parity.prove import prove
from export.parity.reference import Reference
from export.precision.fake_quant import quantized_classifier
from export.precision.precision_reference import STEPS_MULTIPLE, PrecisionReference
from export.selection.search import PrecisionSearch
from toolkit.errors import CheckFailed
from toolkit.models.processing import preprocess_from
from toolkit.runs.finished_run import Run
from toolkit.runtime.node_profile import ExecutedNode
from toolkit.runtime.precision import SPECS
from toolkit.runtime.session import Session


@pytest.fixture(scope="module")
def candidates(finished_run: Path) -> PrecisionSearch:
    return PrecisionSearch(Run(finished_run), provider="cpu", threads=1)


@pytest.fixture(scope="module")
def configs(candidates: PrecisionSearch) -> dict[str, GraphConfig]:
    """By what they are: static or dynamic, per channel or matrix, with patches or not."""
    named = {}
    for config in candidates.configs.base():
        q = config.quantization
        patches = any("patch" in name for name in q.matmuls)
        named[f"{q.activations} {'channel' if q.per_channel else 'matrix'}{' patches' if patches else ''}"] = config
    return named


FORMS = ["static channel patches", "static channel", "static matrix patches", "dynamic channel", "dynamic matrix"]


def pixel_values_of(run: Run, count: int = 8) -> np.ndarray[Any, np.dtype[np.float32]]:
    preprocess = preprocess_from(run.processor)
    return np.stack([preprocess(example.decode()) for example in run.held_out(count)])


@pytest.mark.parametrize("name", FORMS)
@torch.inference_mode()
def test_the_graph_computes_the_integers_that_pytorch_computes(
    name: str, candidates: PrecisionSearch, configs: dict[str, GraphConfig]
) -> None:
    """Up to values at the border of two steps; another rounding of the weights would be far off."""
    run, config = candidates.run, configs[name]
    pixel_values = pixel_values_of(run)
    logits = candidates.measured.session(config).run({"pixel_values": pixel_values})["logits"]
    own = PrecisionReference.of(run.classifier, candidates.validation.preprocess, config)
    expected, floor = own.logits({"pixel_values": pixel_values}), own.steps({"pixel_values": pixel_values})
    assert np.abs(logits - expected).max() <= STEPS_MULTIPLE * floor
    coarse = quantized_classifier(
        run.classifier, candidates.validation.preprocess, config.quantization.model_copy(update={"weight_bits": 4})
    )
    assert np.abs(logits - coarse(torch.from_numpy(pixel_values)).numpy()).max() > STEPS_MULTIPLE * floor


def test_static_rounding_does_not_depend_on_the_neighbours(
    candidates: PrecisionSearch, configs: dict[str, GraphConfig]
) -> None:
    pixel_values = pixel_values_of(candidates.run)
    session = candidates.measured.session(configs["static channel patches"])
    together = session.run({"pixel_values": pixel_values})["logits"]
    alone = session.run_batches({"pixel_values": pixel_values}, 1)["logits"]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_dynamic_rounding_depends_on_the_neighbours(
    candidates: PrecisionSearch, configs: dict[str, GraphConfig]
) -> None:
    """Why it is not the first choice: a bright neighbour takes steps from an image."""
    pixel_values = pixel_values_of(candidates.run)
    session = candidates.measured.session(configs["dynamic channel"])
    alone = session.run({"pixel_values": pixel_values[:1]})["logits"]
    together = session.run({"pixel_values": np.concatenate([pixel_values[:1], 40 * pixel_values[1:]])})["logits"]
    assert np.abs(together[:1] - alone).max() > 1e-5


@pytest.mark.parametrize("graph_input", ["image", "pixel_values"])
def test_rounded_patches_take_grey_levels_and_nothing_is_computed_in_vain(
    graph_input: Any, candidates: PrecisionSearch, configs: dict[str, GraphConfig]
) -> None:
    run, config = candidates.run, configs["static channel patches"]
    model = build_graph(run.classifier, candidates.validation.preprocess, {}, graph_input, config)
    onnx.checker.check_model(model)
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["MatMulIntegerToFloat"] == len(config.quantization.matmuls)
    assert counts["Conv"] == 0
    read = {name for node in model.graph.node for name in node.input} | {"logits", "probabilities"}
    read |= {name for node in model.graph.node for a in node.attribute for n in a.g.node for name in n.input}
    for node in model.graph.node:
        assert read & set(node.output), node.name
    assert config_of(model) == config


def test_both_inputs_give_the_same_logits(candidates: PrecisionSearch, configs: dict[str, GraphConfig]) -> None:
    run, config = candidates.run, configs["static channel patches"]
    image = run.held_out(1)[0].decode()
    by_image, by_pixels = (
        Session(
            build_graph(run.classifier, candidates.validation.preprocess, {}, kind, config).SerializeToString(),
            threads=1,
        )
        for kind in ("image", "pixel_values")  # type: ignore[arg-type]
    )
    from_image = by_image.run({"image": np.asarray(image)[None]})["logits"]
    from_pixels = by_pixels.run({"pixel_values": candidates.validation.preprocess(image)[None]})["logits"]
    np.testing.assert_allclose(from_image, from_pixels, atol=1e-6)


def wrong_scale(model: onnx.ModelProto) -> None:
    """The scales of a matmul of layer 1 are half as large again."""
    (tensor,) = (t for t in model.graph.initializer if t.name.endswith("layers.1.mlp.fc1.weight^T.scale"))
    values = numpy_helper.to_array(tensor).copy()
    values *= np.float32(1.5)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@one_family
def test_a_wrong_scale_fails_parity_and_is_found(candidates: PrecisionSearch, configs: dict[str, GraphConfig]) -> None:
    run, preprocess = candidates.run, candidates.validation.preprocess
    model = build_graph(run.classifier, preprocess, {}, "image", configs["static channel patches"])
    samples = run.held_out(36)
    reference = Reference(run)
    sound = Session(model.SerializeToString(), threads=1)
    entry = prove(sound, model, preprocess, reference, samples).entry
    assert entry["passed"], entry
    assert entry["same_rounding"]["max_abs_logit"] <= entry["same_rounding"]["tolerance"]
    assert bisect(sound, model, preprocess, reference, samples)["first_fault"] is None
    wrong_scale(model)
    faulty = Session(model.SerializeToString(), threads=1)
    assert not prove(faulty, model, preprocess, reference, samples).entry["passed"]
    fault = bisect(faulty, model, preprocess, reference, samples)["first_fault"]
    assert fault["module"].endswith("layers.1.mlp.fc1")
    assert fault["operator"] == "MatMulIntegerToFloat"


def darker(model: onnx.ModelProto) -> None:
    """The network takes levels that are five too dark."""
    (cast,) = (node for node in model.graph.node if node.op_type == "Cast" and node.input[0] == RESIZED)
    for node in model.graph.node:
        node.output[:] = [f"{name}.bright" if name == RESIZED else name for name in node.output]
    for name, value in (("planted.five", 5), ("planted.zero", 0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    place = list(model.graph.node).index(cast)
    shift = onnx.helper.make_node("Sub", [f"{RESIZED}.bright", "planted.five"], ["planted.dark"], name="planted.dark")
    cut = onnx.helper.make_node("Max", ["planted.dark", "planted.zero"], [RESIZED], name="planted.cut")
    model.graph.node.insert(place, cut)
    model.graph.node.insert(place, shift)


@one_family
def test_a_fault_of_the_preprocessing_does_not_hide_below_the_cost_of_int8(
    candidates: PrecisionSearch, configs: dict[str, GraphConfig]
) -> None:
    run, preprocess = candidates.run, candidates.validation.preprocess
    model = build_graph(run.classifier, preprocess, {}, "image", configs["static channel patches"])
    darker(model)
    session = Session(model.SerializeToString(), threads=1)
    entry = prove(session, model, preprocess, candidates.validation.reference, run.held_out(36)).entry
    assert entry["stages"]["preprocess"]["max_pixel_value"] > 0
    assert not entry["passed"]


@one_family
def test_labels_that_certainly_agree_too_little_fail(
    candidates: PrecisionSearch, configs: dict[str, GraphConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is moved, since no tiny graph is that bad: 36 images can't exclude an agreement of 100 %."""
    run, preprocess = candidates.run, candidates.validation.preprocess
    model = build_graph(run.classifier, preprocess, {}, "pixel_values", configs["static channel patches"])
    samples = run.held_out(36)
    session = Session(model.SerializeToString(), threads=1)
    assert prove(session, model, preprocess, candidates.validation.reference, samples).entry["passed"]
    monkeypatch.setitem(SPECS, "int8", replace(SPECS["int8"], least_agreement=1.01))
    session = Session(model.SerializeToString(), threads=1)
    assert not prove(session, model, preprocess, candidates.validation.reference, samples).entry["passed"]


@one_family
def test_layers_are_left_float_until_agreement_is_good(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = PrecisionSearch(Run(finished_run), provider="cpu", threads=1)
    monkeypatch.setattr("export.selection.search.GOOD_AGREEMENT", 1.01)  # never good enough: everything is tried
    config = candidates.config("int8")
    assert len(candidates.measured.tried) >= len(FORMS) + 1
    best = max(candidates.measured.tried, key=lambda each: (each["top1_agreement"], -each["mean_abs_logit"]))
    assert candidates.measured.metrics(config) == best
    fewest = min(each["integer_products"] for each in candidates.measured.tried)
    assert fewest < len(candidates.configs.base()[1].quantization.matmuls) - 3


def test_a_product_that_runs_in_float_is_no_int8_graph(
    candidates: PrecisionSearch, configs: dict[str, GraphConfig]
) -> None:
    config = configs["static channel patches"]
    nodes = [ExecutedNode(name, "MatMul", "CPUExecutionProvider") for name in config.quantization.matmuls]
    with pytest.raises(CheckFailed, match=rf"{len(nodes)} of integer product, but 0"):
        check_nodes(nodes, candidates.run.classifier, "cpu", config)


def test_standard_operators_alone_give_the_same(finished_run: Path) -> None:
    """What TensorRT takes: no operator of ONNX Runtime's own, integers around zero, said as Q and DQ."""
    run = Run(finished_run)
    candidates = PrecisionSearch(run, provider="tensorrt", threads=1)
    pixel_values = pixel_values_of(run)
    expected = Reference(run).logits({"pixel_values": pixel_values})
    for config in candidates.configs.base():
        model = build_graph(run.classifier, candidates.validation.preprocess, {}, "pixel_values", config)
        assert {node.domain for node in model.graph.node} == {""}
        if config.precision == "fp32":
            logits = Session(model.SerializeToString(), threads=1).run({"pixel_values": pixel_values})["logits"]
            np.testing.assert_allclose(logits, expected, atol=1e-4)
        if config.precision == "int8":
            onnx.checker.check_model(model, full_check=True)
            quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
            assert len(quantizers) == len(config.quantization.matmuls)
            constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
            zeros = [constants[node.input[2]] for node in quantizers]
            assert all(zero.dtype == np.int8 and zero == 0 for zero in zeros)


@torch.inference_mode()
def test_standard_operators_compute_the_same_integers(finished_run: Path) -> None:
    """With pairs that fit, which TensorRT has no need of."""
    candidates = PrecisionSearch(Run(finished_run), provider="tensorrt", threads=1)
    config = next(config for config in candidates.configs.base() if config.precision == "int8")
    fitting = config.quantization.model_copy(update={"pairs_fit": True})
    run, pixel_values = candidates.run, pixel_values_of(candidates.run)
    model = build_graph(
        run.classifier,
        candidates.validation.preprocess,
        {},
        "pixel_values",
        config.model_copy(update={"quantization": fitting}),
    )
    feed = {"pixel_values": pixel_values}
    logits = Session(model.SerializeToString(), threads=1).run(feed)["logits"]
    own = PrecisionReference.of(
        run.classifier, candidates.validation.preprocess, config.model_copy(update={"quantization": fitting})
    )
    assert np.abs(logits - own.logits(feed)).max() <= STEPS_MULTIPLE * own.steps(feed)
