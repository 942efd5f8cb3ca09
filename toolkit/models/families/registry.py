"""All families there are."""

from __future__ import annotations

from toolkit.models.families.clip import Clip
from toolkit.models.families.dinov2 import Dinov2
from toolkit.models.families.family import Family
from toolkit.models.families.siglip import Siglip

FAMILIES: dict[str, Family] = {family.name: family for family in (Clip(), Siglip(), Dinov2())}
