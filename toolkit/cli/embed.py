"""``toolkit embed``: the embeddings of images, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
)


def embed(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, exported with --embedding.")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Image files, or folders of images.")],
    out: Annotated[Path, typer.Option(help="File to write, .parquet or .safetensors; replaced if it is there.")],
    precision: PrecisionOption = None,
    provider: ServingProviderOption = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a run.", show_default="as tuned, or 32")] = None,
    threads: ThreadsOption = None,
    json: JsonFlag = False,
) -> None:
    """Write embeddings with paths; a call that was interrupted goes on where it was. Exit 2 if one can't be read.

    Example: toolkit embed bundles/digits datasets/digits --out digits.parquet
    """
    from toolkit.runtime.embedding_file import check_embedding_file
    from toolkit.runtime.image_files import find_images, in_words
    from toolkit.serving.classifier import Classifier
    from toolkit.serving.embed import embed_files

    check_embedding_file(out)
    found = find_images(paths)
    if found.left_out:
        messages().print(f"left out: {in_words(found.left_out)}", soft_wrap=True, markup=False)
    files = [Path(name) for name in found.names]
    settings = {"provider": provider, "precision": precision, "threads": threads, "batch_size": batch_size}
    with Classifier.open(bundle, **settings) as classifier, counting("embedding", len(files)) as progress:
        done = embed_files(classifier, files, out, progress)
    if json:
        print_json({"out": str(out)} | done)
    else:
        resumed = f", {done['resumed']:,} of them by an interrupted call" if done["resumed"] else ""
        console().print(f"written: {out}, {done['images'] - len(done['errors']):,} images{resumed}", soft_wrap=True)
    if done["errors"]:
        path, reason = next(iter(done["errors"].items()))
        what = f"error: {len(done['errors'])} of {len(files)} images can't be read, such as {path}: {reason}"
        messages().print(what, soft_wrap=True, markup=False)
        raise typer.Exit(2)
