"""What a job was started with: written beside its rows, so that another bundle or input never goes on with it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import Bundle
from toolkit.scoring.store import Store
from toolkit.strict_json import reason_in

JOB, LISTING, SUMMARY = "job.json", "inputs.parquet", "summary.json"
FORMAT = 1
IN_WORDS = {
    "input": "another input",
    "precision": "another precision",
    "provider": "another provider",
    "bundle_sha256": "another bundle",
    "graph_sha256": "another graph",
    "preprocess_sha256": "another preprocessing",
    "shard_rows": "other rows a shard",
    "top_k": "other classes a row",
    "embedding": "embeddings, or none",
}
"""What a difference means, by the key that differs."""


class Job(BaseModel):
    """Content of ``job.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    input: str
    images: int
    """Rows of the listing."""
    shard_rows: int
    """Rows of a shard; the last may have fewer."""
    top_k: int | None
    embedding: bool
    bundle: str
    bundle_sha256: str
    """Of the manifest, and so of every file."""
    graph_sha256: str
    preprocess_sha256: str
    precision: str
    provider: str
    toolkit_version: str

    @property
    def shards(self) -> int:
        """How many there will be."""
        return -(-self.images // self.shard_rows)

    def rows_of(self, shard: int) -> int:
        """Rows of one shard."""
        return min(self.shard_rows, self.images - shard * self.shard_rows)

    def require_same(self, known: Job, where: str) -> None:
        """Refuse to go on with a job that was started otherwise.

        Raises:
            ToolkitError: naming the first difference.
        """
        for key, what in IN_WORDS.items():
            if getattr(self, key) != getattr(known, key):
                said = f"it was begun with {what}: {key} is {getattr(known, key)}, not {getattr(self, key)}"
                raise ToolkitError(said, where=where, fix="choose another --out, or ask for what it was begun with")


def known_job(store: Store) -> Job | None:
    """The job that was started in a folder; None if none was.

    Raises:
        ToolkitError: it is damaged, or of another format.
    """
    content = store.read_json(JOB)
    if content is None:
        return None
    try:
        job = Job.model_validate(content)
        if job.format != FORMAT:
            raise ValueError(f"its format is {job.format}, and this version writes {FORMAT}")
    except (ValidationError, ValueError) as error:
        fix = "choose another --out, or remove the folder"
        raise ToolkitError(f"damaged: {reason_in(error)}", where=store.where(JOB), fix=fix) from error
    return job


def stamp_of(bundle: Bundle, precision: str) -> dict[str, str]:
    """The keys of a job that name bundle, graph and preprocessing."""
    files = bundle.manifest.files
    return {
        "bundle": bundle.path.absolute().name,
        "bundle_sha256": str(bundle.manifest.manifest_sha256),
        "graph_sha256": files[bundle.graph_name(precision)].sha256,
        "preprocess_sha256": files["preprocess.json"].sha256,
    }
