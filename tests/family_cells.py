"""What each family can do, found by doing it: a cell is "yes", or the words for what the toolkit refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from image_classifiers import MADE, save_classifier
from interrupted_runs import EVERY_STEP, cut_back, outcome_of

import toolkit
from export.benchmark import BenchmarkOptions, ComparisonOptions, benchmark
from export.bundle import ExportOptions, export_bundle
from export.graph.classifier_graph import GraphInput
from export.latency.measure import MinSamples
from export.prove_bundle import bisect_bundle
from recipes.finetune import finetune
from toolkit.errors import ToolkitError
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.verify import verify
from toolkit.training.few_shot.methods import METHODS

TRACED = "ijepa"
"""I-JEPA, which no family describes."""
FAMILIES = {
    **{"clip": "`clip`", "metaclip_2": "`metaclip_2`", "siglip": "`siglip`", "siglip2": "`siglip2`", "blip": "`blip`"},
    **{"vit": "`vit`", "dinov2": "`dinov2`", "dinov2_with_registers": "`dinov2_with_registers`"},
    **{"dinov3_vit": "`dinov3_vit`", TRACED: "traced (I-JEPA)"},
}
"""Encoders of the tests, and how the table calls their families."""
LARGER = ("dinov2_with_registers", "vit")
"""Trained on larger images than their positions are for."""
INPUTS, PRECISIONS = get_args(GraphInput), ("fp32", "fp16", "int8")
LABELS = ["blue", "green", "red"]
YES = "yes"
REFUSALS = {
    "no text tower": "encoders have no text tower",
    "no description": r"have no description here, and \w+ needs one",
    "head, or all": "the encoder has 0",
    "no such class": "transformers has no image classifier of this family",
}
"""What the toolkit says, by the words for it in the table."""


def refusal(error: ToolkitError) -> str:
    """The table's words for a refusal; one that it has no words for is raised again."""
    for words, said in REFUSALS.items():
        if re.search(said, str(error)):
            return words
    raise error


@dataclass(frozen=True)
class Shipped:
    """The bundle of a family's run, proven, verified and timed."""

    bundle: Bundle
    precisions: Mapping[str, str]
    """``yes``, or why there is no graph of one."""


class Cells:
    """Measures the cells of the table; what several of them need is made once."""

    def __init__(
        self,
        encoders: Mapping[str, Path],
        both_towers: Mapping[str, Path],
        make_recipe: Callable[..., Recipe],
        root: Path,
    ) -> None:
        self.encoders, self.both_towers = {**both_towers, **encoders}, both_towers
        self.make_recipe, self.root = make_recipe, root
        self.images = make_recipe().data.path
        self.run, self.shipped, self.cell = cache(self._run), cache(self._shipped), cache(self._cell)

    def _cell(self, family: str, column: str) -> str:
        return COLUMNS[column](self, family)

    def recipe(self, family: str, **model: Any) -> Recipe:
        """A recipe of six steps, each with a checkpoint."""
        wanted: dict[str, Any] = {"encoder": str(self.encoders[family])} | model
        if family in LARGER:
            wanted["image_size"] = 48
        return self.make_recipe(model=wanted, training={"epochs": 2, "batch_size": 12} | EVERY_STEP)

    def _run(self, family: str) -> tuple[Path, str]:
        """A finished run whose last layer learned, or else its head; and what that says."""
        out = self.root / "runs" / family
        try:
            finetune(self.recipe(family, unfreeze_last=1), out)
        except ToolkitError as error:
            words = refusal(error)
            finetune(self.recipe(family, unfreeze="all"), out.with_name(f"{family}-all"))
            finetune(self.recipe(family, unfreeze_last=0), out)
            return out, words
        return out, YES

    def _shipped(self, family: str, graph_input: GraphInput) -> Shipped:
        run, out = Run(self.run(family)[0]), self.root / "bundles" / f"{family}-{graph_input}"
        found = dict.fromkeys(PRECISIONS, YES)
        try:
            parity = export_bundle(run, out, ExportOptions(graph_input, precisions=PRECISIONS))
        except ToolkitError as error:
            words, refused = refusal(error), re.search(r"and (\w+) needs one", str(error))
            assert refused
            found[refused[1]] = words
            wanted = [precision for precision in PRECISIONS if found[precision] == YES]
            parity = export_bundle(run, out, ExportOptions(graph_input, precisions=wanted))
        shipped = [precision for precision in PRECISIONS if found[precision] == YES]
        assert list(parity["results"]) == shipped
        assert all(by_provider["cpu"]["passed"] for by_provider in parity["results"].values())
        if "int8" in shipped:
            assert parity["results"]["int8"]["cpu"]["form"]["quantization"]["products"]
        assert verify(out)["passed"]
        bundle = Bundle(out)
        assert bundle.session(provider="cpu").input == graph_input
        latency = benchmark(
            bundle,
            provider="cpu",
            batch_sizes=[1],
            compare=ComparisonOptions(),
            least=MinSamples(2, 0),
            measured=BenchmarkOptions(threads=1, details=False),
        )
        assert [row["precision"] for row in latency["rows"]] == shipped
        return Shipped(bundle, found)


