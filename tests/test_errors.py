"""What a user's mistake carries, within a process and between two."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from toolkit.errors import ToolkitError
from toolkit.runtime.decode import UnreadableImageError


@pytest.mark.parametrize(
    "error",
    [
        ToolkitError("no such file", where=Path("a.png"), fix="give another", everywhere=True),
        UnreadableImageError("truncated", where=Path("a.png")),
    ],
)
def test_an_error_of_a_worker_process_arrives_whole(error: ToolkitError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert again.as_line() == error.as_line()
