"""``toolkit predict``: labels and probabilities, without torch."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    from toolkit.data.pairs import Pair
    from toolkit.runtime.bundle import Bundle

SHOWN = 40
"""Characters of a text that a table shows."""


def predict(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="Image files, or folders of images.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Text beside each image, or alone, for a bundle that takes texts.")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet table of images, of texts, or of both, as the bundle takes them."),
    ] = None,
    path_column: Annotated[
        str | None, typer.Option(help="The images' column of the manifest.", show_default="as trained, or path")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="The texts' column of the manifest.", show_default="as trained, or text")
    ] = None,
    precision: PrecisionOption = None,
    provider: ServingProviderOption = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a run.", show_default="as tuned, or 32; 8 with --input")
    ] = None,
    threads: ThreadsOption = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Likeliest classes whose probabilities are given.",
            show_default="all, of more than 100 classes 10",
        ),
    ] = None,
    place: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Score an archive: a folder, a glob, a manifest or shards, as a path or a URL (s3://, gs://, hf://). "
            "--out is a folder of Parquet shards then; a call that was interrupted goes on where it was.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="File for the predictions in place of the table: .csv, .jsonl or .parquet; replaced if it is there. "
            "With --input the folder or URL of the shards."
        ),
    ] = None,
    embedding: Annotated[bool, typer.Option(help="With --input: a column with embeddings.")] = False,
    shard_rows: Annotated[int, typer.Option(min=1, help="With --input: rows of a shard.")] = 5_000,
    engine: Annotated[
        str, typer.Option(help="With --input: local, the cores of this machine, or ray, those of a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="host:port of the Ray cluster.", show_default="RAY_ADDRESS, or a Ray of this machine"),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Print label and probabilities of images; exit 2 if one can't be read, after the others.

    A folder stands for the images at any depth below it.

    Example: toolkit predict bundles/digits photo.png
    """
    from toolkit.runtime.bundle import Bundle
    from toolkit.runtime.prediction_file import check_prediction_file

    if place is not None:
        from toolkit.cli.score import score_archive
        from toolkit.scoring.inputs import Columns
        from toolkit.scoring.options import ScoringOptions

        if paths or text is not None or manifest is not None:
            fix = "leave them out, or leave --input out"
            raise ToolkitError("--input stands for all images and texts", where="--input", fix=fix)
        options = ScoringOptions(
            provider=provider,
            precision=precision,
            threads=threads,
            batch_size=batch_size,
            top_k=top_k,
            embedding=embedding,
            shard_rows=shard_rows,
            columns=Columns(path_column, text_column),
            engine=engine,  # type: ignore[arg-type]
            address=address,
        )
        score_archive(bundle, place, out, options, json=json)
        return
    if embedding:
        fix = "give --input, or use toolkit embed"
        raise ToolkitError("embeddings stand in shards alone", where="--embedding", fix=fix)
    if engine != "local" or address is not None:
        raise ToolkitError("Ray scores archives alone", where="--engine", fix="give --input, or leave it out")
    file = None if out is None else Path(out)
    if file is not None:
        check_prediction_file(file)
    if not paths and text is None and manifest is None:
        fix = "give image files, folders of images, --text or --manifest FILE; see toolkit predict --help"
        raise ToolkitError("nothing is there to predict", where="PATH...", fix=fix)
    opened = Bundle(bundle)
    if manifest is None:
        pairs = _given(opened, paths or [], text, {"--path-column": path_column, "--text-column": text_column})
    else:
        pairs = _listed(opened, manifest, paths or [], text, path_column, text_column)
    settings = {"provider": provider, "precision": precision, "threads": threads, "batch_size": batch_size}
    _predict(opened, pairs, settings, top_k, file, json=json)


def _predict(
    bundle: Bundle, pairs: list[Pair], settings: dict[str, Any], top_k: int | None, file: Path | None, *, json: bool
) -> None:
    """Predict images and texts into a table, a file or JSON; exit 2 if one can't be read."""
    from toolkit.runtime.prediction_file import prediction_file
    from toolkit.serving.classifier import Classifier
    from toolkit.serving.predictor import default_top_k

    few = top_k or default_top_k(len(bundle.labels))
    several, number = bundle.decision.several_labels, "value" in bundle.decision.outputs
    predictions, failed = [], []
    with ExitStack() as entered:
        classifier = entered.enter_context(Classifier.open(bundle, **settings))
        progress = entered.enter_context(counting("predicting", len(pairs)))
        extra = {"several": several, "number": number, "texts": bundle.tokenizer is not None}
        write = entered.enter_context(prediction_file(file, bundle.labels, few, **extra)) if file else None
        files, texts = [pair.path for pair in pairs], [pair.text for pair in pairs]
        for entry in classifier.entries(files, few, texts=texts):
            if "error" in entry:
                failed.append(entry["path"] or entry.get("text", ""))
            if write:
                write(entry)
            if json or not write:
                predictions.append(entry)
            progress.step()
    _say_truncated(bundle, texts)
    if json:
        print_json({"predictions": predictions} | ({"out": str(file)} if file else {}))
    elif file:
        console().print(f"written: {file}, {len(pairs):,} images", soft_wrap=True)
    else:
        _print_predictions(bundle.path, predictions, several=several, number=bundle.labels[0] if number else None)
    if failed:
        what = f"error: {len(failed)} of {len(pairs)} images can't be read, such as {failed[0]}"
        messages().print(what, soft_wrap=True, markup=False)
        raise typer.Exit(2)


