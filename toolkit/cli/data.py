"""``toolkit data``: write real data sets, inspect any."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.output import ForceFlag, JsonFlag, console, counting, print_json, print_table

app = typer.Typer(help="Write a real data set as image folders; inspect, pack or index any.", no_args_is_help=True)
Dest = Annotated[Path, typer.Argument(help="Folder to write.")]
SourceArgument = Annotated[
    Path, typer.Argument(help="Image folder, CSV or Parquet manifest, data set on disk, or folder of shards.")
]
SettingsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="key=value", help="Keys of a recipe's section data.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the split.")]


@app.command()
def digits(dest: Dest, seed: SeedOption = 0, force: ForceFlag = False, json: JsonFlag = False) -> None:
    """Write scikit-learn's 1,797 handwritten digits.

    Example: toolkit data digits datasets/digits
    """
    from toolkit.data.digits import write_digits

    _report(dest, write_digits(dest, seed=seed, force=force), json)


@app.command()
def elpv(
    dest: Dest,
    seed: SeedOption = 0,
    grades: Annotated[
        bool, typer.Option("--grades", help="Write the experts' four ordered grades in place of two classes.")
    ] = False,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Write the 2,624 electroluminescence images of solar cells of the package elpv-dataset (CC BY-NC-SA 4.0).

    Example: toolkit data elpv datasets/elpv
    """
    from toolkit.data.elpv import write_elpv

    _report(dest, write_elpv(dest, seed=seed, grades=grades, force=force), json)


@app.command()
def textile(dest: Dest, seed: SeedOption = 0, force: ForceFlag = False, json: JsonFlag = False) -> None:
    """Write the 2,000 simulated textile images of the package conformal-clip-data (MIT).

    Example: toolkit data textile datasets/textile
    """
    from toolkit.data.textile import write_textile

    _report(dest, write_textile(dest, seed=seed, force=force), json)


@app.command()
def captioned(dest: Dest, seed: SeedOption = 0, force: ForceFlag = False, json: JsonFlag = False) -> None:
    """Write 3,360 drawings with captions, true ones and false ones: the label needs image and caption together.

    Example: toolkit data captioned datasets/captioned
    """
    from toolkit.data.captioned import COLUMN, MANIFEST, write_captioned

    _report(dest, write_captioned(dest, seed=seed, force=force), json)
    if not json:
        console().print(f"data.path={dest / MANIFEST} data.columns.text={COLUMN}", soft_wrap=True)


@app.command()
def shapes(dest: Dest, seed: SeedOption = 0, force: ForceFlag = False, json: JsonFlag = False) -> None:
    """Write 1,400 drawings of several shapes at once, with a manifest of their labels (CC0).

    Example: toolkit data shapes datasets/shapes
    """
    from toolkit.data.shapes import write_shapes

    _report(dest, write_shapes(dest, seed=seed, force=force), json)


@app.command()
def check(path: SourceArgument, settings: SettingsArgument = None, json: JsonFlag = False) -> None:
    """Count splits, classes, sizes and what is left out; find unreadable images and leaks; exit 1 on problems.

    Example: toolkit data check images.csv columns.label=finding
    """
    from toolkit.data.check import check_data
    from toolkit.recipe.reading import load_data_config

    config = load_data_config(path, settings or ())
    with counting("reading images") as progress:
        report = check_data(config, progress)
    if json:
        print_json(report)
    else:
        _print_check(report)
    raise typer.Exit(1 if report["problems"] else 0)


