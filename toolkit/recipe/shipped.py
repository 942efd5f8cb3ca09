"""The recipes, launch configurations, jobs and scripts that ship with the toolkit."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def shipped() -> dict[str, Path]:
    """Every shipped script, recipe, launch configuration and job by name."""
    folder = Path(str(files("recipes")))
    found = [*folder.glob("configs/*.yaml"), *folder.glob("accelerate/*.yaml"), *folder.glob("slurm/*.sbatch")]
    found += folder.glob("[!_]*.py")
    return {path.stem: path for path in sorted(found, key=lambda path: (path.suffix, path.parent.name, path.name))}


def find_recipe(recipe: Path | str) -> Path:
    """A recipe's file, given itself or as the name of a shipped one."""
    return shipped().get(str(recipe), Path(recipe))
