"""``toolkit recipes``: what ships, and copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.output import ForceFlag, JsonFlag, console, print_json, print_table
from toolkit.errors import ToolkitError
from toolkit.files import explain_os_errors
from toolkit.user_paths import require_local

app = typer.Typer(help="List, copy and explain recipes.", no_args_is_help=True)


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """List scripts, recipes and launch configurations, each with its first line.

    Example: toolkit recipes list
    """
    from toolkit.recipe.shipped import shipped

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
    from toolkit.recipe.shipped import shipped

    found = shipped()
    if name not in found:
        raise ToolkitError(f"no recipe {name!r}", where="toolkit recipes copy", fix=f"choose from {', '.join(found)}")
    source = found[name]
    target = dest / source.name if dest.is_dir() else dest
    if target.exists() and not force:
        raise ToolkitError("there is a file already", where=target, fix="choose another path, or pass --force")
    with explain_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    if json:
        print_json({"name": name, "path": str(target)})
    else:
        console().print(f"written to {target}")


@app.command()
def explain(
    config: Annotated[str, typer.Argument(help="A recipe's file, or the name of a shipped one.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="section.key=value")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that shall share each step.")] = 1,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Measure a few steps on this machine.")] = True,
    json: JsonFlag = False,
) -> None:
    """Say what a recipe would do, and train nothing: every key with its origin, groups, steps, memory and time.

    Example: toolkit recipes explain digits training.epochs=5
    """
    from toolkit.recipe.origins import naming_origins
    from toolkit.recipe.reading import leaves, trace_recipe
    from toolkit.recipe.shipped import find_recipe

    require_local(config)
    path = find_recipe(config)
    recipe, origins = trace_recipe(path, overrides or ())
    from toolkit.training.explain import explain as explain_recipe

    keys = {name: {"value": value, "origin": origins[name]} for name, value in leaves(recipe).items()}
    with naming_origins(path, overrides or (), leaves(recipe)):
        found = explain_recipe(recipe, processes=processes, probe=probe)
    if json:
        print_json({"keys": {name: entry | {"value": _plain(entry["value"])} for name, entry in keys.items()}} | found)
    else:
        _print_keys(keys)
        _print_explained(found, recipe.training.epochs)


@app.command()
def reference(json: JsonFlag = False) -> None:
    """Print what every key of a recipe means, as Markdown; with --json the JSON schema, which editors check YAML by.

    Example: toolkit recipes reference > docs/recipe-reference.md
    """
    if json:
        from toolkit.recipe.recipe import Recipe

        print_json(Recipe.model_json_schema())
    else:
        from toolkit.recipe.reference import recipe_reference

        typer.echo(recipe_reference(), nl=False)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _in_yaml(value: Any) -> str:
    import yaml

    plain = list(value) if isinstance(value, tuple) else _plain(value)
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()


def _print_keys(keys: dict[str, Any]) -> None:
    given = {name: entry for name, entry in keys.items() if entry["origin"] != "default"}
    rows = [[name, _in_yaml(entry["value"]), entry["origin"]] for name, entry in given.items()]
    print_table("the recipe", ["key", "value", "origin"], rows, 3)
    others = [f"{name}={_in_yaml(entry['value'])}" for name, entry in keys.items() if name not in given]
    console().print(f"by default: {', '.join(others)}", end="\n\n")


def _print_explained(found: dict[str, Any], epochs: int) -> None:
    from toolkit.progress_lines import about

    out = console()
    rows = [
        [
            group["name"],
            f"{group['parameters']:,}",
            f"{group['learning_rate']:g}" if group["learning_rate"] else "frozen",
        ]
        for group in found["groups"]
    ]
    print_table("what learns", ["group", "parameters", "learning rate"], rows)
    for note in found["encoder_notes"]:
        out.print(f"note: {note}", soft_wrap=True, markup=False)
    learns, total = found["trainable_parameters"], found["parameters"]
    out.print(f"{learns:,} of {total:,} parameters learn ({learns / total:.1%})")
    if found["trunk_precision"] != "fp32":
        out.print(
            f"the frozen trunk runs in {found['trunk_precision']} (ONNX Runtime); memory and time below are for fp32",
            soft_wrap=True,
        )
    if found["boundary_cache"]["reason_against"]:
        out.print(f"boundary cache: off, since {found['boundary_cache']['reason_against']}", soft_wrap=True)
    batch = f"effective batch {found['effective_batch']}"
    if found["steps"] is None:
        out.print(f"images: {found['data']['problem']}", soft_wrap=True)
        out.print(f"{batch}; steps and time are unknown until the data is there")
    else:
        images = ", ".join(f"{count:,} {split}" for split, count in found["data"]["images"].items())
        out.print(f"{found['data']['classes']} classes; images: {images}")
        out.print(f"{batch}; {found['steps_per_epoch']:,} steps an epoch, {found['steps']:,} in {epochs} epochs")
    memory = dict(found["memory_bytes"])
    held, on_gpu = memory.pop("process_now", None), memory.pop("peak_device_bytes", None)
    parts = ", ".join(f"{name.replace('_', ' ')} {_megabytes(size)}" for name, size in memory.items())
    out.print(f"memory a process: {_megabytes(sum(memory.values()))} ({parts})", soft_wrap=True)
    if held is not None:
        tensors = "" if on_gpu is None else f", its tensors on the GPU at most {_megabytes(on_gpu)}"
        measured = f"the process of this probe, libraries and all, held {_megabytes(held)}{tensors}"
        out.print(f"  measured on {found['device']}: {measured}", soft_wrap=True)
    if found["seconds"] is not None:
        seconds = dict(found["seconds"])
        total_seconds = seconds.pop("total")
        parts = ", ".join(f"{name.replace('_', ' ')} {about(value)}" for name, value in seconds.items() if value)
        out.print(f"time on this machine: about {about(total_seconds)} ({parts}), without starting up", soft_wrap=True)
        out.print("  from a few steps of random pixels and one batch of real images; other work here makes it longer")


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.2g} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"


def _first_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if not line.startswith("#!")).strip('"# ')
