"""Whether a checkpoint holds a vision tower, name by name and shape by shape, before it is loaded.

transformers fills with random values what it doesn't find. Here every tensor of the tower has to
come from the file; what a checkpoint holds beside the tower (a text tower, a classifier) is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from toolkit.errors import ToolkitError
from toolkit.models.checkpoint import Source, TensorEntry
from toolkit.models.families.family import Family
from toolkit.models.tensor_files import listed

FLOATING = frozenset({"F64", "F32", "F16", "BF16"})
WRAPPERS = ("module", "_orig_mod", "base_model.model", "model")
"""What DDP, torch.compile, PEFT and training loops put before the names of what they wrap."""
INNER_WRAPPER = r"(?<=\.)_orig_mod\."
"""What torch.compile puts before the names inside a module that was compiled alone."""
OTHER_LIBRARIES = {"resblocks.": "open_clip", "patch_embed.": "timm", "embeddings.cls_token": "a ViT of transformers"}
"""Parts of names by which the checkpoints of others are known."""
COUNTER = "num_batches_tracked"
"""A whole number that every batch norm keeps."""
LORA = re.compile(r"lora_|\.base_layer\.|\.modules_to_save\.")
LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
KEYS = {
    "position_embedding": "image_size and patch_size",
    "patch_embedding": "patch_size, hidden_size and num_channels",
    "mlp.": "intermediate_size and hidden_size",
}
"""Keys of a configuration that shapes come from, by parts of names."""


@dataclass(frozen=True)
class Fit:
    """How a checkpoint that fits is to be read."""

    key_mapping: dict[str, str]
    """Regular expressions of what goes from its names, for ``from_pretrained``; empty where they fit as they are."""
    note: str
    """What a user should know of that; may be empty."""


class NoProjectionError(ToolkitError):
    """An encoder has no projection; its message says the choice that this leaves."""

    def __init__(self, reason: str, family: Family, source: Source) -> None:
        super().__init__(
            f"the encoder has no projection ({family.projection_name}): {reason}",
            where=source.where,
            fix="set model.embedding=pooled to put the head on the pooled tokens, or give a checkpoint that has it",
        )


class TowerCheck:
    """A checkpoint beside the tower that is to be filled from it.

    Args:
        family: the tower's.
        tower: the model; its values don't count, so it may be on the meta device.
        tensors: what the checkpoint holds.
        source: for messages.
        families: all that there are, to know the weights of another one.
    """

    def __init__(
        self,
        family: Family,
        tower: PreTrainedModel,
        tensors: Mapping[str, TensorEntry],
        source: Source,
        families: Iterable[Family] = (),
    ) -> None:
        self.family, self.tensors, self.source, self.families = family, tensors, source, tuple(families)
        self.base = f"{tower.base_model_prefix}."
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
        prefixes = "|".join(re.escape(wrapper) for wrapper in (*WRAPPERS, *family.model_types))
        self.key_mapping = {rf"^(?:(?:{prefixes})\.)+": "", INNER_WRAPPER: ""}
        self.names = {self._key(name): name for name in self.shapes}
        self.parts = {key.partition(".")[0] for key in self.names}
        conversions = get_model_conversion_mapping(tower)
        self._renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
        self._converters = [each for each in conversions if isinstance(each, WeightConverter)]
        self.found: dict[str, list[str]] = {}
        self.left_over: list[str] = []
        self._converted: set[str] = set()
        for name in sorted(tensors, key=_in_order):
            keys = self._keys_of(name)
            for key in keys:
                self.found.setdefault(key, []).append(name)
            if not keys and self.belongs(name):
                self.left_over.append(name)

    def fit(self) -> Fit:
        """How to read the checkpoint.

        Raises:
            ToolkitError: it isn't the tower's; with names, their number, and what to do.
        """
        self._refuse_adapters()
        self._refuse_quantised()
        missing = [name for key, name in self.names.items() if key not in self.found]
        if missing:
            self._refuse_other_kinds(missing)
            self._refuse_missing(missing)
        self._refuse_twice()
        self._refuse_shapes()
        self._refuse_left_over()
        plain = {name: (name, name.removeprefix(self.base)) for names in self.found.values() for name in names}
        wrapped = [name for name, natural in plain.items() if self.unwrapped(name) not in natural]
        if not wrapped:
            return Fit({}, "")
        what = wrapped[0].removesuffix(self.unwrapped(wrapped[0]))
        what = what if what and wrapped[0] != what else "_orig_mod."
        count = f"{len(wrapped)} of the encoder's {len(self.names)} tensors"
        return Fit(self.key_mapping, f"{count} have {what!r} in their names, and are read without it")

    def unwrapped(self, name: str) -> str:
        """A name without what wrappers put before it."""
        for pattern, replacement in self.key_mapping.items():
            name = re.sub(pattern, replacement, name)
        return name

    def belongs(self, name: str) -> bool:
        """Whether a name is inside the tower, where only what nothing reads may be left over."""
        key = self._key(self.unwrapped(name))
        return key.partition(".")[0] in self.parts and not key.endswith(("position_ids", *self.family.unread))

    def _keys_of(self, name: str) -> list[str]:
        """Tensors of the tower that transformers fills from a tensor of the checkpoint."""
        unwrapped = self.unwrapped(name)
        if self._key(unwrapped) in self.names:
            return [self._key(unwrapped)]
        renamed, pattern = rename_source_key(unwrapped, self._renamings, self._converters)
        names = [renamed]
        for converter in self._converters if pattern else ():
            first, *others = converter.target_patterns
            if pattern in converter.source_patterns and first in renamed:  # such as a matrix that is cut into several
                names += [renamed.replace(first, other) for other in others]
                self._converted.update(map(self._key, names))
        keys = [key for key in map(self._key, names) if key in self.names]
        return keys if len(keys) == len(names) else []

    def _key(self, name: str) -> str:
        return name.removeprefix(f"{self.family.tower_name}.")

    def _error(self, what: str, fix: str) -> ToolkitError:
        return ToolkitError(what, where=self.source.where, fix=fix)

    def _refuse_adapters(self) -> None:
        adapters = [name for name in self.tensors if LORA.search(name)]
        if adapters:
            raise self._error(
                f"{len(adapters)} tensors are of an adapter that was not merged: {listed(sorted(adapters))}",
                "merge it: peft_model.merge_and_unload().save_pretrained(FOLDER), then give FOLDER",
            )

    def _refuse_quantised(self) -> None:
        used = [name for names in self.found.values() for name in names]
        others = [
            f"{name} ({self.tensors[name].dtype})"
            for name in (*used, *self.left_over)
            if self.tensors[name].dtype not in FLOATING and not name.endswith(COUNTER)
        ]
        if others:
            raise self._error(
                f"{len(others)} weights are no floating-point numbers of 16 bits or more: {listed(others)}",
                "give the encoder in fp32, fp16 or bf16, as it was before it was quantised; the export quantises "
                "(--precision int8)",
            )

    def _refuse_other_kinds(self, missing: list[str]) -> None:
        """Name the kind of a checkpoint that is another one."""
        some = f"the checkpoint has no tensor {missing[0]}"
        use = f"give this encoder as transformers saves it, such as {self.family.example}"
        for part, library in OTHER_LIBRARIES.items():
            theirs = sorted(name for name in self.tensors if part in name)
            if theirs and not any(part in name for name in self.names):
                raise self._error(f"the names are those of {library}: {listed(theirs)}; {some}", use)
        if any("token_embedding" in name for name in self.tensors) and not any(
            "patch_embedding" in name for name in self.tensors
        ):
            raise self._error(f"the checkpoint holds a text tower alone; {some}", use)
        keys = {self._key(self.unwrapped(name)) for name in self.tensors}
        for other in self.families:
            if other.mark in keys and self.family.mark not in keys:
                kinds = " or ".join(sorted(other.model_types))
                raise self._error(
                    f"the weights are a {other.name} encoder's ({other.mark}), and config.json is a "
                    f"{self.family.name} encoder's; {some}",
                    f"use the config.json that the checkpoint was saved with; its model_type is {kinds}",
                )
        self._refuse_unknown_prefix(missing)
        if missing == list(self.shapes):
            raise self._error(
                f"none of the encoder's {len(missing)} tensors is there; the checkpoint holds "
                f"{listed(sorted(self.tensors)) or 'no tensor at all'}",
                use,
            )

    def _refuse_unknown_prefix(self, missing: list[str]) -> None:
        key = next(iter(self.names))  # of the embeddings of images, which no other tower has
        if key in self.found:
            return
        prefixes = {
            name.removesuffix(key).removesuffix(f"{self.family.tower_name}.")
            for name in self.tensors
            if name.endswith(f".{key}")
        }
        if not prefixes:
            return
        prefix = sorted(prefixes)[0]
        raise self._error(
            f"{len(missing)} of the encoder's {len(self.names)} tensors are not there under their names, which begin "
            f"with {listed([repr(each) for each in sorted(prefixes)])}",
            'rename them, in that folder: python -c "from safetensors.torch import load_file, save_file; '
            f"t = load_file('model.safetensors'); save_file({{k.removeprefix({prefix!r}): v for k, v in t.items()}}, "
            "'model.safetensors')\"",
        )

    def _refuse_missing(self, missing: list[str]) -> None:
        projection = f"{self.family.projection_name}."
        if all(name.startswith(projection) for name in missing):
            raise NoProjectionError(f"the checkpoint lacks {listed(missing)}", self.family, self.source)
        beside = f"; without a place there: {listed(self.left_over)}" if self.left_over else ""
        raise self._error(
            f"{len(missing)} of the encoder's {len(self.names)} tensors are missing: {listed(missing)}{beside}",
            self._layers_differ() or "copy the checkpoint again, with the config.json that it was saved with",
        )

    def _layers_differ(self) -> str:
        """What to do where the checkpoint and its configuration don't agree on the number of layers."""
        layers = {
            int(match[1]) + 1
            for names in (*self.found.values(), self.left_over)
            for name in names
            if (match := LAYER.search(name))
        }
        expected = max(int(match[1]) + 1 for name in self.shapes if (match := LAYER.search(name)))
        if not layers or max(layers) == expected:
            return ""
        return (
            f"config.json says num_hidden_layers {expected}, the checkpoint has {max(layers)} layers: copy both again "
            "from where they were saved together, or set num_hidden_layers to what the encoder was trained with"
        )

    def _refuse_twice(self) -> None:
        twice = [" = ".join(names) for names in self.found.values() if len(names) > 1]
        if twice:
            raise self._error(
                f"{len(twice)} of the encoder's tensors stand there twice: {listed(twice)}",
                "save the encoder alone, with save_pretrained",
            )

    def _refuse_shapes(self) -> None:
        others = {
            name: f"{name} is {list(self.tensors[names[0]].shape)} where config.json makes it {list(self.shapes[name])}"
            for key, names in self.found.items()
            if key not in self._converted and self.tensors[names[0]].shape != self.shapes[(name := self.names[key])]
        }
        if not others:
            return
        keys = KEYS | {f"{self.family.projection_name}.": "projection_dim and hidden_size"}
        hints = [hint for part, hint in keys.items() if any(part in name for name in others)]
        key = hints[0] if len(hints) == 1 else "hidden_size and its neighbours"
        count = f"{len(others)} of the encoder's {len(self.names)} tensors"
        raise self._error(
            f"{count} have another shape: {listed(list(others.values()))}",
            f"use the config.json that the checkpoint was saved with; {key} in it don't fit",
        )

    def _refuse_left_over(self) -> None:
        if self.left_over:
            raise self._error(
                f"config.json makes an encoder without a place for {len(self.left_over)} tensors of the checkpoint: "
                f"{listed(self.left_over)}",
                self._layers_differ() or "use the config.json that the checkpoint was saved with",
            )


def _in_order(name: str) -> list[tuple[int, str]]:
    """Sorts layers by their numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
