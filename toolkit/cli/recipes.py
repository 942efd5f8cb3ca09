"""``toolkit recipes``: what ships, and copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import ForceFlag, JsonFlag, console, print_json, print_table
from toolkit.errors import ToolkitError
from toolkit.files import writing_to

app = typer.Typer(help="List the shipped recipes, or copy one to change it.", no_args_is_help=True)


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """List scripts, recipes and launch configurations, each with its first line.

    Example: toolkit recipes list
    """
    found = {name: (path, _first_line(path)) for name, path in shipped().items()}
    if json:
        print_json(
            {"recipes": [{"name": name, "path": str(path), "about": about} for name, (path, about) in found.items()]}
        )
        return
    print_table(
        "shipped recipes", ["name", "file", "what"], [[n, path.name, about] for n, (path, about) in found.items()], 3
    )
    console().print("next: toolkit recipes copy NAME DEST")


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="A name that toolkit recipes list shows.")],
    dest: Annotated[Path, typer.Argument(help="File or folder to copy to.")],
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Copy a shipped recipe.

    Example: toolkit recipes copy digits my-digits.yaml
    """
    found = shipped()
    if name not in found:
        raise ToolkitError(f"no recipe {name!r}", where="toolkit recipes copy", fix=f"choose from {', '.join(found)}")
    source = found[name]
    target = dest / source.name if dest.is_dir() else dest
    if target.exists() and not force:
        raise ToolkitError("there is a file already", where=target, fix="choose another path, or pass --force")
    with writing_to(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    if json:
        print_json({"name": name, "path": str(target)})
    else:
        console().print(f"written to {target}")


def shipped() -> dict[str, Path]:
    """Every shipped script, recipe and launch configuration by name."""
    import recipes

    folder = Path(next(iter(recipes.__path__)))
    files = [*folder.glob("configs/*.yaml"), *folder.glob("accelerate/*.yaml"), *folder.glob("[!_]*.py")]
    return {path.stem: path for path in sorted(files, key=lambda path: (path.suffix, path.parent.name, path.name))}


def _first_line(path: Path) -> str:
    return path.read_text().splitlines()[0].strip('"# ')
