"""Run the command line as on a system whose Python has none of the modules of Linux.

    python tests/without_linux.py train digits --out runs/digits then predict bundles/digits photo.jpg

The toolkit's own imports of them fail, and so does its text without an encoding, which would be another one on
Windows. Libraries that know which system they are on keep theirs. Commands with ``then`` between them run one after
another, as far as they end well.
"""

from __future__ import annotations

import builtins
import sys
import warnings
from typing import Any

HIDDEN = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
OURS = {"toolkit", "export", "recipes", "filelock"}
asked: set[str] = set()
real = builtins.__import__


def seeming(name: str, given: Any = None, *rest: Any, **named: Any) -> Any:
    """Import a module, unless it is hidden from who asks."""
    if name in HIDDEN and given and given.get("__name__", "").partition(".")[0] in OURS:
        asked.add(name)
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, given, *rest, **named)


if __name__ == "__main__":
    builtins.__import__ = seeming
    warnings.filterwarnings("error", category=EncodingWarning, module=rf"({'|'.join(OURS)})\b")
    from toolkit.cli.main import main

    commands: list[list[str]] = [[]]
    for word in sys.argv[1:]:
        if word == "then":
            commands.append([])
        else:
            commands[-1].append(word)
    ended: list[str] = []
    try:
        for command in commands:
            sys.argv[1:] = command
            try:
                main()
            except SystemExit as end:
                if end.code:
                    raise
                ended.append(command[0])
    finally:
        sys.stderr.write(f"hidden: {' '.join(sorted(asked))}\nended well: {' '.join(ended)}\n")
