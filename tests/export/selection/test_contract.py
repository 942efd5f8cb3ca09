"""A contract on what a graph loses and how fast it is: kept on images that the search never saw, or refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from export.bundle import ExportOptions, export_bundle
from export.graph.classifier_graph import build_graph
from export.graph.config import GraphConfig
from export.graph.subgraph import open_model
from export.latency.measure import MinSamples
from export.latency.roofline.work import count_work
from export.precision.sensitivity import sensitivities
from export.selection.contract import Contract, loss_of, speedup_of
from export.selection.contract_search import fastest_within_contract
from export.selection.held_out import HeldOut
from export.selection.search import PrecisionSearch
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.progress import SILENT
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decision import LargestLogit
from toolkit.runtime.verify import verify

LOOSE = Contract(25.0, 25.0)
"""What 15 validation images can show of a graph that decides all of them as PyTorch does."""
LITTLE = MinSamples(10, 0)
OUTLIER = 3e4
"""One channel of a norm so large that rounding to 256 steps leaves nothing of the others."""


@pytest.fixture(scope="module")
def search(finished_run: Path) -> PrecisionSearch:
    return PrecisionSearch(Run(finished_run), provider="cpu", threads=1)


@pytest.fixture
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export counts little, where nothing hangs on its latency."""
    monkeypatch.setattr("export.bundle.fastest_within_contract", partial(fastest_within_contract, least=LITTLE))


@pytest.fixture
def fresh(finished_run: Path) -> PrecisionSearch:
    return PrecisionSearch(Run(finished_run), provider="cpu", threads=1)


@pytest.fixture(scope="module")
def planted_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same classifier in float, whose MLPs take an outlier that rounding can't stand."""
    run = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("planted") / finished_run.name))
    weights = load_file(run / "best" / "model.safetensors")
    for name in [name for name in weights if ".layers." in name and name.endswith("mlp.fc1.weight")]:
        for part in ("weight", "bias"):
            weights[name.replace("mlp.fc1.weight", f"layer_norm2.{part}")][0] *= OUTLIER
        weights[name][:, 0] /= OUTLIER
    save_file(weights, run / "best" / "model.safetensors")
    return run


@pytest.mark.usefixtures("_little")
def test_a_contract_that_is_kept_ships_with_what_was_measured(finished_run: Path, tmp_path: Path) -> None:
    parity = export_bundle(Run(finished_run), tmp_path / "bundle", ExportOptions(contract=LOOSE))
    found = json.loads((tmp_path / "bundle" / "parity.json").read_text())["contract"]
    assert found == parity["contract"]
    assert (found["max_accuracy_drop"], found["max_flips"], found["min_speedup"]) == (25.0, 25.0, None)
    run = Run(finished_run)
    assert found["validation"]["images"] == len(run.data.splits["validation"])
    assert found["held_out"]["images"] == len(run.data.splits["test"])
    assert found["validation"]["verdict"] == "kept"
    assert found["held_out"]["verdict"] in ("kept", "undecided")
    for losses in (found["validation"], found["held_out"]):
        assert losses["accuracy_drop"] <= losses["flips"] <= losses["flips_at_most"]
        assert losses["accuracy_drop"] <= losses["accuracy_drop_at_most"]
    (chosen,) = (each for each in parity["tried"] if each["chosen"])
    assert chosen["form"] == found["form"]
    kept = [each["p50_ms"] for each in parity["tried"] if each["verdict"] == "kept"]
    assert chosen["p50_ms"] == min(kept)
    assert Bundle(tmp_path / "bundle").precisions == [found["precision"]]
    assert verify(tmp_path / "bundle")["passed"]
    report = (tmp_path / "bundle" / "report.html").read_text()
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    for page in (report, card):
        assert "on test images, which the search did not see" in page


def test_a_speed_that_nothing_reaches_is_refused_with_the_nearest(fresh: PrecisionSearch) -> None:
    with pytest.raises(CheckFailed, match=r"no config keeps the contract .*1000x.* nearest: .*keeps the rest and is"):
        fastest_within_contract([fresh], "pixel_values", Contract(25.0, 25.0, min_speedup=1000.0), least=LITTLE)
    assert not any(each["chosen"] for each in fresh.measured.tried)


@pytest.mark.usefixtures("_little")
@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_the_command_refuses_with_the_nearest_and_leaves_no_bundle(
    finished_run: Path, tmp_path: Path, in_process: Callable[..., Any]
) -> None:
    """A check that said no, so that the exit code is 1, as that of ``toolkit tune`` where nothing fits."""
    bounds = ["--max-accuracy-drop", "25", "--max-flips", "25", "--min-speedup", "1000"]
    command = ["export", "--onnx", finished_run, "--out", tmp_path / "bundle", "--precision", "auto", *bounds]
    done = in_process(*command, "--threads", "1")
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    (said,) = [line for line in done.stderr.splitlines() if "no config keeps the contract" in line]
    assert "at most 25 points lost, at most 25 % of decisions flipped, at least 1000x as fast as fp32" in said
    assert re.search(r"nearest: .*, which keeps the rest and is \d+\.\d\dx as fast as fp32 \(at least", said)
    assert list(tmp_path.iterdir()) == []


