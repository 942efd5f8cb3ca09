"""How a job is scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolkit.errors import ToolkitError
from toolkit.scoring.inputs import AS_TRAINED, Columns

SHARD_ROWS = 5_000
"""What a kill costs at most."""
ENGINES = ("local", "ray")
UNTUNED_BATCH = 8
"""Images that a session takes at once where ``toolkit tune`` chose nothing: more wait for decoders and gain nothing."""


@dataclass(frozen=True)
class ScoringOptions:
    """How a job is scored; None stands for what ``serving.json`` says, else for what the engine takes by itself."""

    provider: str | None = None
    precision: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    top_k: int | None = None
    """Classes whose probabilities a row has: all, of more than 100 classes 10, if None."""
    embedding: bool = False
    shard_rows: int = SHARD_ROWS
    columns: Columns = AS_TRAINED
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    """``host:port`` of the Ray cluster; ``RAY_ADDRESS``, or a Ray of this machine, if None."""

    def check(self) -> None:
        """Raise :class:`ToolkitError` for what can't be."""
        if self.shard_rows < 1:
            raise ToolkitError(f"a shard of {self.shard_rows} rows", where="--shard-rows", fix="give 1 or more")
        if self.engine not in ENGINES:
            raise ToolkitError(f"no engine {self.engine!r}", where="--engine", fix=f"choose {' or '.join(ENGINES)}")
        if self.address is not None and self.engine != "ray":
            raise ToolkitError("an address is of a Ray cluster", where="--address", fix="add --engine ray")


DEFAULT = ScoringOptions()
