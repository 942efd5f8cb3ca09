"""The manifest: its format, its names, its own hash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolkit.errors import ToolkitError
from toolkit.files import write_json
from toolkit.runtime.bundle import FORMAT_VERSION, MANIFEST, Bundle
from toolkit.runtime.verify import verify


def test_rewriting_an_unchanged_manifest_changes_no_byte(bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    Bundle(bundle).update_manifest()
    assert (bundle / MANIFEST).read_bytes() == before


def test_a_newer_format_asks_for_an_upgrade(bundle: Path) -> None:
    content = json.loads((bundle / MANIFEST).read_bytes())
    write_json(bundle / MANIFEST, content | {"format_version": FORMAT_VERSION + 1, "unheard_of": {}})
    with pytest.raises(ToolkitError, match=f"has format {FORMAT_VERSION + 1}") as caught:
        Bundle(bundle)
    assert caught.value.fix == "upgrade clip-toolkit"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"format_version": 1',
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        b'{"format_version": "1"}',
        b'{"format_version": 1, "toolkit_version": "0", "created": "", "surprise": 1}',
        b'{"format_version": 1, "toolkit_version": "0", "created": "", "files": {"model.onnx": {"size": 1}}}',
    ],
)
def test_a_damaged_manifest_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(ToolkitError, match="damaged manifest") as caught:
        Bundle(bundle)
    assert caught.value.where == str(bundle / MANIFEST)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "golden/../../outside.txt", "a\\b"])
def test_a_manifest_that_leads_out_of_the_bundle_is_refused(name: str, bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "size": 1}
    write_json(bundle / MANIFEST, manifest)
    with pytest.raises(ToolkitError, match="leads out of the bundle"):
        Bundle(bundle)


def test_a_manifest_that_is_a_link_is_refused(bundle: Path) -> None:
    (bundle / MANIFEST).rename(bundle.parent / MANIFEST)
    (bundle / MANIFEST).symlink_to(bundle.parent / MANIFEST)
    with pytest.raises(ToolkitError, match=r"manifest\.json is a link"):
        Bundle(bundle)


@pytest.mark.parametrize("name", ["", ".", "./a", "a//b", "a/", "C:a", "a\x00b", "manifest.json", "signature.json"])
def test_a_manifest_lists_plain_names_only(name: str, bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "size": 1}
    write_json(bundle / MANIFEST, manifest)
    with pytest.raises(ToolkitError, match="damaged manifest"):
        Bundle(bundle)


def test_no_byte_of_the_manifest_can_change_unseen(bundle: Path) -> None:
    whole = (bundle / MANIFEST).read_bytes()
    for position in range(0, len(whole), 5):
        for flip in (1, 0x20):
            content = bytearray(whole)
            content[position] ^= flip
            (bundle / MANIFEST).write_bytes(content)
            with pytest.raises(ToolkitError):
                Bundle(bundle).session(threads=1)
    (bundle / MANIFEST).write_bytes(whole)
    Bundle(bundle).session(threads=1)


def test_a_manifest_that_was_edited_is_named(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    write_json(bundle / MANIFEST, manifest | {"created": "2020-01-01T00:00:00+00:00"})
    assert Bundle(bundle).differences() == ["manifest.json was changed"]
    assert verify(bundle)["problems"] == ["manifest.json was changed"]
    with pytest.raises(ToolkitError, match="manifest was changed"):
        Bundle(bundle).session()
    opened = Bundle(bundle)
    opened.update_manifest()
    assert opened.differences() == Bundle(bundle).differences() == []


def test_a_manifest_without_its_own_hash_is_read(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    del manifest["manifest_sha256"]
    write_json(bundle / MANIFEST, manifest)
    assert verify(bundle, threads=1)["passed"]
