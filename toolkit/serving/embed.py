"""The embeddings of many images into one file, by a bundle whose graph gives them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.progress import SILENT, Progress
from toolkit.runtime.embedding_file import CHUNK, Embedded, EmbeddingChunks, check_embedding_file, write_embeddings
from toolkit.serving.classifier import Classifier
from toolkit.text import path_text


def embed_files(
    classifier: Classifier, files: Sequence[Path], out: Path, progress: Progress = SILENT
) -> dict[str, Any]:
    """Write the embeddings of image files; a call that was interrupted goes on where it was.

    Args:
        classifier: of a bundle that was exported with ``embedding``.
        files: images.
        out: ``.parquet`` or ``.safetensors``; replaced if it is there.
        progress: told how it goes on.

    Returns:
        ``images``, ``resumed`` (images that an interrupted call had done), ``width`` and ``errors`` by path.

    Raises:
        ToolkitError: the graph gives no embedding, or the file can't be written.
    """
    check_embedding_file(out)
    session = classifier.pool.sessions[0]
    if "embedding" not in session.outputs:
        fix = "export the run again with --embedding"
        raise ToolkitError("the bundle's graph gives no embedding", where=classifier.bundle.path, fix=fix)
    graph = json.dumps(session.metadata, sort_keys=True)  # checkpoint, precision and preprocessing
    paths = [path_text(path) for path in files]
    chunks = EmbeddingChunks(out, paths, graph)
    first = chunks.done()
    start = min(first * CHUNK, len(files))

    def rows() -> Iterator[Embedded]:
        for place, predicted in enumerate(classifier.stream(files[start:]), start):
            progress.done(place + 1, len(files))
            if isinstance(predicted, ToolkitError):
                yield Embedded(paths[place], None, predicted.what)
            else:
                yield Embedded(paths[place], predicted.embedding)

    chunks.write(rows(), first)
    errors = write_embeddings(chunks)
    return {"images": len(files), "resumed": start, "errors": errors}
