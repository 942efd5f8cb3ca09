"""``toolkit predict --input``: an archive into Parquet shards, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from toolkit.cli.output import console, counting, messages, print_json, print_table
from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    from toolkit.scoring.options import ScoringOptions

SHOWN = 10
"""Classes and reasons that the tables name."""


def score_archive(bundle: Path, place: str, out: str | None, options: ScoringOptions, *, json: bool) -> None:
    """Score, and say how it went; exit 2 if an image can't be read."""
    from toolkit.runtime.bundle import Bundle
    from toolkit.scoring.score import score

    if out is None:
        raise ToolkitError("shards need a folder", where="--input", fix="give one with --out DIR")
    with counting("predicting") as progress:
        summary = score(Bundle(bundle), place, out, options, progress)
    if json:
        print_json({"out": out} | summary)
    else:
        _print(out, summary)
    if summary["errors"]:
        reason, count = next(iter(summary["errors"].items()))
        failed = sum(summary["errors"].values())
        what = f"error: {failed:,} of {summary['images']:,} images have no prediction; {count:,} of them: {reason}"
        messages().print(what, soft_wrap=True, markup=False)
        raise typer.Exit(2)


def _print(out: str, summary: dict[str, Any]) -> None:
    ranked = sorted(summary["classes"].items(), key=lambda pair: -pair[1])
    if ranked:
        share = [[label, f"{count:,}", f"{count / summary['predicted']:.1%}"] for label, count in ranked[:SHOWN]]
        print_table(f"labels of {summary['predicted']:,} images", ["label", "images", "share"], share)
    if summary["errors"]:
        rows = [[reason, f"{count:,}"] for reason, count in list(summary["errors"].items())[:SHOWN]]
        print_table("without a prediction", ["reason", "images"], rows)
    speed = f", {summary['images_per_second']:,.0f} images/s" if summary["images_per_second"] else ""
    before = f"; {summary['resumed']:,} images by an earlier call" if summary["resumed"] else ""
    said = f"written: {out}, {summary['images']:,} images in {summary['shards']:,} shards{speed}{before}"
    console().print(said, soft_wrap=True, markup=False)
