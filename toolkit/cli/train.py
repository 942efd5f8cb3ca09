"""``toolkit train``: a recipe in one process, without a launcher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import JsonFlag, print_json
from toolkit.user_paths import require_local


def train(
    config: Annotated[str, typer.Argument(help="A recipe's file, or the name of a shipped one.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="section.key=value")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in OUT.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove the run that is in OUT already and start anew.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Fine-tune by a recipe, in one process; for several use accelerate launch recipes/finetune.py.

    Example: toolkit train digits --out runs/digits training.epochs=5
    """
    require_local(config)
    from toolkit.api import finetune

    summary = finetune(config, out=out, overrides=overrides or (), resume=resume, force=force).summary
    if json:
        print_json({"run": str(out)} | summary)
    else:
        from toolkit.training.setup import print_summary

        print_summary(summary, out)
