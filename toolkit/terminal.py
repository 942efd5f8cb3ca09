"""The console that everything for a person goes through: file names and labels can't steer the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from toolkit.text import for_terminal


class SafeConsole(Console):
    """Rich's console, in which each text is one line of printable characters, whatever it holds."""

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        """A text as Rich measures and styles it; escaped before it is measured, so that tables keep their columns."""
        return super().render_str(for_terminal(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What goes to the terminal: also of texts that came as Rich's own, such as a progress bar's."""
        for segment in super().render(renderable, options):
            lines = segment.text.split("\n")  # of Rich's own making; those of a text are escaped by now
            yield segment if segment.control else segment._replace(text="\n".join(map(for_terminal, lines)))
