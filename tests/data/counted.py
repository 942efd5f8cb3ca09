"""Progress that a test looks at."""

from __future__ import annotations

from toolkit.progress import Progress


class Counted(Progress):
    """Keeps what was done of how much."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int | None]] = []

    def done(self, count: int, total: int | None = None) -> None:
        self.seen.append((count, total))
