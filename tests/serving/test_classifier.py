"""What ``toolkit.load`` gives: one image or several, in whatever form they come."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import GOLDEN_NAMES
from tiny_graph import LABELS

import toolkit
from toolkit.errors import ToolkitError
from toolkit.runtime.decode import UnreadableImageError
from toolkit.serving.classifier import Classifier


@pytest.fixture
def classifier(bundle: Path) -> Classifier:
    return toolkit.load(bundle, threads=1)


def test_every_form_of_an_image_gives_the_same_prediction(classifier: Classifier, bundle: Path) -> None:
    path = bundle / "golden" / GOLDEN_NAMES[0]
    image = Image.open(path)
    forms = [path, str(path), path.read_bytes(), image, np.asarray(image)]
    assert classifier.labels == LABELS
    (prediction, *others) = [classifier.predict(form) for form in forms]
    for other in others:
        assert other == prediction
        assert np.array_equal(other.logits, prediction.logits)
    assert prediction.label == max(prediction.probabilities, key=prediction.probabilities.__getitem__)
    assert prediction.probability == prediction.probabilities[prediction.label]
    assert list(prediction.probabilities) == LABELS
    assert classifier.predict(forms) == classifier.predict(tuple(forms)) == [prediction] * 5
    assert classifier.predict([]) == []


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16"])
def test_an_opened_image_is_treated_as_its_file(
    mode: str, orientation: int, classifier: Classifier, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 2**16 if mode == "I;16" else 256, (9, 13), np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(pixels)
    image = image if mode in ("L", "I;16") else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Pillow maps an uncompressed TIFF into memory, and then forgets to turn it
    image.save(tmp_path / "image.tif", exif=exif, compression="tiff_deflate")
    with Image.open(tmp_path / "image.tif") as opened:
        assert classifier.predict(opened) == classifier.predict(tmp_path / "image.tif")
        assert opened.mode == mode


def test_bad_images_are_raised_or_stand_in_their_place(classifier: Classifier, bundle: Path) -> None:
    good = bundle / "golden" / GOLDEN_NAMES[0]
    with pytest.raises(UnreadableImageError):
        classifier.predict([good, b"no image"])
    predicted = list(classifier.stream([good, b"no image", good]))
    assert [isinstance(each, UnreadableImageError) for each in predicted] == [False, True, False]
    assert predicted[0] == predicted[2]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (np.zeros((4, 4), np.uint8), "array of uint8"),
        (np.zeros((4, 4, 3)), "array of float64"),
        (np.zeros((0, 4, 3), np.uint8), "is no image"),
        (np.zeros((2, 4, 4, 3), np.uint8), "is no image"),
        (7, "a int is no image"),
        (io.BytesIO(b""), "a BytesIO is no image"),
    ],
)
def test_what_is_no_image_is_refused(source: object, says: str, classifier: Classifier) -> None:
    with pytest.raises(ToolkitError, match=says):
        classifier.predict(source)  # type: ignore[call-overload]


def test_threads_may_share_a_classifier(bundle: Path) -> None:
    paths = [bundle / "golden" / name for name in GOLDEN_NAMES]
    with toolkit.load(bundle, threads=1, sessions=2) as classifier, ThreadPoolExecutor(8) as workers:
        expected = [classifier.predict(path) for path in paths]
        assert list(workers.map(classifier.predict, paths * 20)) == expected * 20


def test_several_sessions_give_the_same_bits_as_one(bundle: Path) -> None:
    paths = [bundle / "golden" / name for name in GOLDEN_NAMES] * 9
    with toolkit.load(bundle, threads=1) as one, toolkit.load(bundle, threads=1, sessions=3, batch_size=4) as several:
        assert one.predict(paths, batch_size=4) == several.predict(paths)
