"""A classifier from a recipe's ``model`` section, and the same classifier to and from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from transformers.initialization import no_init_weights
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from toolkit.errors import ToolkitError
from toolkit.files import write_json
from toolkit.models.checkpoint import Source
from toolkit.models.classifier import Classifier
from toolkit.models.encoder import Encoder
from toolkit.models.examine import MALFORMED
from toolkit.models.families.family import Family
from toolkit.models.families.registry import DESCRIBED, family_named
from toolkit.models.fusion import Fusion
from toolkit.models.head import CosineHead, build_head
from toolkit.models.image_processor import check_output_size, open_processor
from toolkit.models.load import load_encoder, load_processor, quiet_transformers
from toolkit.models.modalities import AnyEncoder, image_tower_of, text_tower_of
from toolkit.models.multimodal import MultimodalEncoder
from toolkit.models.selection import freeze_all_but, select_groups
from toolkit.models.tensor_files import difference, listed, load_tensors, save_tensors
from toolkit.models.text_encoder import load_text_encoder, open_tokenizer
from toolkit.models.text_network import TextNetwork
from toolkit.models.tower_check import NoProjectionError
from toolkit.models.zero_shot import class_embeddings, text_head
from toolkit.recipe.model import Embedding, FusionConfig, HeadConfig, ModelConfig
from toolkit.recipe.prompts import TEMPLATES
from toolkit.regular_files import read_settings
from toolkit.runtime.value_range import Range
from toolkit.tasks.registry import task_named
from toolkit.tasks.task import SINGLE_LABEL

WEIGHTS, CONFIG, LABELS = "model.safetensors", "config.json", "labels.json"
EMBEDDINGS = get_args(Embedding)
FORMAT = 1
"""Of ``config.json``."""


def build_classifier(
    config: ModelConfig, labels: list[str], seed: int, value_range: Range | None = None
) -> tuple[Classifier, Any]:
    """Load the encoder, add a head seeded with ``seed``, freeze what does not learn.

    Args:
        config: the recipe's section.
        labels: the classes.
        seed: of the head.
        value_range: what black and white are in images of more than 8 bits. The processor carries it, so that
            ``preprocessor_config.json`` says all of what lies between a file and ``pixel_values``.

    Returns:
        The classifier, in train mode, and the family's image processor.

    Raises:
        ToolkitError: an encoder or a processor that can't be used as its files are, or groups that don't exist.
    """
    encoder, processor = _opened(config)
    processor.value_range = value_range
    if config.head.type == "tip-adapter":
        fix = "use type: cosine with init: text, or make one by toolkit few-shot --methods tip-adapter-f"
        raise ToolkitError("a tip-adapter head caches images", where="model.head.type", fix=fix)
    task = task_named(config.task, "model.task")
    torch.manual_seed(seed)
    head = build_head(config.head, encoder.embedding_size, len(labels), task.head)
    if config.head.init == "text":
        head = _text_head(config, labels)
    classifier = Classifier(encoder, head, labels, task)
    groups = classifier.groups
    names = [group.name for group in groups]
    freeze_all_but(groups, classifier, select_groups(names, last=config.unfreeze_last, named=config.unfreeze))
    return classifier, processor


def _opened(config: ModelConfig) -> tuple[AnyEncoder, Any]:
    """What takes the recipe's inputs, and the family's image processor, which texts alone leave unused."""
    if "image" not in config.inputs:
        text = open_text_network(config)
        return text, load_processor(config.encoder, text.family, revision=config.revision)
    encoder, processor = open_encoder(config)
    if "text" not in config.inputs:
        return encoder, processor
    return beside(encoder, open_text_network(config), config.fusion), processor


def open_encoder(config: ModelConfig) -> tuple[Encoder, Any]:
    """The image tower, and its family's image processor.

    Raises:
        ToolkitError: an encoder or a processor that can't be used as its files are.
    """
    encoder = load_encoder(config.encoder, config.embedding, config.image_size, config.revision)
    processor = load_processor(config.encoder, encoder.family, config.image_size, config.revision)
    check_output_size(processor, encoder, Source(config.encoder, config.encoder))
    return encoder, processor


def open_text_network(config: ModelConfig) -> TextNetwork:
    """The text tower beside the encoder, with its tokenizer.

    Raises:
        ToolkitError: the encoder has none, or one that can't be used as its files are.
    """
    text = load_text_encoder(config.encoder, config.revision)
    return TextNetwork(text.family, text.model, text.tokenizer)


def beside(image: Encoder, text: TextNetwork, config: FusionConfig) -> MultimodalEncoder:
    """Both towers as one encoder, with a fusion that has learned nothing yet."""
    width = image.model.config.hidden_size if config.type == "cross-attention" else image.embedding_size
    return MultimodalEncoder(image, text, Fusion(config, width, text.embedding_size))


def open_as_it_is(name: str, revision: str | None = None) -> tuple[Encoder, Any]:
    """:func:`open_encoder` by a name alone; it gives what its projection makes where it has one, else what is pooled.

    Args:
        name: as :func:`toolkit.models.load.load_encoder` takes it.
        revision: of a hub identifier.
    """
    config = ModelConfig(encoder=name, revision=revision, unfreeze_last=0)
    try:
        return open_encoder(config)
    except NoProjectionError:
        return open_encoder(config.model_copy(update={"embedding": "pooled"}))


def _text_head(config: ModelConfig, labels: list[str]) -> CosineHead:
    """A head of the labels' text embeddings, from the text tower beside the encoder.

    Raises:
        ToolkitError: the embedding is not the one that texts share, or texts for labels that there are not.
    """
    if config.embedding != "projected":
        fix = "set model.embedding=projected, which images and texts share"
        raise ToolkitError(f"texts have no {config.embedding} embedding", where="model.head.init", fix=fix)
    unknown = sorted(set(config.head.texts) - set(labels))
    if unknown:
        fix = f"write texts for some of {listed(labels)}"
        raise ToolkitError(f"texts for labels that there are not: {listed(unknown)}", where="model.head.texts", fix=fix)
    encoder = load_text_encoder(config.encoder, config.revision)
    templates = config.head.templates or TEMPLATES
    return text_head(encoder, class_embeddings(encoder, labels, templates, config.head.texts))


def trainable_groups(classifier: Classifier) -> list[str]:
    """Names of the groups that learn."""
    return [group.name for group in classifier.groups if any(p.requires_grad for p in group.parameters())]


def save_classifier(
    folder: Path, classifier: Classifier, head: HeadConfig, processor: Any, weights: dict[str, Tensor] | None = None
) -> None:
    """Write weights, configuration, processor and labels into an existing folder.

    Args:
        folder: where to.
        classifier: what is saved.
        head: its head's configuration.
        processor: its image processor.
        weights: the whole state, where the classifier itself holds but a shard of it.
    """
    save_tensors(folder / WEIGHTS, classifier.state_dict() if weights is None else weights)
    encoder = classifier.encoder
    config = {
        "format": FORMAT,
        "task": classifier.task.name,
        "family": classifier.encoder.family.name,
        "embedding": classifier.encoder.embedding,
        "encoder": classifier.encoder.model.config.to_dict(),
        "head": head.model_dump(mode="json"),
        "trainable_groups": trainable_groups(classifier),
    }
    text = text_tower_of(encoder)
    if text is not None:
        config["text"] = text.model.config.to_dict()
        text.tokenizer.save_pretrained(folder)
    if image_tower_of(encoder) is None:
        config["encoder"] = None
    if isinstance(encoder, MultimodalEncoder):
        config["fusion"] = encoder.fusion.config.model_dump(mode="json")
    write_json(folder / CONFIG, config)
    write_json(folder / LABELS, classifier.labels)
    processor.save_pretrained(folder)


def load_classifier(folder: Path) -> tuple[Classifier, Any]:
    """Read what :func:`save_classifier` wrote: a classifier in eval mode and its processor.

    Raises:
        ToolkitError: no checkpoint there, or one that is damaged.
    """
    missing = [name for name in (WEIGHTS, CONFIG, LABELS) if not (folder / name).is_file()]
    if missing:
        what = f"no trained classifier: {', '.join(missing)} missing"
        raise ToolkitError(what, where=folder, fix="give a run folder that recipes/finetune.py finished")
    place = Source(str(folder), str(folder), key="")
    config, labels = _content(folder, CONFIG), _labels(folder)
    family, embedding = _described(config, folder)
    task = task_named(config.get("task", SINGLE_LABEL.name), f"{folder / CONFIG}: task")
    try:
        with quiet_transformers(), no_init_weights():  # all of them are loaded below
            processor = open_processor(place, family)
            encoder = _empty_encoder(config, family, embedding, place)
        head = build_head(HeadConfig(**config["head"]), encoder.embedding_size, len(labels), task.head)
        classifier = Classifier(encoder, head, labels, task)
        weights = load_tensors(folder / WEIGHTS)
    except MALFORMED as error:
        raise _damaged(" ".join(str(error).split()), folder) from error
    image = image_tower_of(encoder)
    if image is not None:
        check_output_size(processor, image, place)
    _check_classes(weights, classifier, folder)
    wrong = difference(weights, classifier.state_dict())
    if wrong:
        raise _damaged(f"{WEIGHTS}: {wrong}", folder)
    if bool((weights["temperature"] <= 0).any()):
        raise _damaged(f"{WEIGHTS}: the temperature is not above zero", folder)
    classifier.load_state_dict(weights)
    return classifier.eval(), processor


def _empty_encoder(config: dict[str, Any], family: Family, embedding: Embedding, place: Source) -> AnyEncoder:
    """The encoder that a configuration describes, without weights."""
    text = _text_network(config, family, place) if "text" in config else None
    if config["encoder"] is None:
        if text is None:
            raise ValueError("it describes neither an image tower nor a text tower")
        return text
    config_class = CONFIG_MAPPING[config["encoder"]["model_type"]]
    vision_config = family.vision_config(config_class.from_dict(config["encoder"]), embedding)
    model_class = family.model_class(vision_config, embedding)
    image = Encoder(family, model_class(vision_config, **family.model_arguments))
    return image if text is None else beside(image, text, FusionConfig(**config["fusion"]))


def _text_network(config: dict[str, Any], family: Family, place: Source) -> TextNetwork:
    """A text tower without weights, as a configuration has it, and the tokenizer beside it."""
    text_config = CONFIG_MAPPING[config["text"]["model_type"]].from_dict(config["text"])
    return TextNetwork(family, family.text_model_class(text_config), open_tokenizer(place))


def _damaged(reason: str, folder: Path) -> ToolkitError:
    return ToolkitError(f"damaged checkpoint: {reason}", where=folder, fix="train again, or copy it again")


def _content(folder: Path, name: str) -> Any:
    try:
        return json.loads(read_settings(folder / name))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(f"{name} can't be read: {' '.join(str(error).split())}", folder) from error


def _labels(folder: Path) -> list[str]:
    labels = _content(folder, LABELS)
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise _damaged(f"{LABELS} is no list of names", folder)
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise _damaged(f"{LABELS} holds {len(twice)} names twice: {listed(twice)}", folder)
    return labels


def _described(config: Any, folder: Path) -> tuple[Family, Embedding]:
    """Family and embedding that a configuration names; those written before there was a choice are projected."""
    if not isinstance(config, dict):
        raise _damaged(f"{CONFIG} holds no JSON object", folder)
    missing = [key for key in ("family", "encoder", "head") if key not in config]
    if missing:
        raise _damaged(f"{CONFIG} lacks {', '.join(missing)}", folder)
    if config.get("format") != FORMAT:
        what = f"{CONFIG} has format {config.get('format')!r}, where this version reads {FORMAT}"
        raise ToolkitError(what, where=folder, fix="use the version of the toolkit that wrote it, or train again")
    family, embedding = family_named(str(config["family"])), config.get("embedding", "projected")
    for key, value, found, names in (
        ("family", config["family"], family, tuple(DESCRIBED)),
        ("embedding", embedding, embedding in EMBEDDINGS, EMBEDDINGS),
    ):
        if not found:
            raise _damaged(f"{CONFIG} has {key} {value!r}, which is none of {', '.join(names)}", folder)
    assert family is not None
    return family, embedding


def _check_classes(weights: dict[str, Tensor], classifier: Classifier, folder: Path) -> None:
    """Tell a list of labels that isn't the head's from other damage."""
    last, own = [each for each in classifier.named_parameters() if each[0].startswith("head.") and each[1].ndim][-1]
    rows = weights.get(last)
    if rows is not None and rows.ndim and len(rows) != len(own):
        classes = len(rows) + len(classifier.labels) - len(own)  # ordered ones have a row less
        raise _damaged(f"{LABELS} holds {len(classifier.labels)} names, and the head has {classes} classes", folder)