def _train(cells: Cells, family: str) -> str:
    run, words = cells.run(family)
    assert Run(run).summary["steps"] == 6
    return words


def _resume(cells: Cells, family: str) -> str:
    """As after a kill behind the third step."""
    straight, _ = cells.run(family)
    cut = cells.root / "cut" / family
    cut_back(straight, 3, cut)
    recipe = Run(straight).recipe
    assert isinstance(recipe, Recipe)
    finetune(recipe, cut, resume=True)
    assert outcome_of(cut) == outcome_of(straight)
    return YES


def _input(graph_input: GraphInput) -> Callable[[Cells, str], str]:
    def cell(cells: Cells, family: str) -> str:
        return cells.shipped(family, graph_input).precisions["fp32"]

    return cell


def _precision(precision: str) -> Callable[[Cells, str], str]:
    def cell(cells: Cells, family: str) -> str:
        first, *others = (cells.shipped(family, each).precisions[precision] for each in INPUTS)
        assert others == [first]
        return first

    return cell


def _bisect(cells: Cells, family: str) -> str:
    """Every tensor between the first and the last, or where nothing is known of the layers those around them."""
    run = Run(cells.run(family)[0])
    tower = run.classifier.encoder.tower
    least = 10 * len(tower.blocks) if tower else 5
    for shipped in (cells.shipped(family, each) for each in INPUTS):
        for precision in (each for each, words in shipped.precisions.items() if words == YES):
            report = bisect_bundle(shipped.bundle, run, provider="cpu", threads=1, precision=precision)
            assert report["first_fault"] is None
            assert report["tensors"] >= least
    return YES if tower else "processor, head"


def _zero_shot(cells: Cells, family: str) -> str:
    encoder, out = cells.both_towers.get(family, cells.encoders[family]), cells.root / "zero-shot" / family
    try:
        run = toolkit.zero_shot(str(encoder), LABELS, out=out, templates=["a {}"])
    except ToolkitError as error:
        return refusal(error)
    bundle = toolkit.export(run, out=out.with_name(f"{family}-bundle"), precision="fp32", data=cells.images)
    assert bundle.parity["results"]["fp32"]["cpu"]["passed"]
    return YES


def _few_shot(cells: Cells, family: str) -> str:
    """By every method that the encoder allows; the others are refused."""
    encoder, out = str(cells.both_towers.get(family, cells.encoders[family])), cells.root / "few-shot" / family
    options: dict[str, Any] = {"encoder": encoder, "shots": [1], "seeds": 1, "templates": ["a {}"]}
    found = toolkit.few_shot(cells.images, out=out, **options)
    assert {result.method for result in found.results} == set(found.methods)
    assert Run(out / "best").classifier.labels == LABELS
    assert (found.zero_shot is None) == (family not in cells.both_towers)
    left_out = [name for name in METHODS if name not in found.methods]
    for name in left_out:
        with pytest.raises(ToolkitError, match=f"{name} (starts from the labels' text embeddings|fine-tunes a linear)"):
            toolkit.few_shot(cells.images, out=out.with_name(f"{family}-{name}"), methods=[name], **options)
    if not left_out:
        return YES
    return " and ".join(found.methods) if len(found.methods) == 1 else f"all but {', '.join(left_out)}"


def _import(cells: Cells, family: str) -> str:
    """A classifier of transformers' own class; how its labels compare is in tests/recipes/test_import_classifier.py."""
    out = cells.root / "import" / family
    source = save_classifier(out / "classifier", family, LABELS) if family in MADE else cells.encoders[family]
    try:
        run = toolkit.import_classifier(source, out=out / "run")
    except ToolkitError as error:
        return refusal(error)
    assert run.classifier.labels == LABELS
    return YES


COLUMNS: dict[str, Callable[[Cells, str], str]] = {
    "train": _train,
    "resume": _resume,
    **{each: _input(each) for each in INPUTS},
    **{each: _precision(each) for each in PRECISIONS},
    "bisect": _bisect,
    "zero-shot": _zero_shot,
    "few-shot": _few_shot,
    "import": _import,
}
