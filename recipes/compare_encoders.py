"""Which encoder: a linear probe on each one's embeddings, judged on validation, beside its latency on this machine.

toolkit encoders compare --data datasets/digits --encoders tiny-clip,FOLDER --out encoders/digits
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from toolkit.data.source import DataSource
    from toolkit.models.encoder import Encoder
    from toolkit.runs.encoders_compare_file import ComparedEncoder, EncodersCompareFile
    from toolkit.runtime.preprocess import Preprocess

SPLITS = ("train", "validation")
"""That are looked at: the choice is made on validation, and the test split stays unseen."""
WHAT = "comparison of encoders"
OPTION, KEY = "--encoders", "model.encoder: "
"""How the command line names encoders, and how errors of a single one begin."""


def compare_encoders(
    data: Path, names: Sequence[str], out: Path | None = None, *, force: bool = False, progress: Progress = SILENT
) -> EncodersCompareFile:
    """Probe every encoder and measure its graph; write ``encoders_compare.json`` and its plot into ``out``.

    Args:
        data: labelled images; a split that they lack is made as for training.
        names: of encoders, as a recipe's ``model.encoder`` has them.
        out: folder to write; nothing is written without it.
        force: replace what an earlier call left in ``out``.
        progress: told how it goes on.

    Raises:
        ToolkitError: no name or one twice, data that no classifier can be trained on, or an encoder that can't be
            used, which it names.
    """
    from toolkit.data.formats import list_data
    from toolkit.data.listing import check_listing
    from toolkit.data.source import open_data
    from toolkit.files import refuse_existing
    from toolkit.recipe.data import DataConfig
    from toolkit.runs.encoders_compare_file import ENCODERS_COMPARE

    require_names(names)
    config = DataConfig(path=data)
    check_listing(list_data(config))
    if out is not None:
        refuse_existing(out, what=WHAT, marker=ENCODERS_COMPARE, replace=force)
    for name in names:  # a mistake in the last of them is said before the first is run
        progress.stage(f"checking {name}")
        with naming(name):
            _opened(name)
    _require_different(names)
    progress.stage("reading images")
    source = open_data(config, progress)
    seen = replace(source, splits={split: source.splits[split] for split in SPLITS})
    with TemporaryDirectory(prefix="clip-toolkit-") as folder:
        content = _compared(seen, names, Path(folder), progress)
    if out is not None:
        _write(content, out, force=force)
    return content


def require_names(names: Sequence[str]) -> None:
    """Refuse no name at all, and one that stands there twice.

    Raises:
        ToolkitError: with the name.
    """
    if not names:
        raise ToolkitError("no encoder is named", where=OPTION, fix="write them like tiny-clip,FOLDER")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ToolkitError(f"{twice} stands there twice", where=OPTION, fix="name each encoder once")


def _require_different(names: Sequence[str]) -> None:
    """Refuse two names of one folder."""
    from toolkit.models.load import resolve

    by_place: dict[str, str] = {}
    for name in names:
        found = resolve(name)
        place = str(Path(found).resolve()) if Path(found).is_dir() else found
        other = by_place.setdefault(place, name)
        if other != name:
            what = f"{other} and {name} are the same encoder"
            raise ToolkitError(what, where=OPTION, fix="name each encoder once")


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Have an error say which encoder it came of."""
    try:
        yield
    except ToolkitError as error:
        place = error.where.removeprefix(KEY).removeprefix(name).strip(": ")
        where = f"{OPTION}: {name}" + (f": {place}" if place else "")
        raise ToolkitError(error.what, where=where, fix=error.fix) from error


def _opened(name: str) -> tuple[Encoder, Any, Preprocess]:
    """An encoder with its processor, whose preprocessing a graph can express."""
    from export.graph.preprocessing import check_expressible
    from toolkit.models.build import open_as_it_is
    from toolkit.models.processing import preprocess_from

    encoder, processor = open_as_it_is(name)
    preprocess = preprocess_from(processor)
    check_expressible(preprocess)
    return encoder, processor, preprocess


@dataclass(frozen=True)
class _Probed:
    """An encoder, before its latency is measured."""

    described: dict[str, Any]
    """Of :class:`~toolkit.runs.encoders_compare_file.ComparedEncoder`."""
    right: npt.NDArray[np.bool_]
    """Of each validation image, whether the probe is."""
    graph: Path
    preprocess: Preprocess


