"""Forms are read in memory, since a server may have no disk to write to."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from toolkit.serving.http.body import form_in
from toolkit.serving.limits import MIB, Limits


def test_a_large_file_of_a_form_needs_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    with pytest.raises(FileNotFoundError):
        tempfile.mkstemp()
    content = bytes(range(256)) * (3 * MIB // 256)
    head = b'--part\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    headers = Headers({"content-type": "multipart/form-data; boundary=part"})
    limits = Limits(body_bytes=len(head) + len(content) + 100)
    assert asyncio.run(form_in(head + content + b"\r\n--part--\r\n", headers, limits)) == ([content], [])
