"""``docs/recipe-reference.md``: every key of a recipe, from the schema."""

from __future__ import annotations

from typing import Any

from toolkit.recipe.recipe import Recipe
from toolkit.recipe.section import Section

HEAD = """# Every key of a recipe

Made from the schema by `make docs`; a test holds it to be current. Keys without a default must stand in the recipe.
Any key can be overridden on the command line, `training.epochs=5`; `toolkit recipes explain CONFIG` shows what a
recipe resolves to.
"""
WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "nothing"}
BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


def recipe_reference() -> str:
    """The page in Markdown: a table a section."""
    schema = Recipe.model_json_schema()
    return HEAD + "".join(_section(model, name, schema) for name, model in _sections(Recipe).items())


def _sections(model: type[Section], prefix: str = "") -> dict[str, type[Section]]:
    """Every section by its dotted name, in the order of the schema."""
    found: dict[str, type[Section]] = {}
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found |= {f"{prefix}{name}": kind} | _sections(kind, f"{prefix}{name}.")
    return found


def _section(model: type[Section], name: str, schema: dict[str, Any]) -> str:
    about = (model.__doc__ or "").strip().splitlines()[0]
    lines = [f"\n## `{name}`\n", f"{about}\n", "| key | values | default | what |", "| --- | --- | --- | --- |"]
    definition = schema["$defs"][model.__name__]
    for key, entry in definition["properties"].items():
        if "$ref" in entry:
            continue
        default = (
            "(must be given)"
            if key in definition.get("required", [])
            else f"`{_escaped(_default(entry.get('default')))}`"
        )
        lines.append(f"| `{key}` | {_values(entry)} | {default} | {_escaped(entry['description'])} |")
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_default(each) for each in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(entry: dict[str, Any]) -> str:
    """What a key takes, in words."""
    if "anyOf" in entry:
        return _joined([_values(each) for each in entry["anyOf"] if each.get("type") != "null"])
    if "enum" in entry or "const" in entry:
        return _joined([f"`{_default(value)}`" for value in entry.get("enum", [entry.get("const")])])
    if entry.get("format") == "path":
        return "path"
    kind = entry["type"]
    if kind in ("array", "object"):
        return _container(entry)
    bounds = {key: f"{word} {entry[key]:g}" for key, word in BOUNDS.items() if key in entry}
    if "exclusiveMinimum" in bounds:
        bounds.pop("minimum", None)
    return " ".join([WORDS[kind], *bounds.values()])


def _container(entry: dict[str, Any]) -> str:
    if entry["type"] == "object":
        return f"a {_values(entry['additionalProperties'])} by name"
    if "prefixItems" in entry:
        return f"list of {len(entry['prefixItems'])}: {_values(entry['prefixItems'][0])}"
    return f"list of {_values(entry['items'])}"


def _joined(words: list[str]) -> str:
    return ", ".join(words[:-1]) + f" or {words[-1]}" if len(words) > 1 else words[0]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
