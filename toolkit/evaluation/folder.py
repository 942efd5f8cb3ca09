"""An evaluation as a folder: ``evaluation.json``, ``evaluation.html``, and ``plots/`` where matplotlib is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from toolkit.data.samples import labels_of
from toolkit.evaluation.evaluate import Evaluated
from toolkit.files import refuse_existing, staged_folder, write_bytes, write_json
from toolkit.reporting.evaluation_page import evaluation_html
from toolkit.reporting.number_pages import number_evaluation_html

WHAT, RECORD = "folder of an evaluation", "evaluation.json"


def check_evaluation_folder(out: Path, *, force: bool) -> None:
    """Refuse a folder that can't be written, before the work starts.

    Raises:
        ToolkitError: something else is there.
    """
    refuse_existing(out, what=WHAT, marker=RECORD, replace=force)


def write_evaluation(out: Path, evaluated: Evaluated, *, force: bool = False) -> None:
    """Write the folder, whole or not at all.

    Args:
        out: folder to be.
        evaluated: what was found.
        force: replace an evaluation that is there.

    Raises:
        ToolkitError: something else is there, or the disk is full.
    """
    content = evaluated.record.model_dump(mode="json")
    with staged_folder(out, what=WHAT, marker=RECORD, replace=force) as stage:
        write_json(stage / RECORD, content)
        plots = stage / "plots"
        if evaluated.values is not None:
            if find_spec("matplotlib"):
                from toolkit.reporting.plots import plot_number_split

                plots.mkdir()
                labels = labels_of(evaluated.images)
                plot_number_split(
                    plots, content["number"], labels, evaluated.values[:, 0].astype(float), content, content["split"]
                )
            write_bytes(stage / "evaluation.html", number_evaluation_html(content, plots).encode())
            return
        if find_spec("matplotlib"):
            from toolkit.reporting.plots import plot_split

            plots.mkdir()
            images = [image.picture for image in evaluated.images]
            split = evaluated.record.split
            plot_split(plots, evaluated.summary, evaluated.curves, evaluated.predictions, images, split=split)
        write_bytes(stage / "evaluation.html", evaluation_html(content, plots).encode())
