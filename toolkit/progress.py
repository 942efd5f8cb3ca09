"""How long work tells whoever waits for it how far it is."""

from __future__ import annotations


class Progress:
    """Told how work goes on; this one says nothing of it."""

    def stage(self, what: str) -> None:
        """Something is being done from now on, in a few words."""

    def done(self, count: int, total: int | None = None) -> None:
        """So much of the stage is done, of so much where that is known."""

    def step(self) -> None:
        """One more part of the stage is done."""

    def expect(self, seconds: float) -> None:
        """All of it will take so long, about."""


SILENT = Progress()
