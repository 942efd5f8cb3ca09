"""The plots of a benchmark: what stands on them is what ``latency.json`` says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from measured import latency, row
from PIL import Image

from toolkit.reporting import latency_plot, roofline_plot, server_plot
from toolkit.reporting.latency_plot import plot_latency, plot_measured
from toolkit.reporting.limits import ceilings, points
from toolkit.reporting.plot_style import apart, styles
from toolkit.reporting.roofline_plot import plot_roofline
from toolkit.reporting.server_plot import plot_server


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    metrics: list[Figure] = []

    def keep(figure: Figure, path: Path) -> None:
        figure.savefig(path)
        metrics.append(figure)

    for module in (latency_plot, roofline_plot, server_plot):
        monkeypatch.setattr(module, "save", keep)
    return metrics


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


@pytest.mark.parametrize("count", [1, 4, 5, 12])
@pytest.mark.parametrize("sizes", [(1,), (1, 8, 64)])
def test_every_engine_has_its_line_and_its_figures(
    count: int, sizes: tuple[int, ...], tmp_path: Path, drawn: list[Figure]
) -> None:
    rows = [row(f"engine {index}", "fp32", 2.0 + index, size) for size in (1, 8, 32) for index in range(count)]
    rows = [each | {"batch_size": size} for each, size in zip(rows, [s for s in sizes for _ in range(count)])]  # noqa: B905
    plot_latency(rows, tmp_path / "latency.png")
    (figure,) = drawn
    (legend,) = figure.legends
    assert len(legend.get_texts()) == count
    throughput = figure.axes[1]
    assert len(throughput.lines) == count
    assert len({(line.get_color(), line.get_marker()) for line in throughput.lines}) == count
    shown = words(figure)
    assert all(f"{each['p50_ms']:.3g}" in shown for each in rows if each["p50_ms"] < 100)
    for axes in figure.axes:
        places = [text.get_window_extent() for text in axes.texts]
        tall = places[0].height
        assert all(
            abs(one.y0 - other.y0) > 0.7 * tall
            for at, one in enumerate(places)
            for other in places[:at]
            if abs(one.x0 - other.x0) < 1
        )
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_the_roofline_shows_ceilings_and_shares(tmp_path: Path, drawn: list[Figure]) -> None:
    metrics = latency()
    plot_roofline(metrics, tmp_path / "roofline.png")
    shown = words(drawn[0])
    assert "onnxruntime int8: 342 GFLOP/s" in shown
    assert "torch fp32: 159 GFLOP/s" in shown
    assert "memory copy: 9.4 GiB/s" in shown
    for each in metrics["rows"]:
        assert f"{each['batch_size']}: {each['share_of_ceiling']:.0%}" in shown
    texts = [text.get_window_extent() for text in drawn[0].axes[0].texts if "%" in text.get_text()]
    assert not any(one.overlaps(other) for at, one in enumerate(texts) for other in texts[:at])


def test_a_point_of_the_roofline_is_work_over_time() -> None:
    metrics = latency()
    for each in metrics["rows"]:
        del each["gflops_per_s"]
    found = {(point.row["engine"], point.row["precision"], point.row["batch_size"]): point for point in points(metrics)}
    point = found["onnxruntime", "fp32", 8]
    assert point.gflops == pytest.approx(8 * 0.31e9 / (point.row["p50_ms"] / 1e3) / 1e9)
    assert point.intensity == pytest.approx(8 * 0.31e9 / ((4.8 + 0.9 * 8) * 2**20))
    assert len(found) == len(metrics["rows"])


def test_the_ceilings_of_both_libraries_are_named() -> None:
    rates = {"fp32": {"1": 10.0, "8": 20.0}}
    found = list(ceilings({"ceilings": {"runtime_gflops": rates, "torch_gflops": rates, "best_gflops": rates}}))
    assert [(each.library, each.precision, each.batch_size, each.gflops) for each in found] == [
        (library, "fp32", size, rate) for library in ("onnxruntime", "torch") for size, rate in ((1, 10.0), (8, 20.0))
    ]
    assert list(ceilings({"ceilings": {"runtime_gflops": rates, "torch_gflops": None}})) == found[:2]


def test_the_server_plot_shows_the_target_and_the_rate_that_holds_it(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_server(latency(), tmp_path / "server.png")
    shown = words(drawn[0])
    assert "target: p99 ≤ 25 ms" in shown
    assert "402 images/s hold it" in shown
    assert "p99, saturated: the queue grows" in shown


def test_a_load_at_which_nothing_was_served_leaves_a_gap(tmp_path: Path, drawn: list[Figure]) -> None:
    metrics = latency()
    metrics["scenarios"]["server"]["points"][-1] |= {"p50_ms": None, "p99_ms": None}
    plot_server(metrics, tmp_path / "server.png")
    assert "p99, saturated: the queue grows" in words(drawn[0])
    metrics["scenarios"]["server"]["target_p99_ms"] = None
    for point in metrics["scenarios"]["server"]["points"]:
        point |= {"p50_ms": None, "p99_ms": None}
    plot_server(metrics, tmp_path / "server.png")


def test_plots_of_parts_that_are_no_longer_measured_go(tmp_path: Path) -> None:
    plot_measured(latency(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"latency.png", "roofline.png", "server.png"}
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 500
    metrics = latency()
    plot_measured({key: metrics[key] for key in ("rows", "machine", "inputs")}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"latency.png"}


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0, 1.0], [5.0, 1.0, 1.1, 4.9, 5.1], [0.0, 10.0, 20.0]])
def test_labels_are_apart_and_in_order(values: list[float]) -> None:
    places = apart(values, 1.0)
    order = sorted(range(len(values)), key=lambda index: values[index])
    gaps = [places[after] - places[before] for before, after in pairwise(order)]
    assert all(gap >= 1.0 - 1e-9 for gap in gaps)
    assert sum(places) == pytest.approx(sum(values))
    assert apart([0.0, 10.0], 1.0) == [0.0, 10.0]


def test_no_two_engines_look_alike() -> None:
    assert len(set(styles(range(56)).values())) == 56
