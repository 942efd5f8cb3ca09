"""Which groups learn: by count, or by name."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from toolkit.errors import ToolkitError
from toolkit.models.encoder import Group, is_layer, tower_of


def select_groups(names: Sequence[str], *, last: int | None = None, named: Sequence[str] | None = None) -> list[str]:
    """Names of the trainable groups, in order; the head always is one, and so is a fusion.

    Args:
        names: all groups in order, ``head`` at the end.
        last: unfreeze the last K layers and the post norm of every tower; 0 trains the head alone.
        named: names or patterns such as ``layers.1*``; ``all`` for everything.

    Raises:
        ToolkitError: a selection that matches no group, with the list of those there are.
    """
    always = {"fusion", "head"}
    if named is not None:
        wanted = ["*"] if list(named) == ["all"] else list(named)
        for pattern in wanted:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ToolkitError(
                    f"{pattern!r} matches no group", where="model.unfreeze", fix=f"choose from {', '.join(names)}"
                )
        return [name for name in names if name in always or any(fnmatchcase(name, pattern) for pattern in wanted)]
    count, chosen = last or 0, set[str]()
    for tower in dict.fromkeys(map(tower_of, filter(is_layer, names))) or [""]:
        layers = [name for name in names if is_layer(name) and tower_of(name) == tower]
        if count > len(layers):
            of = f"{tower} tower" if tower else "encoder"
            raise ToolkitError(
                f"{count} layers are to be unfrozen, but the {of} has {len(layers)}",
                where="model.unfreeze_last",
                fix=f"give 0 to {len(layers)}, or name groups in model.unfreeze: {', '.join(names)}",
            )
        chosen |= {*layers[len(layers) - count :], f"{tower}.post_norm".lstrip(".")} if count else set()
    return [name for name in names if name in chosen or name in always]


def freeze_all_but(groups: Sequence[Group], model: nn.Module, trainable: Sequence[str]) -> None:
    """Set ``requires_grad`` on the chosen groups' parameters and on no others.

    Must run before the model is wrapped for several processes.
    """
    model.requires_grad_(False)
    for group in groups:
        if group.name in trainable:
            for parameter in group.parameters():
                parameter.requires_grad_(True)