def test_too_few_images_show_nothing_of_int8_and_fp32_ships(fresh: PrecisionSearch) -> None:
    kept = fastest_within_contract([fresh], "pixel_values", Contract(0.5, 1.0), least=LITTLE)
    assert kept.config.precision == "fp32"
    assert {each["verdict"] for each in fresh.measured.tried if each["precision"] == "int8"} <= {"undecided", "over"}
    assert kept.report["sensitivity"] == []  # no search for what can't be shown
    assert "validation images can't show" in kept.report["too_few_images"]
    assert "598 would" in kept.report["too_few_images"]


def test_a_speed_without_images_that_show_the_rest_names_what_is_fast(fresh: PrecisionSearch) -> None:
    with pytest.raises(CheckFailed, match=r"nearest: fp32, which keeps the rest and is 1\.00x .*can't show") as said:
        fastest_within_contract([fresh], "pixel_values", Contract(0.5, 1.0, min_speedup=1.0 + 1e-9), least=LITTLE)
    assert re.search(r"int8 .* with .* % of decisions flipped \(at most .*x as fast as fp32", str(said.value))


def test_matmuls_that_rounding_breaks_are_left_float(planted_run: Path) -> None:
    planted = PrecisionSearch(Run(planted_run), provider="cpu", threads=1)
    kept = fastest_within_contract([planted], "pixel_values", LOOSE, least=LITTLE)
    whole, *_ = planted.configs.int8()
    broken = {name for name in whole.quantization.matmuls if name.endswith("mlp.fc1")}
    ranked = kept.report["sensitivity"]
    assert {each["matmul"] for each in ranked[: len(broken)]} == broken
    mixed = [each for each in planted.measured.tried if each["integer_products"] not in (0, len(ranked))]
    assert any(each["verdict"] == "kept" for each in mixed)


def test_a_graph_that_fails_on_test_images_is_refused_with_both_numbers(planted_run: Path) -> None:
    planted = PrecisionSearch(Run(planted_run), provider="cpu", threads=1)
    whole, *_ = planted.configs.int8()
    with pytest.raises(CheckFailed, match=r"on 15 validation images \(0\.00 % .*, but not on 21 test images .*\("):
        held_to(planted, whole, Contract(0.0, 0.0))


def held_to(search: PrecisionSearch, config: GraphConfig, contract: Contract) -> dict[str, object]:
    model = build_graph(search.run.classifier, search.validation.preprocess, {}, "image", config)
    same = loss_of(search.run.decision, search.validation.expected, search.validation.expected, None, None)
    images = HeldOut(search.run, search.validation.reference, search.validation.preprocess)
    session = open_model(model, provider="cpu", threads=1)
    return images.hold(contract, config, session, same.as_json())


def test_fp32_keeps_every_contract_on_test_images(search: PrecisionSearch) -> None:
    found = held_to(search, search.configs.plain("fp32"), Contract(0.0, 0.0))
    assert (found["verdict"], found["flips"], found["images"]) == ("kept", 0.0, 21)


