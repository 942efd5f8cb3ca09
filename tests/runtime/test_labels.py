"""A bundle whose labels don't fit its graph is refused, by verify as by predict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto, helper
from tiny_bundle import GOLDEN_NAMES
from tiny_graph import METADATA, graph_bytes
from typer.testing import CliRunner

from toolkit.cli.main import app
from toolkit.command import run
from toolkit.errors import ToolkitError
from toolkit.files import write_json
from toolkit.runtime.bundle import Bundle


def relabel(bundle: Path, labels: Sequence[Any], model: ModelProto | None = None) -> None:
    """Give graph, labels.json and manifest the same labels, with hashes that are right."""
    model = model or ModelProto.FromString(graph_bytes())
    helper.set_model_props(model, METADATA | {"labels": json.dumps(labels)})
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    (bundle / "labels.json").write_text(json.dumps(labels))
    Bundle(bundle).update_manifest()


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["blue", "green"], "the graph gives 3 logits, but labels.json names 2 classes"),
        (["blue", "green", "red", "grey"], "the graph gives 3 logits, but labels.json names 4 classes"),
        (["blue", "green", "blue"], "the label 'blue' stands there twice"),
        (["blue", "green", float("nan")], "damaged content: expected value"),
        (["blue", "green", None], "no list of names"),
        (["blue", "green", ""], "no list of names"),
        ([], "no list of names"),
    ],
)
@pytest.mark.parametrize("verb", ["verify", "predict"])
def test_labels_that_do_not_fit_are_refused_in_one_line(
    bundle: Path, labels: list[Any], says: str, verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    relabel(bundle, labels)
    arguments = [str(bundle)] + ([str(bundle / "golden" / GOLDEN_NAMES[0])] if verb == "predict" else [])
    monkeypatch.setattr("sys.argv", ["toolkit", verb, *arguments])
    with pytest.raises(SystemExit) as end:
        run(app)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line


def test_a_graph_that_leaves_its_classes_open_is_counted_all_the_same(bundle: Path) -> None:
    model = ModelProto.FromString(graph_bytes())
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = "classes"
    relabel(bundle, ["blue", "green"], model)
    with pytest.raises(ToolkitError, match=r"gives 3 logits, but labels\.json names 2 classes"):
        Bundle(bundle).session()


def test_fitting_labels_of_any_name_pass(bundle: Path) -> None:
    relabel(bundle, ["nan", "Ω", "a b"])
    assert Bundle(bundle).session().classes == 3


def test_predictions_of_many_classes_are_the_likeliest(bundle: Path) -> None:
    write_json(bundle / "labels.json", ["blue", "green", "red"])
    image = str(bundle / "golden" / GOLDEN_NAMES[0])
    every, one = (
        json.loads(CliRunner().invoke(app, ["predict", str(bundle), image, "--json", *more]).stdout)["predictions"][0]
        for more in ([], ["--top-k", "1"])
    )
    assert len(every["probabilities"]) == 3
    assert one["probabilities"] == {every["label"]: every["probabilities"][every["label"]]}
