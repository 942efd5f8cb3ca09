"""The ELPV data set: 2,624 electroluminescence images of solar cells, as image folders."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from toolkit.data.package import package_folder
from toolkit.data.writer import EncodedImage, write_dataset

ABOUT = {
    "name": "elpv",
    "source": "Buerhop-Lutz et al., A Benchmark for Visual Identification of Defective Solar Cells in "
    "Electroluminescence Imagery, EU PVSEC 2018; Deitsch et al., Solar Energy 185 (2019)",
    "url": "https://github.com/zae-bayern/elpv-dataset",
    "licence": "CC BY-NC-SA 4.0",
    "note": "300x300 grey images; defective = the experts' defect probability is at least 0.5",
}

GRADES = ("functional", "possibly-defective", "probably-defective", "defective")
"""The experts' four answers from the first to the last: a defect probability of 0, 1/3, 2/3 and 1."""
OF_GRADES = {"note": f"300x300 grey images; the experts' defect probability of 0, 1/3, 2/3, 1: {' < '.join(GRADES)}"}


def write_elpv(dest: Path, *, seed: int = 0, grades: bool = False, force: bool = False) -> dict[str, Any]:
    """Write ``train/ val/ test/`` of ``defective`` and ``functional``; return the content of ``dataset.json``.

    The images come from the installed package ``elpv-dataset`` and are copied byte by byte.

    Args:
        dest: folder to be.
        seed: of the split.
        grades: write the four grades of the experts in place of these two classes.
        force: replace a data set that is already there.

    Raises:
        ToolkitError: the package isn't installed.
    """
    folder = package_folder("elpv_dataset", distribution="elpv-dataset", verb="toolkit data elpv") / "data"
    images = []
    with (folder / "labels.csv").open(newline="") as table:
        for path, probability, *_ in csv.reader(table, delimiter=" ", skipinitialspace=True):
            label = GRADES[round(float(probability) * 3)] if grades else GRADES[3 if float(probability) >= 0.5 else 0]
            images.append(EncodedImage(Path(path).name, label, (folder / path).read_bytes()))
    return write_dataset(dest, images, ABOUT | (OF_GRADES if grades else {}), seed=seed, force=force)
