"""``toolkit data``: write real data sets, inspect any."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.output import ForceFlag, JsonFlag, advance_of, console, counting, print_json, print_table

app = typer.Typer(help="Write a real data set as image folders, or inspect any data set.", no_args_is_help=True)
Dest = Annotated[Path, typer.Argument(help="Folder to write.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the split.")]


@app.command()
def digits(dest: Dest, seed: SeedOption = 0, force: ForceFlag = False, json: JsonFlag = False) -> None:
    """Write scikit-learn's 1,797 handwritten digits.

    Example: toolkit data digits datasets/digits
    """
    from toolkit.data.digits import write_digits

    _report(dest, write_digits(dest, seed=seed, force=force), json)


@app.command()
def elpv(dest: Dest, seed: SeedOption = 0, force: ForceFlag = False, json: JsonFlag = False) -> None:
    """Write the 2,624 electroluminescence images of solar cells of the package elpv-dataset (CC BY-NC-SA 4.0).

    Example: toolkit data elpv datasets/elpv
    """
    from toolkit.data.elpv import write_elpv

    _report(dest, write_elpv(dest, seed=seed, force=force), json)


@app.command()
def check(path: Annotated[Path, typer.Argument(help="Image folder.")], json: JsonFlag = False) -> None:
    """Count classes, sizes, modes, unreadable files and duplicates across splits; exit 1 if there are problems.

    Example: toolkit data check datasets/digits
    """
    from toolkit.data.check import check_path

    with counting("reading images") as progress:
        report = check_path(path, advance_of(progress))
    if json:
        print_json(report)
    else:
        _print_check(report)
    raise typer.Exit(1 if report["problems"] else 0)


def _report(dest: Path, about: dict[str, Any], json: bool) -> None:
    if json:
        print_json({"path": str(dest)} | about)
        return
    counts = about["counts"]
    rows = [[name, *(str(counts[split][name]) for split in counts)] for name in about["classes"]]
    print_table(f"{about['name']}: {about['images']:,} images", ["class", *counts], rows)
    console().print(f"source: {about['source']}\nlicence: {about['licence']}\nwritten to {dest}")


def _print_check(report: dict[str, Any]) -> None:
    counts = report["counts"]
    rows = [[name, *(f"{counts[split][name]:,}" for split in counts)] for name in report["classes"]]
    print_table(f"{report['path']}: {report['images']:,} images", ["class", *counts], rows)
    out = console()
    for title in ("sizes", "modes"):
        listed = [f"{value} ({count:,})" for value, count in list(report[title].items())[:8]]
        more = f", and {len(report[title]) - 8} more" if len(report[title]) > 8 else ""
        out.print(f"{title}: {', '.join(listed)}{more}")
    for entry in report["unreadable"]:
        out.print(f"unreadable: {entry['path']}: {entry['reason']}", soft_wrap=True)
    for group in report["duplicates_across_splits"]:
        out.print(f"duplicates: {' = '.join(group)}", soft_wrap=True)
    for problem in report["problems"]:
        out.print(f"problem: {problem}", soft_wrap=True)
    if not report["problems"]:
        out.print("no problems found")
