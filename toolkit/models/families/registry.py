"""All families there are: those that are described, and one for every other encoder of transformers."""

from __future__ import annotations

from toolkit.models.families.blip import Blip
from toolkit.models.families.clip import Clip
from toolkit.models.families.dinov2 import Dinov2
from toolkit.models.families.dinov3_vit import Dinov3Vit
from toolkit.models.families.family import Family
from toolkit.models.families.metaclip2 import MetaClip2
from toolkit.models.families.siglip import Siglip
from toolkit.models.families.siglip2 import Siglip2
from toolkit.models.families.traced import Traced, traced
from toolkit.models.families.vit import Vit

DESCRIBED: dict[str, Family] = {
    family.name: family
    for family in (
        Clip(),
        MetaClip2(),
        Siglip(),
        Siglip2(),
        Dinov2(),
        Dinov3Vit(),
        Vit(),
        Blip(),
    )
}


def family_of_type(model_type: str) -> Family | None:
    """The family of a configuration's ``model_type``, described if there is one that is."""
    described = (family for family in DESCRIBED.values() if model_type in family.model_types)
    return next(described, None) or traced(model_type)


def family_named(name: str) -> Family | None:
    """The family of a name that a run wrote down."""
    kind, _, model_type = name.partition(":")
    return traced(model_type) if kind == Traced.kind and model_type else DESCRIBED.get(name)
