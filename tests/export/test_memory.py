"""Peak memory of photographs: bounded by a batch of pixels, however many there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT, PHOTOS = 4000, 3000, 16
ALLOWED_MB = 700
"""More than for one photograph: all 16 in one batch would take 4,700 more (25 bytes a pixel), one more takes 150."""
SCRIPT = """
import sys
from pathlib import Path
{script}
status = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")))
"""
PREDICT = """
from toolkit.runtime.bundle import Bundle
from toolkit.serving.classifier import Classifier
bundle = Bundle(Path(sys.argv[1]))
entries = list(Classifier.open(bundle, threads=1).entries([Path(path) for path in sys.argv[3:]]))
assert all("label" in entry for entry in entries), entries
"""
PARITY = """
from export.parity.prove import compare
from export.parity.reference import Reference
from toolkit.data.listing import WholeFile
from toolkit.data.source import UNLABELLED, LabelledImage
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
bundle, reference = Bundle(Path(sys.argv[1])), Reference(Run(Path(sys.argv[2])))
samples = [LabelledImage(Path(path), UNLABELLED, WholeFile(path)) for path in sys.argv[3:]]
outcome = compare(bundle.session(threads=1), bundle.preprocess, reference, samples)
assert len(outcome.names) == len(samples) and set(outcome.worst_by_batch_size) == {1}, outcome.worst_by_batch_size
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """12 megapixels each."""
    folder = tmp_path_factory.mktemp("photos")
    ramp = np.add.outer(np.arange(HEIGHT) // 16, np.arange(WIDTH) // 16).astype(np.uint8)
    for number in range(PHOTOS):
        Image.fromarray(np.stack([ramp + number, ramp, 255 - ramp], -1)).save(folder / f"{number:02d}.jpg")
    return [str(path) for path in sorted(folder.iterdir())]


def peak_mb(script: str, *arguments: str) -> int:
    command = [sys.executable, "-c", SCRIPT.format(script=script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("script", [PREDICT, PARITY], ids=["predict", "parity"])
def test_many_photographs_take_little_more_memory_than_one(
    script: str, finished_run: Path, finished_bundle: Path, photos: list[str]
) -> None:
    one = peak_mb(script, str(finished_bundle), str(finished_run), photos[0])
    many = peak_mb(script, str(finished_bundle), str(finished_run), *photos)
    assert many - one < ALLOWED_MB
