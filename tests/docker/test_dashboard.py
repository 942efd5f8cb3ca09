"""What the dashboard asks Prometheus for is what a server gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from dockerfile import DOCKER
from prometheus_client.parser import text_string_to_metric_families
from server_process import serving
from tiny_bundle import write_tiny_bundle

DASHBOARDS = sorted((DOCKER / "grafana" / "dashboards").glob("*.json"))
DATA_SOURCE = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$model": ".*"}
OF_PROMETHEUS = {"le"}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names of a running server's samples with their labels, once it answered and refused."""
    folder = tmp_path_factory.mktemp("dashboard")
    bundle = write_tiny_bundle(folder / "tiny")
    with serving(folder / "log", bundle) as server:
        server.until_ready()
        image = (bundle / "golden" / "000.png").read_bytes()
        assert server.ask("POST", "/predict", image, {"content-type": "image/png"}).status == 200
        assert server.ask("POST", "/predict", b"no image", {"content-type": "image/png"}).status == 400
        page = server.ask("GET", "/metrics").body.decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def dashboard(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def expressions(path: Path) -> list[str]:
    return [target["expr"] for panel in dashboard(path)["panels"] for target in panel["targets"]]


def plain(expression: str) -> str:
    """Without Grafana's variables."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def parts(node: Any) -> Iterator[Any]:
    """A parsed expression and everything below it."""
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        below = getattr(node, name, None)
        if below is not None:
            yield from parts(below)
    for below in getattr(node, "args", []):
        yield from parts(below)


def asked(expression: str) -> tuple[set[str], set[str]]:
    """Names and labels of samples that an expression asks for.

    Raises:
        ValueError: Prometheus would not take it.
    """
    names, labels = set(), set()
    for node in parts(promql.parse(plain(expression))):
        if isinstance(node, promql.VectorSelector):
            names.add(node.name)
            labels |= {matcher.name for matcher in node.matchers.matchers}
    for listed in re.findall(r"\b(?:by|on|ignoring|without)\s*\(([^)]*)\)", expression):
        labels |= {label.strip() for label in listed.split(",")}
    return names, labels


def test_there_is_a_dashboard() -> None:
    assert [path.name for path in DASHBOARDS] == ["serving.json"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_asks_for_what_the_server_gives(path: Path, given: dict[str, set[str]]) -> None:
    for expression in expressions(path):
        names, labels = asked(expression)
        assert names, expression
        assert names <= set(given), expression
        assert labels <= OF_PROMETHEUS | set.union(*(given[name] for name in names)), expression


def test_every_kind_of_metric_is_shown(given: dict[str, set[str]]) -> None:
    shown = {name for path in DASHBOARDS for expression in expressions(path) for name in asked(expression)[0]}
    families = {re.sub("_(total|bucket|sum|count|created)$", "", name) for name in given}
    assert {re.sub("_(total|bucket|sum|count)$", "", name) for name in shown} == families


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_legends_and_variables_name_labels(path: Path, given: dict[str, set[str]]) -> None:
    for panel in dashboard(path)["panels"]:
        for target in panel["targets"]:
            _, labels = asked(target["expr"])
            names, _ = asked(target["expr"])
            known = labels | set.union(*(given[name] for name in names))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known, target
    for variable in dashboard(path)["templating"]["list"]:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
        assert label in given[metric]
        assert f"${variable['name']}" in VARIABLES


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_the_provisioned_source_and_lie_beside_each_other(path: Path) -> None:
    (source,) = DATA_SOURCE["datasources"]
    wanted = {"type": source["type"], "uid": source["uid"]}
    taken: set[tuple[int, int]] = set()
    panels = dashboard(path)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [wanted] * (
            1 + len(panel["targets"])
        )
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def test_a_misspelt_metric_or_expression_would_be_found(given: dict[str, set[str]]) -> None:
    names, _ = asked("rate(clip_request_total[$__rate_interval])")
    assert not names <= set(given)
    with pytest.raises(ValueError, match="unclosed"):
        asked("sum by (model) (rate(clip_requests_total[$__rate_interval])")
