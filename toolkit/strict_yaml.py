"""YAML as a recipe may be written: no key twice, no aliases that unfold to more than a recipe can hold."""

from __future__ import annotations

from typing import Any

import yaml

MOST_VALUES = 100_000
"""Values of a document, those counted again that an alias stands for."""


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which takes the last of two equal keys and unfolds any alias."""

    def get_single_node(self) -> Any:
        """The document as a tree of nodes.

        Raises:
            yaml.YAMLError: a key twice, an alias within what it names, or more values than ``MOST_VALUES``.
        """
        node = super().get_single_node()
        if node is not None:
            _values(node, {})
        return node


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for.

    Args:
        node: of the tree.
        known: the numbers of nodes that were counted, 0 while a node is being counted.
    """
    if id(node) in known:
        if not known[id(node)]:
            raise yaml.MarkedYAMLError(problem="an alias stands within what it names", problem_mark=node.start_mark)
        return known[id(node)]
    known[id(node)] = 0
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _refuse_double_keys(node)
        inside = [each for pair in node.value for each in pair]
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    count = 1 + sum(_values(each, known) for each in inside)
    if count > MOST_VALUES:
        problem = f"it holds more than {MOST_VALUES:,} values"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    known[id(node)] = count
    return count


def _refuse_double_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                problem = f"the key {key.value!r} stands there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, key.value))


def read_yaml(text: str | bytes) -> Any:
    """Parse a document that anybody may have written.

    Raises:
        ValueError: no YAML, a value that can't be, nested too deep, or what :class:`StrictLoader` refuses.
    """
    try:
        return yaml.load(text, StrictLoader)
    except yaml.MarkedYAMLError as error:
        place = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ValueError(f"{error.problem or error.context}{place}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except (AttributeError, TypeError, LookupError) as error:  # PyYAML's, where a value does not fit its tag: !!int ''
        raise ValueError(f"a value does not fit its tag: {error}") from error
