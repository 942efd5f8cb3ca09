"""Protobuf's text format, as much of it as a Triton configuration needs (protobuf.dev, Text Format Language)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Message = Mapping[str, object]
"""Fields by name: a string, a number, a truth value, a :class:`Symbol`, a message, or a list of those."""


class Symbol(str):
    """A value of an enumeration, which is written without quotes."""

    __slots__ = ()


def as_text(message: Message, indent: str = "") -> str:
    """A message, one field a line; messages in a list are the field repeated, and an empty list is left out."""
    lines = []
    for name, content in message.items():
        values = list(content) if isinstance(content, list | tuple) else [content]
        messages = [value for value in values if isinstance(value, Mapping)]
        lines += [f"{indent}{name} {{\n{as_text(each, f'{indent}  ')}{indent}}}\n" for each in messages]
        scalars = [_scalar(value) for value in values if not isinstance(value, Mapping)]
        if scalars:
            written = f"[{', '.join(scalars)}]" if isinstance(content, list | tuple) else scalars[0]
            lines.append(f"{indent}{name}: {written}\n")
    return "".join(lines)


def mapped(values: Mapping[str, object]) -> Sequence[Message]:
    """A field of the kind ``map``, as the list of entries that it is written as."""
    return [{"key": key, "value": value} for key, value in values.items()]


def _scalar(value: object) -> str:
    if isinstance(value, Symbol):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(f"no text of a {type(value).__name__}")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
