"""All that there is to know of an encoder before it is used; of its weights the headers alone are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from toolkit.errors import ToolkitError
from toolkit.models.checkpoint import INDEX, WEIGHTS, Source
from toolkit.models.encoder import Encoder
from toolkit.models.examine import Examined, examine
from toolkit.models.families.family import Family
from toolkit.models.families.summary import precisions_of, sizes_of
from toolkit.models.hub import hub_once
from toolkit.models.image_processor import open_processor
from toolkit.models.known_encoders import KNOWN, KnownEncoder
from toolkit.models.licence import Licence, licence_of
from toolkit.models.load import in_words, quiet_transformers, source_of
from toolkit.models.oddities import oddities, stored_types, trained_side
from toolkit.models.processing import preprocess_from
from toolkit.models.text_encoder import in_text_tower
from toolkit.models.tower_check import NoProjectionError
from toolkit.models.tower_facts import TowerFacts, facts_of
from toolkit.recipe.model import Embedding
from toolkit.runtime.preprocess import Preprocess


@dataclass(frozen=True)
class GroupSize:
    """A group of the encoder."""

    name: str
    parameters: int


@dataclass(frozen=True)
class Stored:
    """A checkpoint's weights as they lie there."""

    dtypes: dict[str, int]
    """How many of the encoder's tensors have each type."""
    files: int
    bytes: int
    """Of all of these files."""

    @property
    def sharded(self) -> bool:
        """Whether there are several."""
        return self.files > 1


@dataclass(frozen=True)
class EncoderSheet:
    """An encoder, of its checkpoint or, where that is not here, of what is known of its name."""

    name: str
    family: str
    model_type: str
    facts: TowerFacts
    embedding_sizes: dict[str, int | None]
    """Of ``projected`` and ``pooled``; the first is None of a checkpoint without its family's projection."""
    groups: list[GroupSize]
    image_size: tuple[int, int] | None
    """[height, width] that the processor gives, else that the positions are for."""
    sizes: str
    """Which sizes the family takes, in words."""
    preprocess: Preprocess | None
    """None where no image processor can be used."""
    licence: Licence
    page: str | None
    zero_shot: bool
    """Whether there is a text tower, whose embeddings make classifiers of names."""
    precisions: list[str]
    """That it can be exported in."""
    stored: Stored | None
    """None where the checkpoint is not here."""
    oddities: list[str]

    @property
    def traced(self) -> bool:
        """Whether no family describes it."""
        return self.facts.layers is None

    def as_json(self) -> dict[str, Any]:
        """The same for a program."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        preprocess = self.preprocess.model_dump(mode="json") if self.preprocess else None
        nested = {name: asdict(plain[name]) for name in ("facts", "licence")}
        stored = asdict(self.stored) | {"sharded": self.stored.sharded} if self.stored else None
        groups = [asdict(group) for group in self.groups]
        checkpoint_read = self.stored is not None
        plain |= nested | {"preprocess": preprocess, "groups": groups, "stored": stored}
        return plain | {"checkpoint_read": checkpoint_read}

    def in_words(self) -> list[tuple[str, str]]:
        """The same for a person, but for groups and oddities: what it is about, empty where a line goes on, and it."""
        facts, stored = self.facts, self.stored
        sizes, tower = "no family describes its layers", f"{facts.parameters:,} parameters"
        if not self.traced:
            sizes = (
                f"{facts.layers} layers, {facts.width} wide, {facts.heads} heads, MLP {facts.mlp}, patches of "
                f"{facts.patch} x {facts.patch} pixels, {facts.tokens} tokens"
            )
            tower += f", {facts.gflops:.3g} GFLOPs an image (a multiply-accumulate is 2)"
        projected, pooled = (self.embedding_sizes[name] for name in ("projected", "pooled"))
        size = f"{self.image_size[1]} x {self.image_size[0]} pixels" if self.image_size else "not stated"
        words = {
            "family": f"{self.family} (model_type {self.model_type})",
            "sizes": sizes,
            "image size": f"{size}; sizes of its family: {self.sizes}",
            "image processor": "not read",
            "image tower": tower,
            "embedding": f"{facts.embedding}; projected: {projected or 'none'}, pooled: {pooled}",
            "text tower": "yes, so zero-shot works" if self.zero_shot else "none",
            "exported in": ", ".join(self.precisions),
        }
        if stored:
            types = " and ".join(f"{kind} ({count} tensors)" for kind, count in stored.dtypes.items())
            files = f"{stored.files} shards" if stored.sharded else "one file"
            words["stored weights"] = f"{types}; {stored.bytes / 1e6:,.1f} MB in {files}, with all that it holds"
        said = f" (says {self.licence.stated_in})" if self.licence.stated_in else ""
        words["licence"] = f"{self.licence.name}{said}" + (f"; {self.page}" if self.page else "")
        steps = processor_in_words(self.preprocess) if self.preprocess else []
        lines = []
        for key, value in words.items():
            first, *others = steps if key == "image processor" and steps else [value]
            lines += [(key, first), *(("", step) for step in others)]
        return lines


def sheet_of(name: str, revision: str | None = None) -> EncoderSheet:
    """Describe an encoder.

    A name of :data:`~toolkit.models.known_encoders.KNOWN` that was not fetched before is described without its files.

    Args:
        name: as :func:`toolkit.models.load.load_encoder` takes it.
        revision: of a hub identifier.

    Raises:
        ToolkitError: no such encoder, or a checkpoint that does not fill it.
    """
    place = source_of(name, revision)
    if name in KNOWN and place.folder is None and not in_cache(place):
        return _of_known(KNOWN[name], place)
    with quiet_transformers(), in_words(place), hub_once(place) as silence:
        try:
            examined = examine(place, "projected")
            encoder = Encoder(examined.family, examined.tower)
            projected: int | None = encoder.embedding_size
        except NoProjectionError:
            examined = examine(place, "pooled")
            encoder, projected = Encoder(examined.family, examined.tower), None
        pooled = examine(place, "pooled")
        processor = _processor_at(place, examined.family)
        notes = [silence] if silence else []
        return _sheet(
            place,
            encoder,
            lambda embedding: projected if embedding == "projected" else _width(pooled),
            preprocess=None if isinstance(processor, ToolkitError) else preprocess_from(processor),
            zero_shot=_has_texts(examined),
            stored=_stored(examined),
            oddities=[*notes, *oddities(place, examined, encoder, processor)],
        )


def in_cache(place: Source) -> bool:
    """Whether a hub's configuration and weights were fetched before."""
    config, *weights = (
        isinstance(try_to_load_from_cache(place.location, file, revision=place.revision), str)
        for file in ("config.json", WEIGHTS, INDEX)
    )
    return config and any(weights)