def _given(bundle: Bundle, paths: list[Path], text: str | None, columns: dict[str, str | None]) -> list[Pair]:
    """The images of the command line, each with the one text.

    Raises:
        ToolkitError: a text for a bundle of images alone, or an option that is for manifests.
    """
    from toolkit.data.pairs import Pair
    from toolkit.runtime.image_files import find_images, in_words

    if paths and not bundle.takes_images:
        fix = "give --text, or --manifest with a column of texts"
        raise ToolkitError("the bundle takes texts alone, and no image", where=str(paths[0]), fix=fix)
    for option, column in columns.items():
        if column is not None:
            raise ToolkitError("there is no manifest", where=option, fix="give --manifest, or leave it out")
    if text is not None and bundle.tokenizer is None:
        fix = "leave it out, or use a bundle of model.inputs: [image, text]"
        raise ToolkitError("the bundle takes images alone, and no text", where="--text", fix=fix)
    if not paths:
        return [Pair(None, text)]
    found = find_images(paths)
    if found.left_out:
        messages().print(f"left out: {in_words(found.left_out)}", soft_wrap=True, markup=False)
    return [Pair(Path(name), text) for name in found.names]


def _listed(
    bundle: Bundle,
    manifest: Path,
    paths: list[Path],
    text: str | None,
    path_column: str | None,
    text_column: str | None,
) -> list[Pair]:
    """The rows of a manifest.

    Raises:
        ToolkitError: something beside it, or what is wrong with it.
    """
    from toolkit.data.pairs import read_pairs

    if paths or text is not None:
        fix = "write them into the manifest, or leave it out"
        raise ToolkitError("a manifest stands for all images and texts", where="--manifest", fix=fix)
    if text_column is not None and bundle.tokenizer is None:
        fix = "leave it out, or use a bundle of model.inputs: [image, text]"
        raise ToolkitError("the bundle takes images alone, and no text", where="--text-column", fix=fix)
    if path_column is not None and not bundle.takes_images:
        raise ToolkitError("the bundle takes texts alone, and no image", where="--path-column", fix="leave it out")
    trained: dict[str, Any] = (bundle.manifest.provenance.get("recipe") or {}).get("data") or {}
    columns = trained.get("columns") or {}
    return read_pairs(
        manifest,
        path_column=path_column or columns.get("path") or "path" if bundle.takes_images else None,
        text_column=None if bundle.tokenizer is None else text_column or columns.get("text") or "text",
        allow_missing=bundle.takes_missing,
    )


def _say_truncated(bundle: Bundle, texts: list[str | None]) -> None:
    """A line about texts that lost their end, where any did."""
    cut = 0 if bundle.tokenizer is None else bundle.tokenizer.truncated(texts)
    if cut:
        most = f"the network takes {bundle.tokenizer.settings.context_length} tokens" if bundle.tokenizer else ""
        messages().print(f"texts that lost their end: {cut:,} of {len(texts):,}; {most}", soft_wrap=True)


def _print_predictions(bundle: Path, predictions: list[dict[str, Any]], *, several: bool, number: str | None) -> None:
    """A row an image: its path, the start of its text, its label, and the two likeliest of the others; or a number."""
    if number is not None:
        values = [f"{entry['value']:.6g}" if "value" in entry else entry.get("error", "") for entry in predictions]
        cells = [[entry["path"] or "-", value] for entry, value in zip(predictions, values, strict=True)]
        print_table(f"predictions of {bundle}", ["image", number], cells)
        return
    rows, texts = [], any("text" in entry for entry in predictions)
    for entry in predictions:
        probabilities, label = entry.get("probabilities", {}), entry.get("label")
        ranked = sorted(probabilities.items(), key=lambda pair: (pair[0] != label, -pair[1]))[:3]
        best = [ranked[0][0], f"{ranked[0][1]:.1%}"] if ranked else ["-", ""]
        others = ", ".join(f"{label} {probability:.1%}" for label, probability in ranked[1:])
        said: str = entry.get("text", "")
        text = [said if len(said) <= SHOWN else f"{said[: SHOWN - 3]}..."] if texts else []
        named = [", ".join(entry["labels"]) or "no label"] if "labels" in entry else ["-"] if several else []
        rows.append([entry["path"] or "-", *text, *named, *best, others or entry.get("error", "")])
    start = ["image", *(["text"] if texts else [])]
    columns = [*start, *(["labels", "likeliest"] if several else ["label"]), "probability", "next"]
    print_table(f"predictions of {bundle}", columns, rows, left=len(columns) - 2)
