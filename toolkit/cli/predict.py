"""``toolkit predict``: labels and probabilities, without torch."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.output import (
    JsonFlag,
    PrecisionOption,
    ServingProviderOption,
    ThreadsOption,
    console,
    counting,
    messages,
    print_json,
    print_table,
)


def predict(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Image files, or folders of images.")],
    precision: PrecisionOption = None,
    provider: ServingProviderOption = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a run.", show_default="as tuned, or 32")] = None,
    threads: ThreadsOption = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Likeliest classes whose probabilities are given.",
            show_default="all, of more than 100 classes 10",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the predictions in place of the table: .csv, .jsonl or .parquet; replaced if it is there."
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Print label and probabilities of images; exit 2 if one can't be read, after the others.

    A folder stands for the images at any depth below it.

    Example: toolkit predict bundles/digits photo.png
    """
    from toolkit.runtime.bundle import Bundle
    from toolkit.runtime.image_files import find_images, in_words
    from toolkit.runtime.prediction_file import check_prediction_file, prediction_file
    from toolkit.serving.classifier import Classifier
    from toolkit.serving.predictor import default_top_k

    if out is not None:
        check_prediction_file(out)
    found = find_images(paths)
    if found.left_out:
        messages().print(f"left out: {in_words(found.left_out)}", soft_wrap=True, markup=False)
    files = [Path(name) for name in found.names]
    opened = Bundle(bundle)
    few = top_k or default_top_k(len(opened.labels))
    several, number = opened.decision.several_labels, "value" in opened.decision.outputs
    predictions, failed = [], []
    with ExitStack() as entered:
        classifier = entered.enter_context(
            Classifier.open(opened, provider=provider, precision=precision, threads=threads, batch_size=batch_size)
        )
        progress = entered.enter_context(counting("predicting", len(files)))
        write = (
            entered.enter_context(prediction_file(out, opened.labels, few, several=several, number=number))
            if out
            else None
        )
        for entry in classifier.entries(files, few):
            if "error" in entry:
                failed.append(entry["path"])
            if write:
                write(entry)
            if json or not write:
                predictions.append(entry)
            progress.step()
    if json:
        print_json({"predictions": predictions} | ({"out": str(out)} if out else {}))
    elif out:
        console().print(f"written: {out}, {len(files):,} images", soft_wrap=True)
    else:
        _print_predictions(bundle, predictions, several=several, number=opened.labels[0] if number else None)
    if failed:
        what = f"error: {len(failed)} of {len(files)} images can't be read, such as {failed[0]}"
        messages().print(what, soft_wrap=True, markup=False)
        raise typer.Exit(2)


def _print_predictions(bundle: Path, predictions: list[dict[str, Any]], *, several: bool, number: str | None) -> None:
    """A row an image: its whole path, its label, and the two likeliest of the others; or its number."""
    if number is not None:
        said = [f"{entry['value']:.6g}" if "value" in entry else entry.get("error", "") for entry in predictions]
        cells = [[entry["path"], value] for entry, value in zip(predictions, said, strict=True)]
        print_table(f"predictions of {bundle}", ["image", number], cells)
        return
    rows = []
    for entry in predictions:
        probabilities, label = entry.get("probabilities", {}), entry.get("label")
        ranked = sorted(probabilities.items(), key=lambda pair: (pair[0] != label, -pair[1]))[:3]
        best = [ranked[0][0], f"{ranked[0][1]:.1%}"] if ranked else ["-", ""]
        others = ", ".join(f"{label} {probability:.1%}" for label, probability in ranked[1:])
        said = [", ".join(entry["labels"]) or "no label"] if "labels" in entry else ["-"] if several else []
        rows.append([entry["path"], *said, *best, others or entry.get("error", "")])
    columns = ["image", *(["labels", "likeliest"] if several else ["label"]), "probability", "next"]
    print_table(f"predictions of {bundle}", columns, rows, left=3 if several else 2)
