"""Peak memory: of photographs, bounded by a batch of pixels; of an export, bounded by a few times the weights."""

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
from toolkit.data.labelled_image import UNLABELLED, LabelledImage
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle
bundle, reference = Bundle(Path(sys.argv[1])), Reference(Run(Path(sys.argv[2])))
samples = [LabelledImage(Path(path), UNLABELLED, WholeFile(path)) for path in sys.argv[3:]]
outcome = compare(bundle.session(threads=1), bundle.preprocess, reference, samples)
assert len(outcome.names) == len(samples) and set(outcome.worst_by_batch_size) == {1}, outcome.worst_by_batch_size
"""
EXPORT = """
from export.bundle import ExportOptions, export_bundle
from toolkit.runs.finished_run import Run
export_bundle(Run(Path(sys.argv[1])), Path(sys.argv[2]), ExportOptions(images=8), threads=1)
"""
NARROW, WIDE = 32, 512
MOST_TIMES_THE_WEIGHTS = 4

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """12 megapixels each."""
    folder = tmp_path_factory.mktemp("photos")
    ramp = np.add.outer(np.arange(HEIGHT) // 16, np.arange(WIDTH) // 16).astype(np.uint8)
    for number in range(PHOTOS):
        Image.fromarray(np.stack([ramp + number, ramp, 255 - ramp], -1)).save(folder / f"{number:02d}.jpg")
    return [str(path) for path in sorted(folder.iterdir())]


def save_run(width: int, folder: Path) -> int:
    """Write a run of random weights, four layers of some width; return the weights' MB."""
    import torch
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    from toolkit.models.classifier import Classifier
    from toolkit.models.encoder import Encoder
    from toolkit.models.families.clip import Clip
    from toolkit.models.head import build_head
    from toolkit.recipe.model import HeadConfig, ModelConfig
    from toolkit.recipe.untrained import UntrainedRecipe
    from toolkit.training.ready_run import write_ready_run

    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 4, "num_attention_heads": 4}
    encoder = Encoder(Clip(), CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, image_size=32, patch_size=16)))
    head = HeadConfig(type="linear", dropout=0)
    classifier = Classifier(encoder, build_head(head, encoder.embedding_size, 2), ["dark", "light"]).eval()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    model = ModelConfig(encoder="random", unfreeze_last=0, head=head)
    write_ready_run(folder, UntrainedRecipe(method="import", data=None, model=model), classifier, processor, None)
    return (folder / "best" / "model.safetensors").stat().st_size >> 20


def peak_mb(script: str, *arguments: str) -> int:
    command = [sys.executable, "-c", SCRIPT.format(script=script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("script", [PREDICT, pytest.param(PARITY, marks=pytest.mark.slow)], ids=["predict", "parity"])
def test_many_photographs_take_little_more_memory_than_one(
    script: str, finished_run: Path, finished_bundle: Path, photos: list[str]
) -> None:
    one = peak_mb(script, str(finished_bundle), str(finished_run), photos[0])
    many = peak_mb(script, str(finished_bundle), str(finished_run), *photos)
    assert many - one < ALLOWED_MB


@pytest.mark.slow
def test_an_export_takes_a_few_times_its_weights(tmp_path: Path) -> None:
    """Beside the same export of next to no weights; the graph, its parts and PyTorch would each hold them."""
    weights, peaks = {}, {}
    for width in (NARROW, WIDE):
        run, out = tmp_path / f"run-{width}", tmp_path / f"bundle-{width}"
        weights[width] = save_run(width, run)
        peaks[width] = peak_mb(EXPORT, str(run), str(out))
    assert weights[WIDE] >= 40
    assert peaks[WIDE] - peaks[NARROW] <= MOST_TIMES_THE_WEIGHTS * (weights[WIDE] - weights[NARROW])
