"""Decoding JPEGs smaller: only where nearly all decisions are shown to stay, and everywhere that serves."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export.bundle import ExportOptions, export_bundle
from export.latency.measure import MinSamples
from export.latency.request import split_request
from export.latency.tuning.photographs import AGREEMENT, Photographs, find_photographs
from export.latency.tuning.reduced_jpeg import prove_reduced_jpeg
from export.latency.tuning.tune_bundle import Sources, tune_bundle
from recipes.finetune import finetune
from toolkit.data.labelled_image import LabelledImage
from toolkit.data.listing import WholeFile
from toolkit.errors import CheckFailed, ToolkitError
from toolkit.files import write_json
from toolkit.metrics.intervals import images_needed
from toolkit.progress import SILENT, Progress
from toolkit.runs.finished_run import Run
from toolkit.runtime.bundle import Bundle, write_manifest
from toolkit.runtime.decode import decode
from toolkit.runtime.preprocess import Preprocess
from toolkit.runtime.reduced_jpeg import ReducedJpeg, ReducedPreprocess
from toolkit.runtime.serving import Budget, Serving
from toolkit.runtime.verify import verify
from toolkit.serving.classifier import Classifier

PHOTOGRAPHS = 600
EXPECTED = {"p50_ms": 1, "p99_ms": 1, "p99_ms_at_most": 1, "throughput_ips": 1, "accuracy_drop": 0}
SERVED = {
    "provider": "cpu",
    "precision": "fp32",
    "threads": 1,
    "batch_size": 32,
    "expected": EXPECTED | {"accuracy_drop_interval": (0, 0)},
    "budget": {"p99_ms": 100, "max_accuracy_drop": 0},
    "machine": {},
}


def encoded(color: tuple[int, int, int], size: tuple[int, int], kind: str = "JPEG", **options: Any) -> bytes:
    """A colour with a gradient and some noise."""
    rng = np.random.default_rng(sum(color))
    pixels = np.full((size[1], size[0], 3), color, np.float64) + np.linspace(-20, 20, size[0])[:, None]
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)).save(
        file, kind, **options
    )
    return file.getvalue()


@pytest.fixture(scope="module")
def run(make_recipe: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("reduced")
    finetune(make_recipe("clip"), root / "run")
    return Run(root / "run")


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reduced") / "bundle"
    export_bundle(run, out, ExportOptions(images=12))
    return out


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of 70x66 pixels, twice what the encoder sees, a PNG and a small JPEG."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(PHOTOGRAPHS):
        color = [(200, 40, 40), (40, 200, 40), (40, 40, 200)][number % 3]
        content = encoded(tuple(min(255, part + number % 7) for part in color), (70, 66))  # type: ignore[arg-type]
        (folder / f"{number:04d}.jpg").write_bytes(content)
    (folder / "small.jpg").write_bytes(encoded((9, 9, 9), (63, 63)))
    (folder / "other.png").write_bytes(encoded((9, 9, 9), (70, 66), "PNG"))
    return folder


@pytest.fixture(scope="module")
def proof(exported: Path, photographs: Path) -> ReducedJpeg:
    return proof_on(exported, photographs)


def proof_on(bundle: Path, folder: Path, progress: Progress = SILENT) -> ReducedJpeg:
    """What images of a folder prove."""
    opened = Bundle(bundle)
    return proven(opened, in_folder(opened, folder), progress)


def proven(bundle: Bundle, photographs: Photographs, progress: Progress = SILENT) -> ReducedJpeg:
    return prove_reduced_jpeg(bundle, Serving.model_validate(SERVED), photographs, progress, MinSamples(2, 0))


def in_folder(bundle: Bundle, folder: Path) -> Photographs:
    return find_photographs(bundle, "image", None, folder)


def with_serving(path: Path, **settings: Any) -> Bundle:
    """A bundle with a ``serving.json``."""
    bundle = Bundle(path)
    write_json(path / "serving.json", Serving.model_validate(SERVED | settings).model_dump(mode="json"))
    write_manifest(path, bundle.manifest)
    bundle.reopen()
    return bundle


@pytest.mark.parametrize(
    ("size", "kind", "smaller"),
    [
        ((130, 100), "JPEG", (65, 50)),
        ((100, 130), "JPEG", (50, 65)),
        ((1040, 1000), "JPEG", (130, 125)),
        ((63, 200), "JPEG", (63, 200)),
        ((64, 64), "JPEG", (32, 32)),
        ((130, 100), "PNG", (130, 100)),
        ((130, 100), "WEBP", (130, 100)),
    ],
)
def test_a_jpeg_is_decoded_no_smaller_than_the_resize_needs(
    size: tuple[int, int], kind: str, smaller: tuple[int, int]
) -> None:
    preprocess = Preprocess(resize="shortest_edge", size=(32, 32), crop=(32, 32))
    content, reduced = encoded((200, 40, 40), size, kind), ReducedPreprocess.of(preprocess)
    assert reduced.decoded(content).size == smaller
    assert preprocess.decoded(content).size == size
    assert reduced.reduces(content) == (size != smaller)
    near = np.abs(reduced(reduced.decoded(content)) - preprocess(preprocess.decoded(content)))
    assert near.mean() < 0.02


def test_a_turned_jpeg_keeps_enough_of_its_short_side() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded((200, 40, 40), (130, 100), exif=exif)
    reduced = ReducedPreprocess(resize="squash", size=(32, 48))
    assert reduced.decoded(content).size == (50, 65)
    assert not ReducedPreprocess(resize="squash", size=(32, 51)).reduces(content)


def test_without_a_resize_nothing_is_reduced() -> None:
    content = encoded((200, 40, 40), (130, 100))
    cropped = ReducedPreprocess(resize=None, size=(32, 32), crop=(32, 32))
    assert cropped.decoded(content).size == (130, 100)
    assert not cropped.reduces(content)
    assert not cropped.reduces(b"no image")
    assert decode(content, reduced_to=None).size == (130, 100)


def test_the_proof_counts_the_jpegs_that_decode_smaller(bundle: Path, photographs: Path, proof: ReducedJpeg) -> None:
    assert proof.images == PHOTOGRAPHS
    assert proof.source == str(photographs)
    assert 0 < proof.max_abs_logit < 1
    assert (1 - proof.top1_agreement) * PHOTOGRAPHS == pytest.approx(proof.flip_count)
    assert proof.top1_agreement_at_least >= 0.995
    opened = with_serving(bundle, reduced_jpeg=proof)
    assert opened.serving
    assert opened.serving.reduced_jpeg == proof
    assert verify(bundle)["passed"]


def test_what_is_tuned_so_decodes_smaller(bundle: Path, photographs: Path, proof: ReducedJpeg) -> None:
    opened = with_serving(bundle, reduced_jpeg=proof)
    images = sorted(photographs.iterdir())[:4]
    with Classifier.open(opened) as reduced, Classifier.open(opened, precision="fp32", provider="cpu") as same:
        assert reduced.pool.reduced_jpeg
        assert same.pool.reduced_jpeg
        smaller = [predicted.logits for predicted in reduced.stream(images)]  # type: ignore[union-attr]
    (bundle / "serving.json").unlink()
    write_manifest(bundle, opened.manifest)
    with Classifier.open(bundle) as full:
        assert not full.pool.reduced_jpeg
        exact = [predicted.logits for predicted in full.stream(images)]  # type: ignore[union-attr]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(smaller, exact, strict=True))


def test_a_request_is_timed_as_it_is_served(bundle: Path, photographs: Path, proof: ReducedJpeg) -> None:
    opened = with_serving(bundle, reduced_jpeg=proof)
    session = opened.session()
    contents = [path.read_bytes() for path in sorted(photographs.glob("0*.jpg"))[:2]]
    row = split_request(opened, "fp32", session, contents, MinSamples(2, 0))
    assert row["decode_ms"] > 0
    assert json.dumps(row)


class Told(Progress):
    """Keeps the stages, and calls ``at_end`` with the name of each whose last part is done."""

    def __init__(self, at_end: Callable[[str], object] = str) -> None:
        self.stages, self.at_end = list[str](), at_end

    def stage(self, what: str) -> None:
        self.stages.append(what)

    def done(self, count: int, total: int | None = None) -> None:
        if count == total:
            self.at_end(self.stages[-1])


def test_what_proves_nothing_is_refused_before_anything_is_measured(bundle: Path, photographs: Path) -> None:
    few, budget = bundle.parent / "few", Budget(p99_ms=5000, max_accuracy_drop=100)
    few.mkdir()
    for path in sorted(photographs.iterdir())[:3]:
        shutil.copy(path, few)
    for sources, says in (
        (Sources(images=few), r"3 JPEGs of .*few have 64 or more pixels .* takes 598 without"),
        (Sources(), "0 JPEGs of the validation split"),
    ):
        told = Told()
        with pytest.raises(ToolkitError, match=says) as caught:
            tune_bundle(Bundle(bundle), budget, provider="cpu", sources=sources, reduced_jpeg=True, progress=told)
        assert "--images" in caught.value.fix
        assert told.stages == ["looking for JPEGs that decode smaller"]
    assert images_needed(1 - AGREEMENT) == 598


def test_neither_run_nor_folder_is_refused_before_anything_is_measured(bundle: Path) -> None:
    opened, told = Bundle(bundle), Told()
    moved = opened.manifest.model_copy(update={"provenance": opened.manifest.provenance | {"run": "/nowhere"}})
    write_manifest(bundle, moved)
    budget = Budget(p99_ms=5000, max_accuracy_drop=100)
    with pytest.raises(ToolkitError, match="the run is not here, and no folder is given"):
        tune_bundle(Bundle(bundle), budget, provider="cpu", reduced_jpeg=True, progress=told)
    assert told.stages == ["looking for JPEGs that decode smaller"]


@pytest.fixture
def damaged(photographs: Path, tmp_path: Path) -> Path:
    """The same photographs, of which the first is cut off behind its header."""
    folder = Path(shutil.copytree(photographs, tmp_path / "damaged"))
    first = folder / "0000.jpg"
    first.write_bytes(first.read_bytes()[:-200])
    assert ReducedPreprocess(resize="squash", size=(32, 32)).reduces(first.read_bytes())
    return folder


def test_a_damaged_jpeg_is_left_out(bundle: Path, damaged: Path, proof: ReducedJpeg) -> None:
    found = proof_on(bundle, damaged)
    assert found.images == PHOTOGRAPHS - 1
    assert found.flip_count <= proof.flip_count


def test_the_damaged_ones_do_not_count_among_those_that_it_takes(bundle: Path, damaged: Path) -> None:
    for name in ("0001.jpg", "0002.jpg"):
        (damaged / name).unlink()
    found = in_folder(Bundle(bundle), damaged)
    assert len(found.jpegs) == 598
    says = r"597 JPEGs of .* have .* takes 598 .*; 1 more can't be read, such as .*damaged/0000.jpg \(.*truncated"
    with pytest.raises(ToolkitError, match=says):
        proven(Bundle(bundle), found)


def test_one_that_is_lost_between_the_two_is_no_decision_that_stays(
    bundle: Path, photographs: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(photographs, tmp_path / "copies"))
    told = Told(lambda _: (folder / "0007.jpg").unlink(missing_ok=True))
    with pytest.raises(CheckFailed, match=r"nothing was written: .*0007.jpg could be read in full, .*: No such file"):
        proof_on(bundle, folder, told)


@pytest.fixture
def patients(photographs: Path) -> Callable[[int], list[LabelledImage]]:
    """Photographs as images of a split, so many of each patient."""
    files = sorted(photographs.glob("0*.jpg"))

    def split(each: int) -> list[LabelledImage]:
        return [
            LabelledImage(path, 0, WholeFile(str(path)), group=f"patient {number // each}")
            for number, path in enumerate(path for path in files for _ in range(2))
        ]

    return split


def test_photographs_of_one_patient_flip_together(
    bundle: Path, patients: Callable[[int], list[LabelledImage]], proof: ReducedJpeg
) -> None:
    """Twice the images of as many patients say what half of them say of independent ones."""
    opened = Bundle(bundle)
    found = find_photographs(opened, "image", patients(2), None)
    assert len(found.jpegs) == 2 * PHOTOGRAPHS
    held = proven(opened, found)
    assert held.source == "the validation split"
    assert held.top1_agreement == proof.top1_agreement == 1
    assert held.top1_agreement_at_least == pytest.approx(proof.top1_agreement_at_least, abs=1e-5)


def test_few_patients_are_refused_however_many_images_they_have(
    bundle: Path, patients: Callable[[int], list[LabelledImage]]
) -> None:
    says = "1,200 JPEGs of the validation split in 60 groups have .* takes 598, each of another group, without"
    with pytest.raises(ToolkitError, match=says):
        find_photographs(Bundle(bundle), "image", patients(20), None)


def test_photographs_whose_decisions_change_are_refused(bundle: Path, tmp_path: Path) -> None:
    """Stripes one pixel wide vanish at half the size: what they say is lost, and that is seen."""
    folder = tmp_path / "stripes"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(PHOTOGRAPHS):
        pixels = rng.integers(0, 2, (64, 64, 3)).astype(np.uint8) * 255
        Image.fromarray(pixels).save(folder / f"{number:04d}.jpg", quality=95, subsampling=0)
    with pytest.raises(CheckFailed, match=r"nothing was written: \d+ of 600 JPEGs of .* get another decision"):
        proof_on(bundle, folder)
