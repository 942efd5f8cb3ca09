"""Prompts: what stands for a class where a text encoder describes it.

Several templates a class are averaged (a prompt ensemble): Radford et al., "Learning Transferable
Visual Models From Natural Language Supervision" (2021), section 3.1.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

PLACE = "{}"
"""Where a template has the class."""
TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
    "a cropped photo of a {}.",
    "a bright photo of a {}.",
    "a dark photo of a {}.",
    "a low resolution photo of a {}.",
    "a picture of a {}.",
    "a {}.",
)
"""The templates that are used unless others are given; for photographs of things."""


def _with_place(template: str) -> str:
    if PLACE not in template:
        raise ValueError(f"the template {template!r} has no place for the class; write it as 'a photo of a {PLACE}.'")
    return template


Template = Annotated[str, AfterValidator(_with_place)]
"""A text with ``{}`` where the class stands."""


def one_template_is_a_list(value: Any) -> Any:
    """A list of templates, where one stands alone."""
    return [value] if isinstance(value, str) else value


def prompts_of(text: str, templates: Sequence[str]) -> list[str]:
    """Every template with a class in its place; underscores, which folders' names have for blanks, are blanks."""
    return [template.replace(PLACE, text.replace("_", " ")) for template in templates]
