"""What each family can do, as docs/encoders.md says it: every cell is measured, and ``--write-docs`` writes them.

The families of this file go from training to bundles by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from family_cells import COLUMNS, FAMILIES, TRACED, Cells

from export.bundle import ExportOptions, export_bundle
from toolkit.errors import ToolkitError
from toolkit.models.families.registry import DESCRIBED
from toolkit.progress import Progress
from toolkit.recipe.recipe import Recipe
from toolkit.runs.finished_run import Run

PAGE = Path(__file__).parents[1] / "docs" / "encoders.md"
BEGIN, END = "<!-- family table: begin -->\n", "<!-- family table: end -->\n"


@pytest.fixture(scope="module")
def cells(
    encoders: dict[str, Path],
    text_encoders: dict[str, Path],
    make_recipe: Callable[..., Recipe],
    tmp_path_factory: pytest.TempPathFactory,
) -> Cells:
    return Cells(encoders, text_encoders, make_recipe, tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="module")
def documented(request: pytest.FixtureRequest) -> Mapping[tuple[str, str], str] | None:
    """The cells of the page, by the family's name there and the column; None where the page is being written."""
    if request.config.getoption("--write-docs"):
        return None
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table_of(page()).splitlines()]
    return {(row[0], column): cell for row in lines[2:] for column, cell in zip(lines[0], row, strict=True)}


def is_slow(family: str, column: str) -> bool:
    """Few-shot methods take an encoder's embeddings as they are: with texts, without, and traced."""
    return column == "few-shot" and family not in ("clip", "vit", TRACED)


@pytest.mark.parametrize(
    ("family", "column"),
    [
        pytest.param(family, column, marks=[pytest.mark.slow] * is_slow(family, column))
        for family in FAMILIES
        for column in COLUMNS
    ],
)
def test_a_cell_is_what_the_page_says(
    family: str, column: str, cells: Cells, documented: Mapping[tuple[str, str], str] | None
) -> None:
    measured = cells.cell(family, column)
    if documented is not None:
        assert documented.get((FAMILIES[family], column)) == measured, "run make docs"


def test_the_page_has_the_whole_table(
    request: pytest.FixtureRequest, cells: Cells, documented: Mapping[tuple[str, str], str] | None
) -> None:
    """Its cells are those that the tests above compare; to write the page, all are measured."""
    if documented is not None:
        rows = {shown: [documented[shown, column] for column in COLUMNS] for shown in FAMILIES.values()}
        assert table_of(page()) == as_table(rows), "run make docs"
        return
    table = as_table({shown: [cells.cell(family, column) for column in COLUMNS] for family, shown in FAMILIES.items()})
    written = page().replace(BEGIN + table_of(page()) + END, BEGIN + table + END)
    PAGE.write_text(written, encoding="utf-8", newline="\n")
    assert table_of(page()) == table


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def table_of(content: str) -> str:
    """What stands between the markers."""
    _, begin, rest = content.partition(BEGIN)
    table, end, _ = rest.partition(END)
    assert begin, f"{PAGE.name} has no line {BEGIN}"
    assert end, f"{PAGE.name} has no line {END}"
    return table


def as_table(rows: Mapping[str, list[str]]) -> str:
    """Markdown; no cell is empty."""
    assert all(cell for row in rows.values() for cell in row)
    lines = [["family", *COLUMNS], ["---"] * (1 + len(COLUMNS)), *([name, *row] for name, row in rows.items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def test_every_described_family_has_a_row() -> None:
    assert set(DESCRIBED) <= set(FAMILIES)


def test_an_encoder_without_a_description_is_traced(cells: Cells) -> None:
    run, bundle = Run(cells.run(TRACED)[0]), cells.shipped(TRACED, "image").bundle
    assert [group.name for group in run.classifier.groups] == ["encoder", "head"]
    assert bundle.parity_results["fp32"]["cpu"]["fusion_check"].startswith("not made")
    for precision in ("fp32", "fp16"):
        graph = onnx.load(bundle.path / bundle.graph_name(precision)).graph
        assert [each.name for each in (*graph.input, *graph.output)] == ["image", "logits", "probabilities"]


class Stages(Progress):
    """Keeps what was begun."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def stage(self, what: str) -> None:
        self.seen.append(what)


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_what_a_traced_encoder_has_not_is_said_before_anything_is_done(
    precision: Any, cells: Cells, tmp_path: Path
) -> None:
    told = Stages()
    wanted = ExportOptions(precisions=["fp16", precision])
    with pytest.raises(ToolkitError, match=f"have no description here, and {precision} needs one"):
        export_bundle(Run(cells.run(TRACED)[0]), tmp_path / "bundle", wanted, progress=told)
    assert told.seen == []
