"""A finished run, read: its recipe, its best classifier, its data, its metrics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.data.labelled_image import LabelledImage
from toolkit.data.source import DataSource, open_data
from toolkit.data.unlabelled import generated_images, is_plain_folder, unlabelled_images
from toolkit.errors import ToolkitError
from toolkit.files import sha256_of
from toolkit.models.build import WEIGHTS, load_classifier
from toolkit.models.classifier import Classifier
from toolkit.models.text_inputs import text_inputs
from toolkit.recipe.reading import load_resolved
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.untrained import UntrainedRecipe
from toolkit.regular_files import read_settings
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.summary_file import SUMMARY, Summary
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.decision import Decision, at_point, at_thresholds
from toolkit.runtime.label_thresholds import LabelThresholds
from toolkit.runtime.operating_point import OperatingPoint
from toolkit.runtime.value_range import Range
from toolkit.sampling import evenly_spaced
from toolkit.strict_json import read_json, reason_in
from toolkit.user_paths import require_run

LISTED_CLASSES = 100
"""Classes whose metrics a bundle carries."""
SPLITS = ("test", "validation", "train")
HELD_OUT = "held-out images of the run's data set, test split first"
GENERATED_FROM = "generated images, since the run has none of its own; give real ones with --data PATH"
NEEDED_OF_TRUNK = {"precision", "boundary", "form", "calibration_images", "graph_sha256"}


@dataclass(frozen=True)
class Run:
    """A run folder, read: its recipe, its best classifier, its data."""

    path: Path
    data_path: Path | None = None
    """Where its data is now, if it is no longer where the recipe says."""

    def __post_init__(self) -> None:
        require_run(self.path)

    @cached_property
    def recipe(self) -> Recipe | UntrainedRecipe:
        """The resolved recipe, or what made a run that was not trained."""
        return load_resolved(self.path / "recipe.yaml")

    @cached_property
    def _loaded(self) -> tuple[Classifier, Any]:
        return load_classifier(self.path / "best")

    @property
    def classifier(self) -> Classifier:
        """The best classifier, in eval mode."""
        return self._loaded[0]

    @property
    def processor(self) -> Any:
        """The training-time image processor."""
        return self._loaded[1]

    @cached_property
    def value_range(self) -> Range | None:
        """What training read as black and white in images of more than 8 bits; see :mod:`toolkit.models.build`.

        Raises:
            ToolkitError: what is written there is no range.
        """
        name = "best/preprocessor_config.json"
        found = self._json(name).get("value_range")
        try:
            return None if found is None else (float(found[0]), float(found[1]))
        except (TypeError, ValueError, LookupError) as error:
            what = f"value_range is {found!r}, not [low, high]"
            raise ToolkitError(what, where=self.path / name, fix="copy the run again, or train again") from error

    @cached_property
    def trunk(self) -> dict[str, Any] | None:
        """The trunk in a reduced precision that the run's layers learned on; None if it was PyTorch's in fp32."""
        if isinstance(self.recipe, UntrainedRecipe) or self.recipe.training.trunk_precision == "fp32":
            return None
        found = RunFolder(self.path).trunk()
        missing = sorted(NEEDED_OF_TRUNK - set(found or {}))
        if found is None or missing:
            what = f"the trunk's description is damaged: {', '.join(missing)} missing"
            raise ToolkitError(what, where=self.path / "trunk.json", fix="copy the run again, or train again")
        return found

    @property
    def precision(self) -> str:
        """What the run is exported in unless another precision is asked for."""
        return str(self.trunk["precision"]) if self.trunk else "fp32"

    def require_trunk(self, precision: str) -> None:
        """Refuse a precision that puts another trunk in front of the layers than they learned on.

        Raises:
            ToolkitError: it does.
        """
        if self.trunk is not None and precision != self.trunk["precision"]:
            own = self.trunk["precision"]
            raise ToolkitError(
                f"the run's layers learned on a trunk in {own}, and {precision} would put another in front of them",
                where=self.path / "trunk.json",
                fix=f"export with --precision {own}, or train with training.trunk_precision={precision}",
            )

    @cached_property
    def data(self) -> DataSource:
        """The images of the run: its data set, opened again; else those that were given, else generated ones.

        Raises:
            ToolkitError: the data set is gone, or no longer what it was.
        """
        config = self.recipe.data
        if self.data_path is not None and (config is None or is_plain_folder(self.data_path)):
            self.require_no_texts(self.data_path)
            return unlabelled_images(self.data_path.absolute(), self.value_range)
        if config is None:
            return generated_images()
        place = config.path if self.data_path is None else self.data_path.absolute()
        store = config.store if self.data_path is None and not place.exists() else None
        if store is None and not place.exists():
            fix = "give where it is now with --data PATH"
            raise ToolkitError("the data of the run is not here any more", where=place, fix=fix)
        data = open_data(config.model_copy(update={"path": place, "store": store})).read_as(self.value_range)
        trained_on = self.summary.get("data_fingerprint")
        if trained_on and data.fingerprint != trained_on:
            what, fix = "the data changed since the run was trained", "restore the data, or train again"
            if self.data_path is not None:
                what, fix = "this is not the data that the run was trained on", "give that with --data, or train again"
            raise ToolkitError(what, where=place, fix=fix)
        return data

    @property
    def labelled(self) -> bool:
        """Whether the run's images have labels."""
        return bool(self.data.classes)

    @property
    def images_from(self) -> str:
        """Where images come from that the run's classifier did not learn on, in words."""
        if self.labelled:
            return HELD_OUT
        return GENERATED_FROM if self.data_path is None else f"{self.data_path}, without labels"

    def require_no_texts(self, folder: Path) -> None:
        """Refuse a folder of images for a classifier that takes a text with each.

        Raises:
            ToolkitError: it does.
        """
        texts = text_inputs(self.classifier.encoder)
        if texts is not None and not texts.marks_images:
            fix = "give a manifest with images and texts by --data PATH"
            raise ToolkitError("a folder of images has no texts, which the run takes", where=folder, fix=fix)

    def require_real_images(self, what: str) -> None:
        """Refuse generated images for what depends on the images.

        Raises:
            ToolkitError: there are no others.
        """
        if self.recipe.data is None and self.data_path is None:
            fix = "give real images with --data PATH, a folder or a data set"
            raise ToolkitError(f"{what}, and the run has none", where=self.path, fix=fix)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Final metrics of the run.

        Raises:
            ToolkitError: the run did not finish.
        """
        path = self.path / SUMMARY
        if not path.is_file():
            raise ToolkitError(
                "the run did not finish: summary.json is missing", where=self.path, fix="resume it with --resume"
            )
        content = self._json(SUMMARY)
        try:
            Summary.model_validate(content)
        except ValueError as error:
            raise ToolkitError(f"damaged summary: {reason_in(error)}", where=path, fix="train again") from error
        return content

    @cached_property
    def operating_point(self) -> OperatingPoint | None:
        """The threshold that validation chose, where the recipe asked for one.

        Raises:
            ToolkitError: what is written there is none.
        """
        found = self.summary.get("operating_point")
        if found is None:
            return None
        try:
            return OperatingPoint(
                label=found["class"], threshold=found["threshold"], temperature=self.summary["temperature"]
            )
        except (ValueError, TypeError, LookupError) as error:
            what, fix = f"damaged operating point: {reason_in(error)}", "copy the run again, or train again"
            raise ToolkitError(what, where=self.path / SUMMARY, fix=fix) from error

    @cached_property
    def thresholds(self) -> LabelThresholds | None:
        """From which logit on each label is said, where an image may have several.

        Raises:
            ToolkitError: what is written there are none.
        """
        found = self.summary.get("thresholds")
        if found is None:
            return None
        try:
            labels = self.classifier.labels
            return LabelThresholds(cuts=tuple(found["labels"][name]["cut"] for name in labels))
        except (ValueError, TypeError, LookupError) as error:
            what, fix = f"damaged thresholds: {reason_in(error)}", "copy the run again, or train again"
            raise ToolkitError(what, where=self.path / SUMMARY, fix=fix) from error

    @property
    def decision(self) -> Decision:
        """What production will decide of an image from its logits."""
        classifier = self.classifier
        task = at_thresholds(classifier.task.decision, self.thresholds, classifier.labels)
        return at_point(task, self.operating_point, classifier.labels)

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            content = read_json(read_settings(path))
        except (OSError, ValueError) as error:
            raise ToolkitError(
                f"can't read it: {reason_in(error)}", where=path, fix="copy the run again, or train again"
            ) from error
        return content if isinstance(content, dict) else {}

    def held_out(self, count: int, *, exactly: bool = False) -> list[LabelledImage]:
        """Images that were not trained on: the test split's, then validation's; spread over classes.

        Args:
            count: how many, where there are as many.
            exactly: whether fewer are an error.

        Raises:
            ToolkitError: there are fewer, and ``exactly``.
        """
        held_out = ("test", "validation")
        available = sum(len(self.data.splits[split]) for split in held_out)
        if exactly and available < count:
            what = f"{count} held-out images were asked for, but there are {available}"
            raise ToolkitError(what, where=self.data.root, fix=f"leave the option out to use all {available}")
        examples: list[LabelledImage] = []
        for split in held_out:
            members = self.data.splits[split]
            wanted = min(len(members), count - len(examples))
            examples += [members[place] for place in evenly_spaced(len(members), wanted)]
        return examples

    def provenance(self) -> dict[str, Any]:
        """Where a bundle of this run comes from."""
        return {
            "run": str(self.path.absolute()),
            "recipe": self.recipe.model_dump(mode="json"),
            "checkpoint_sha256": sha256_of(self.path / "best" / WEIGHTS),
            "data_fingerprint": self.summary.get("data_fingerprint"),
            "data": self.summary.get("data", {}),
            "figures": {split: _without_long_tail(self.summary[split]) for split in SPLITS if self.summary.get(split)},
            "temperature": self.summary["temperature"],
            "operating_point": self.summary.get("operating_point"),
            **({"thresholds": self.summary["thresholds"]} if "thresholds" in self.summary else {}),
            "training_libraries": self._json("environment.json").get("libraries", {}),
        }


def _without_long_tail(metrics: dict[str, Any]) -> dict[str, Any]:
    """A split's metrics, of more than a hundred classes with those of the lowest F1 alone."""
    by_class = metrics.get("per_class", {})
    if len(by_class) <= LISTED_CLASSES:
        return metrics
    lowest = sorted(by_class, key=lambda name: float(by_class[name]["f1"] or 0))[:LISTED_CLASSES]
    return metrics | {"per_class": {name: by_class[name] for name in lowest}}


def run_of(bundle: Bundle, given: Path | None, data: Path | None = None) -> Run:
    """The run a bundle was exported from, or the one given, if it holds the same checkpoint.

    Args:
        bundle: an opened bundle.
        given: the run folder, if it is no longer where the export found it.
        data: where the run's data is, if it is no longer where its recipe says.

    Raises:
        ToolkitError: it is gone, or another checkpoint than the bundle's.
    """
    path = given or bundle.run
    require_run(path, of_bundle=given is None)
    run = Run(path, data)
    if run.provenance()["checkpoint_sha256"] != bundle.manifest.provenance.get("checkpoint_sha256"):
        fix = "export the run again, or give the run the bundle was made from with --run"
        raise ToolkitError("the run's best checkpoint is not the one in the bundle", where=path, fix=fix)
    return run