class TestSensitivity:
    """Each matmul rounded alone."""

    @pytest.fixture(scope="class")
    def config(self, search: PrecisionSearch) -> GraphConfig:
        return search.configs.int8()[0]

    def test_it_is_what_the_graph_says(self, search: PrecisionSearch, config: GraphConfig) -> None:
        measured, feed = search.measured, search.validation.inputs
        found = sensitivities(search.run.classifier, search.validation.preprocess, config.quantization, [feed], SILENT)
        assert {each.matmul for each in found} == set(config.quantization.matmuls)
        exact = measured.session(search.configs.plain("fp32")).run_batches(feed, 32)["logits"]
        for each in (found[0], found[len(found) // 2]):
            alone = search.configs.rounded(config.quantization.only(each.matmul))
            logits = measured.session(alone).run_batches(feed, 32)["logits"]
            assert each.error == pytest.approx(np.square(logits.astype(np.float64) - exact).mean(), rel=0.1)

    def test_batches_change_nothing(self, search: PrecisionSearch, config: GraphConfig) -> None:
        feed = search.validation.inputs
        parts = [{name: values[first : first + 4] for name, values in feed.items()} for first in range(0, 15, 4)]
        whole, by_parts = (
            {
                each.matmul: (each.error, each.operations)
                for each in sensitivities(
                    search.run.classifier, search.validation.preprocess, config.quantization, given, SILENT
                )
            }
            for given in ([feed], parts)
        )
        for name, (error, operations) in whole.items():
            assert by_parts[name][0] == pytest.approx(error, rel=0.05)
            assert by_parts[name][1] == operations

    def test_operations_are_those_of_the_graph(self, search: PrecisionSearch, config: GraphConfig) -> None:
        found = sensitivities(
            search.run.classifier, search.validation.preprocess, config.quantization, [search.validation.inputs], SILENT
        )
        graph = build_graph(search.run.classifier, search.validation.preprocess, {}, "pixel_values", config)
        height, width = search.validation.preprocess.output_size or (0, 0)
        work = count_work(graph, [1, 3, height, width])
        counted = sum(each.operations for each in work.matmuls if each.precision == "int8")
        assert sum(each.operations for each in found) == counted


def test_a_planted_outlier_is_the_first_to_be_left_float(
    finished_run: Path, tmp_path: Path, make_recipe: Callable[..., object]
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    weights = load_file(run / "best" / "model.safetensors")
    (fc1,) = (name for name in weights if name.endswith("layers.1.mlp.fc1.weight"))
    for part in ("weight", "bias"):
        weights[fc1.replace("mlp.fc1.weight", f"layer_norm2.{part}")][0] *= OUTLIER
    weights[fc1][:, 0] /= OUTLIER
    save_file(weights, run / "best" / "model.safetensors")
    planted = PrecisionSearch(Run(run), provider="cpu", threads=1)
    config, *_ = planted.configs.int8()
    found = sensitivities(
        planted.run.classifier,
        planted.validation.preprocess,
        config.quantization,
        [planted.validation.inputs],
        SILENT,
    )
    assert found[0].matmul.endswith("layers.1.mlp.fc1")


class TestContract:
    """The contract alone."""

    @pytest.mark.parametrize(
        ("contract", "says"),
        [
            (Contract(-1.0), "--max-accuracy-drop"),
            (Contract(1.0, -0.1), "--max-flips"),
            (Contract(1.0, float("nan")), "--max-flips"),
            (Contract(1.0, 101.0), "--max-flips"),
            (Contract(1.0, 1.0, 0.0), "--min-speedup"),
            (Contract(1.0, 1.0, float("inf")), "--min-speedup"),
            (Contract(1.0, 1.0, float("nan")), "--min-speedup"),
        ],
    )
    def test_what_nothing_can_keep_is_an_error(self, contract: Contract, says: str) -> None:
        with pytest.raises(ToolkitError) as caught:
            contract.check()
        assert caught.value.where == says

    def test_the_images_that_are_needed_show_it_and_one_less_does_not(self) -> None:
        contract = Contract(2.0, 1.0)
        for images, judged in ((contract.needed_images, "kept"), (contract.needed_images - 1, "undecided")):
            logits = np.eye(2, dtype=np.float32)[np.arange(images) % 2]
            loss = loss_of(LargestLogit(), logits, logits, None, None)
            assert contract.verdict("int8", loss) == judged
            assert contract.verdict("fp32", loss) == "kept"

    def test_flips_that_cost_no_accuracy_break_it(self) -> None:
        expected = np.tile(np.array([[1.0, 0.0, -1.0]], np.float32), (1000, 1))
        logits = expected.copy()
        logits[:50, 1] = 2.0
        labels = np.full(1000, 2)  # neither is right
        loss = loss_of(LargestLogit(), expected, logits, labels, None)
        assert loss.drop.value == 0
        assert loss.flips == pytest.approx(0.05)
        assert Contract(1.0).verdict("int8", loss) == "kept"
        assert Contract(1.0, 4.0).verdict("int8", loss) == "over"
        assert Contract(1.0, 5.5).verdict("int8", loss) == "undecided"
        assert Contract(1.0, 7.0).verdict("int8", loss) == "kept"

    def test_images_of_a_group_say_less(self) -> None:
        logits = np.eye(2, dtype=np.float32)[np.arange(400) % 2]
        groups = [str(place // 10) for place in range(400)]
        alone, together = (loss_of(LargestLogit(), logits, logits, None, each) for each in (None, groups))
        assert together.flips_at_most > 5 * alone.flips_at_most

    def test_a_speed_is_judged_by_its_lower_bound(self) -> None:
        rng = np.random.default_rng(0)
        steady = speedup_of([2.0] * 10, [1.0] * 10)
        assert steady == (pytest.approx(2.0), pytest.approx(2.0))
        drift = rng.uniform(1, 3, 10)
        assert speedup_of(2 * drift, drift) == (pytest.approx(2.0), pytest.approx(2.0))  # both saw the same machine
        value, at_least = speedup_of([2.0] * 10, list(rng.uniform(0.9, 1.1, 10)))
        assert at_least < value
        assert not Contract(1.0, min_speedup=value).fast_enough(at_least)
        assert Contract(1.0, min_speedup=at_least).fast_enough(at_least)