@app.command()
def shard(
    path: SourceArgument,
    dest: Annotated[Path, typer.Argument(help="Folder to write.")],
    settings: SettingsArgument = None,
    images_per_shard: Annotated[int, typer.Option(min=1, help="Images in a shard.")] = 1000,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Pack images as they are encoded into WebDataset shards, an index beside each.

    Example: toolkit data shard datasets/digits shards/digits
    """
    from toolkit.data.sharding import write_shards
    from toolkit.recipe.reading import load_data_config

    config = load_data_config(path, settings or ())
    with counting("packing images") as progress:
        about = write_shards(config, dest, images_per_shard=images_per_shard, force=force, progress=progress)
    if json:
        print_json({"path": str(dest)} | about)
        return
    console().print(f"{about['images']:,} images in {len(about['shards'])} shards", f"written to {dest}", sep="\n")
    if about["left_out"]:
        from toolkit.runtime.image_files import in_words

        console().print(f"left out: {in_words(about['left_out'])}", soft_wrap=True)


@app.command()
def index(
    path: Annotated[Path, typer.Argument(help="Folder of shards, or one.")],
    settings: SettingsArgument = None,
    json: JsonFlag = False,
) -> None:
    """Write the index of WebDataset shards, so that they are read like a folder and checked for damage.

    Example: toolkit data index shards/mine columns.text=caption
    """
    from toolkit.data.sharding import index_shards
    from toolkit.recipe.reading import load_data_config

    text = load_data_config(path, settings).columns.text if settings else None
    with counting("indexing shards") as progress:
        found = index_shards(path, progress, text)
    if json:
        print_json({"path": str(path), "images": sum(found.values()), "shards": found})
    else:
        console().print(f"{sum(found.values()):,} images in {len(found)} shards indexed")


def _report(dest: Path, about: dict[str, Any], json: bool) -> None:
    if json:
        print_json({"path": str(dest)} | about)
        return
    counts = about["counts"]
    rows = [[name, *(str(counts[split][name]) for split in counts)] for name in about["classes"]]
    print_table(f"{about['name']}: {about['images']:,} images", ["class", *counts], rows)
    lines = (f"source: {about['source']}", f"licence: {about['licence']}", f"written to {dest}")
    console().print(*lines, sep="\n")


def _splits_in_words(report: dict[str, Any]) -> str:
    def listed(splits: dict[str, int]) -> str:
        return ", ".join(f"{split} ({images:,})" for split, images in splits.items()) or "none"

    made = "" if not report["splits_made"] else f"; a run makes: {listed(report['splits_made'])}"
    if report["splits_found"] and report["splits"] not in ({}, report["splits_found"]):
        made += f"; a run has: {listed(report['splits'])}"
    return f"splits found: {listed(report['splits_found'])}{made}"


def _print_texts(report: dict[str, Any]) -> None:
    if "texts" not in report:
        return
    texts, out = report["texts"], console()
    missing = f", {texts['missing']:,} images without one" if texts["missing"] else ""
    repeated = f"{texts['different']:,} different, {texts['repeated']:,} that stand there more than once"
    lengths = texts["characters"] or {"shortest": 0, "longest": 0, "median": 0}
    characters = f"{lengths['shortest']:,} to {lengths['longest']:,} characters, median {lengths['median']:g}"
    out.print(f"texts: {texts['count']:,}{missing}; {repeated}; {characters}", soft_wrap=True)
    for paths in report["images_across_splits_with_other_texts"]:
        out.print(f"in more than one split, beside other texts: {' = '.join(paths)}", soft_wrap=True)


def _print_near(near: dict[str, Any] | None) -> None:
    out = console()
    if near is None:
        what = 'near-duplicates across splits were not looked for: pip install "clip-toolkit[data]" (imagehash)'
        out.print(f"note: {what}", soft_wrap=True)
    elif near["count"]:
        out.print(f"note: {near['count']:,} images look like one of another split", soft_wrap=True)
        for pair in near["examples"]:
            out.print(f"look alike: {' ~ '.join(pair)}", soft_wrap=True)


def _print_leaks(leaks: dict[str, list[str]], most: int = 8) -> None:
    for group, splits in list(leaks.items())[:most]:
        console().print(f"group {group} stands in {', '.join(splits)}", soft_wrap=True)
    if len(leaks) > most:
        console().print(f"and {len(leaks) - most:,} more groups", soft_wrap=True)


def _print_together(report: dict[str, Any], most: int = 8) -> None:
    """How many labels images have, and which are seen together most."""
    names, matrix = report["classes"], report["co_occurrence"]
    pairs = [(matrix[a][b], names[a], names[b]) for a in range(len(names)) for b in range(a)]
    often = sorted(pairs, key=lambda pair: -pair[0])[:most]
    out = console()
    mean, none = report["labels_an_image"], report["images_without_label"]
    out.print(f"labels an image: {mean:.2f} on average; {none:,} images have none", soft_wrap=True)
    listed = ", ".join(f"{b} and {a} ({count:,})" for count, a, b in often if count)
    out.print(f"seen together: {listed or 'none'}", soft_wrap=True)


def _print_check(report: dict[str, Any]) -> None:
    from toolkit.runtime.image_files import in_words

    counts = report["counts"]
    rows = [[name, *(f"{counts[split][name]:,}" for split in counts)] for name in report["classes"]]
    out = console()
    out.print(f"{report['path']}: {report['images']:,} images", soft_wrap=True)
    print_table("images by class and split", ["class", *counts], rows)
    if "co_occurrence" in report:
        _print_together(report)
    for title in ("sizes", "modes"):
        listed = [f"{value} ({count:,})" for value, count in list(report[title].items())[:8]]
        more = f", and {len(report[title]) - 8} more" if len(report[title]) > 8 else ""
        out.print(f"{title}: {', '.join(listed)}{more}")
    _print_texts(report)
    for description, count in report["value_ranges"].items():
        out.print(f"values: {description} ({count:,})", soft_wrap=True)
    for word in ("darker", "flatter"):
        unlike = report[f"{word}_than_the_rest"]
        if unlike["count"]:
            rest = ", ..." if unlike["count"] > len(unlike["paths"]) else ""
            few = ", ".join(unlike["paths"])
            out.print(f"{word} than a quarter of the median image ({unlike['count']:,}): {few}{rest}", soft_wrap=True)
    out.print(_splits_in_words(report), soft_wrap=True)
    if report["left_out"]:
        out.print(f"left out: {in_words(report['left_out'])}", soft_wrap=True)
    for entry in report["unreadable"]:
        out.print(f"unreadable: {entry['path']}: {entry['reason']}", soft_wrap=True)
    if report["groups"]:
        out.print(f"groups: {report['groups']:,}")
    for paths in report["duplicates_across_splits"]:
        out.print(f"duplicates: {' = '.join(paths)}", soft_wrap=True)
    for paths in report["duplicates_with_other_labels"]:
        out.print(f"labels differ: {' = '.join(paths)}", soft_wrap=True)
    _print_leaks(report["groups_across_splits"])
    _print_near(report["near_duplicates_across_splits"])
    for problem in report["problems"]:
        out.print(f"problem: {problem}", soft_wrap=True)
    if not report["problems"]:
        out.print("no problems found")
