"""``toolkit sweep``: values of a recipe's keys, tried one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolkit.cli.output import ForceFlag, JsonFlag, console, counting, print_json, print_table
from toolkit.user_paths import require_local

if TYPE_CHECKING:
    from toolkit.runs.sweep_file import SweepFile, Trial

SHOWN = 10
"""Trials in the table, the best first."""


def sweep(
    config: Annotated[str, typer.Argument(help="A recipe's file, or the name of a shipped one.")],
    out: Annotated[Path, typer.Option(help="Folder to write: sweep.json, sweep.png, trials/ and the run best.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="section.key=value")] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUES", help="What to try: key=a,b,c or key=low..high[:log]; once for each key."),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials, those that ended before included.", show_default="20, or all of a grid")
    ] = None,
    sampler: Annotated[
        Literal["tpe", "random", "grid"],
        typer.Option(help="How values are chosen: where earlier trials were good, at random, or all combinations."),
    ] = "tpe",
    seed: Annotated[int, typer.Option(help="Seed of the sampler; that of the trials is training.seed.")] = 0,
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="End trials early that are worse than the median of the others.")
    ] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep that is in OUT.")] = False,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Try values of a recipe's keys on one boundary cache; the best trial by validation becomes a run.

    Example: toolkit sweep digits --search training.learning_rate=1e-4..1e-2:log --trials 20 --out sweeps/digits
    """
    require_local(config)
    from toolkit.api import sweep as run_sweep

    with counting("sweep") as progress:
        found = run_sweep(
            config,
            search or (),
            out=out,
            overrides=overrides or (),
            trials=trials,
            sampler=sampler,
            seed=seed,
            prune=prune,
            resume=resume,
            force=force,
            progress=progress,
        )
    if json:
        print_json({"out": str(out)} | found.model_dump(mode="json"))
    else:
        _print(found, out)


def _print(found: SweepFile, out: Path) -> None:
    from toolkit.recipe.search_space import in_a_word

    sign = -1.0 if found.smaller_is_better else 1.0

    def rank(trial: Trial) -> tuple[bool, bool, float]:
        return trial.state != "complete", trial.value is None, -sign * (trial.value or 0.0)

    rows = [
        [
            f"{trial.number}",
            trial.state,
            *(in_a_word(trial.params[key]) for key in found.search),
            "" if trial.value is None else f"{trial.value:.4f}",
            f"{trial.best_epoch or ''}",
            f"{trial.epochs}",
            f"{trial.seconds:.1f}",
        ]
        for trial in sorted(found.trials, key=rank)[:SHOWN]
    ]
    states = [trial.state for trial in found.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    columns = ["trial", "state", *found.search, found.select_by, "best epoch", "epochs", "seconds"]
    print_table(f"the best of {len(states)} trials ({counts}), by {found.select_by} on validation", columns, rows, 2)
    for cache in found.boundary_caches:
        readers = f"{len(cache.trials)} trial{'s' if len(cache.trials) > 1 else ''}"
        console().print(f"boundary cache {cache.key}: {cache.bytes / 1e9:.3g} GB, filled once, read by {readers}")
    console().print(f"written: {out / 'sweep.json'}, {out / 'sweep.png'}, {out / 'best'}", soft_wrap=True)
    console().print(f"next: toolkit export --onnx {out / 'best'} --out bundles/{out.name}", soft_wrap=True)