def _of_known(known: KnownEncoder, place: Source) -> EncoderSheet:
    encoder = known.encoder()
    return _sheet(
        place,
        encoder,
        lambda embedding: known.encoder(embedding).embedding_size,
        side=known.image_size,
        preprocess=None,
        zero_shot=encoder.family.text_model_class is not None,
        stored=None,
        oddities=[],
    )


def _sheet(
    place: Source,
    encoder: Encoder,
    width: Callable[[Embedding], int | None],
    *,
    side: int | None = None,
    preprocess: Preprocess | None,
    zero_shot: bool,
    stored: Stored | None,
    oddities: list[str],
) -> EncoderSheet:
    family, known = encoder.family, KNOWN.get(place.name)
    side = side or _side(encoder)
    size = preprocess.output_size if preprocess else (side, side) if side else None
    groups = [GroupSize(group.name, sum(p.numel() for p in group.parameters())) for group in encoder.groups]
    return EncoderSheet(
        name=place.name,
        family=family.name,
        model_type=encoder.model.config.model_type,
        facts=facts_of(encoder, *(size or (0, 0))),
        embedding_sizes={"projected": width("projected"), "pooled": width("pooled")},
        groups=groups,
        image_size=size,
        sizes=sizes_of(family),
        preprocess=preprocess,
        licence=licence_of(place, read_card=stored is not None),
        page=known.page if known else None if place.folder else f"https://huggingface.co/{place.location}",
        zero_shot=zero_shot,
        precisions=precisions_of(family),
        stored=stored,
        oddities=oddities,
    )


def _side(encoder: Encoder) -> int | None:
    """Side of the images that the positions are for, where the configuration says one."""
    side = getattr(encoder.model.config, "image_size", None)
    return side if isinstance(side, int) else trained_side(encoder)


def _width(examined: Examined) -> int:
    return Encoder(examined.family, examined.tower).embedding_size


def _processor_at(place: Source, family: Family) -> Any:
    """The image processor, or the error that says why there is none."""
    try:
        return open_processor(place, family)
    except ToolkitError as error:
        return error


def _has_texts(examined: Examined) -> bool:
    family = examined.family
    return family.text_model_class is not None and any(in_text_tower(name, family) for name in examined.check.tensors)


def _stored(examined: Examined) -> Stored:
    files: set[Path] = {entry.file for entry in examined.check.tensors.values()}
    return Stored(stored_types(examined), len(files), sum(file.stat().st_size for file in files))


def processor_in_words(preprocess: Preprocess) -> list[str]:
    """What an image processor does, a step a line."""
    height, width = preprocess.size
    resize = {
        "shortest_edge": f"short side to {height} pixels, aspect kept",
        "squash": f"squashed to {width} x {height} pixels",
        None: "not resized",
    }[preprocess.resize]
    steps = [resize if preprocess.resize is None else f"{resize}, {preprocess.resample}"]
    if preprocess.crop:
        steps.append(f"cropped to {preprocess.crop[1]} x {preprocess.crop[0]} pixels in the middle")
    if preprocess.rescale_factor is not None:
        inverse = 1 / preprocess.rescale_factor
        whole = abs(inverse - round(inverse)) < 1e-6 * inverse
        steps.append(f"grey levels times {f'1/{round(inverse)}' if whole else f'{preprocess.rescale_factor:g}'}")
    if preprocess.mean and preprocess.std:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (preprocess.mean, preprocess.std))
        steps.append(f"minus {mean} (mean), divided by {std} (standard deviation)")
    return steps