def _compared(source: DataSource, names: Sequence[str], folder: Path, progress: Progress) -> EncodersCompareFile:
    from export.latency.encoder_latency import INPUT, latencies
    from toolkit.metrics.intervals import paired_drop
    from toolkit.runs.encoders_compare_file import BehindBest, ComparedEncoder, EncodersCompareFile
    from toolkit.runtime.latency_file import LatencyRow, Machine
    from toolkit.text import path_text
    from toolkit.training.encoder_probe import RULE

    probed: dict[str, _Probed] = {}
    for number, name in enumerate(names):
        progress.stage(f"{name}: encoding")
        with naming(name):
            probed[name] = _probed(source, name, folder / f"{number}.onnx", _Named(progress, name))
    progress.stage("measuring latency")
    first, images = next(iter(probed.values())), source.splits["validation"]
    graphs = {name: each.graph for name, each in probed.items()}
    measured = latencies(graphs, first.preprocess, (image.read() for image in images), progress)
    rows = {name: LatencyRow.model_validate(row) for name, row in measured.rows.items()}
    order = sorted(names, key=lambda name: (-probed[name].described["accuracy"], rows[name].p50_ms))
    best, groups = order[0], source.groups("validation")
    encoders: list[ComparedEncoder] = []
    for name in order:
        behind = None
        if name != best:
            drop = paired_drop(probed[best].right, probed[name].right, groups)
            behind = BehindBest(value=drop.value, interval=drop.interval)
        encoders.append(ComparedEncoder(**probed[name].described, behind_best=behind, latency=rows[name]))
    return EncodersCompareFile(
        data=path_text(source.root),
        data_fingerprint=source.fingerprint,
        classes=source.classes,
        images={split: len(members) for split, members in source.splits.items()},
        made=[split for split in source.made if split in SPLITS],
        probe=RULE,
        encoders=encoders,
        best=best,
        graph_input=INPUT,
        image_shape=measured.shape,
        machine=Machine.model_validate(measured.machine),
    )


def _probed(source: DataSource, name: str, graph: Path, progress: Progress) -> _Probed:
    """Embeddings of train and validation, the probe on them, and the graph of both."""
    from export.latency.encoder_latency import write_graph
    from toolkit.metrics.intervals import bounded_interval
    from toolkit.models.classifier import Classifier
    from toolkit.models.tower_facts import facts_of
    from toolkit.training.encoder_probe import fit_probe
    from toolkit.training.few_shot.features import features_of

    encoder, processor, preprocess = _opened(name)
    size = preprocess.output_size
    assert size is not None  # checked when it was built
    started = time.perf_counter()
    last = len(encoder.groups) - (encoder.embedding == "projected")
    features = features_of(encoder, processor, source, None, last, progress)
    encoded = time.perf_counter()
    progress.stage("fitting")
    probe = fit_probe(features)
    fitted = time.perf_counter()
    right = (probe.logits.argmax(-1) == features.labels["validation"]).numpy()
    accuracy = float(right.mean())
    classifier = Classifier(encoder.cpu(), probe.head, source.classes).eval()
    facts = facts_of(encoder, *size)
    described = {
        "encoder": name,
        "family": encoder.family.name,
        "embedding": encoder.embedding,
        "embedding_size": encoder.embedding_size,
        "image_size": size,
        "parameters": facts.parameters,
        "gflops": facts.gflops,
        "graph_bytes": write_graph(classifier, preprocess, graph),
        "strength": probe.strength,
        "accuracy": accuracy,
        "interval": bounded_interval(accuracy, right - accuracy, len(right), source.groups("validation")),
        "seconds": {"encoding": encoded - started, "fitting": fitted - encoded},
        "notes": list(encoder.notes),
    }
    return _Probed(described, right, graph, preprocess)


@dataclass(frozen=True)
class _Named(Progress):
    """Progress that says of which encoder."""

    to: Progress
    name: str

    def stage(self, what: str) -> None:
        """See :class:`~toolkit.progress.Progress`."""
        self.to.stage(f"{self.name}: {what}")

    def done(self, count: int, total: int | None = None) -> None:
        """See :class:`~toolkit.progress.Progress`."""
        self.to.done(count, total)

    def step(self) -> None:
        """See :class:`~toolkit.progress.Progress`."""
        self.to.step()


def _write(content: EncodersCompareFile, out: Path, *, force: bool) -> None:
    from toolkit.files import staged_folder
    from toolkit.reporting.encoders_plot import plot_encoders
    from toolkit.runs.encoders_compare_file import ENCODERS_COMPARE, write_encoders_compare

    with staged_folder(out, what=WHAT, marker=ENCODERS_COMPARE, replace=force) as stage:
        write_encoders_compare(stage, content)
        plot_encoders(content.model_dump(mode="json"), stage / "encoders_compare.png")
