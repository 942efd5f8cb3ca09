"""``toolkit push`` against a hub on this machine; large files go by LFS, since Xet's protocol has no stand-in here."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_hub import TOKEN, FakeHub, Repo, fake_hub
from huggingface_hub import ModelCard
from tiny_bundle import flip_a_byte

from toolkit.errors import ToolkitError
from toolkit.publishing.hub import additions, check_repo
from toolkit.publishing.uploads import stale_files, uploads_of
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.verify import verify

NAME = "me/colours"
Push = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as running:
        yield running


@pytest.fixture
def push(hub: FakeHub, bundle: Path, tmp_path: Path) -> Push:
    """``toolkit push BUNDLE``, in an environment that knows this hub alone."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
    known |= {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf"),
    }

    def run(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "toolkit", "push", str(bundle), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, env=known | environment
        )
        assert done.returncode == code, done.stderr
        if code:
            assert len(done.stderr.splitlines()) == 1
            assert done.stderr.startswith("error: ")
        return done

    return run


def names_in(bundle: Path) -> set[str]:
    return {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}


def test_what_is_pushed_is_a_bundle_again_and_its_card_the_page(
    push: Push, hub: FakeHub, bundle: Path, tmp_path: Path
) -> None:
    outcome = json.loads(push(NAME, "--private", "--json").stdout)
    repo = hub.repos[NAME]
    assert (outcome["private"], repo.private) == (True, True)
    assert (outcome["commit"], outcome["url"]) == (repo.sha("main"), f"{hub.endpoint}/{NAME}")
    files = repo.branches["main"]
    assert set(files) == {".gitattributes", "README.md"} | {f"colours/{name}" for name in names_in(bundle)}
    said = {each["path"]: (each["size"], each["sha256"]) for each in outcome["files"]}
    sent = {name: content for name, content in files.items() if name != ".gitattributes"}
    assert said == {name: (len(each), hashlib.sha256(each).hexdigest()) for name, each in sent.items()}
    assert outcome["bytes"] == sum(map(len, sent.values()))
    assert len(hub.large) == 5  # the graph, the reference and the three images
    downloaded = repo.write("main", tmp_path / "download") / "colours"
    assert verify(downloaded)["passed"]
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "onnx"
    assert f'hf download {NAME} --include "colours/*"' in card.text
    assert repo.messages == [f"Bundle {(Bundle(bundle).manifest.manifest_sha256 or '')[:12]}, clip-toolkit 0"]


def test_a_second_bundle_takes_the_place_of_the_first_and_an_equal_one_changes_nothing(
    push: Push, hub: FakeHub, bundle: Path, tmp_path: Path
) -> None:
    (bundle / "notes.txt").write_text("of the first")
    Bundle(bundle).update_manifest()
    assert "3 images of its data" in push(NAME).stderr
    again = json.loads(push(NAME, "--json").stdout)
    assert (again["commit"], again["deleted"]) == (hub.repos[NAME].sha("main"), [])
    assert len(hub.repos[NAME].messages) == 1
    (bundle / "notes.txt").unlink()
    (bundle / "MODEL_CARD.md").write_text("# Another\n")
    Bundle(bundle).update_manifest()
    done = push(NAME, "--message", "the second")
    assert "1 of an earlier bundle removed" in done.stdout
    assert hub.repos[NAME].messages[1:] == ["the second"]
    assert verify(hub.repos[NAME].write("main", tmp_path / "download") / "colours")["passed"]


def test_a_branch_is_made_and_main_stays(push: Push, hub: FakeHub) -> None:
    hub.repos[NAME] = Repo(private=False)
    outcome = json.loads(push(NAME, "--revision", "v1", "--json").stdout)
    assert outcome["url"].endswith("/tree/v1")
    assert set(hub.repos[NAME].branches["main"]) == {".gitattributes"}
    assert "colours/manifest.json" in hub.repos[NAME].branches["v1"]
    push(NAME, "--revision", "v1")


def test_a_dry_run_says_the_same_and_asks_nobody(push: Push, hub: FakeHub, tmp_path: Path) -> None:
    planned = json.loads(push(NAME, "--dry-run", "--json", HF_TOKEN="", HF_HUB_OFFLINE="1").stdout)
    assert "colours/model.onnx" in push(NAME, "--dry-run", "--private").stdout
    assert hub.requests == []
    assert planned["dry_run"]
    pushed = json.loads(push(NAME, "--json").stdout)
    assert pushed["files"] == planned["files"]


def test_a_bundle_that_fails_is_not_pushed(push: Push, hub: FakeHub, bundle: Path) -> None:
    flip_a_byte(bundle / "model.onnx")
    assert "not published: model.onnx was changed" in push(NAME, code=1).stderr
    push(NAME, "--dry-run", code=1)
    assert hub.repos == {}


@pytest.mark.parametrize(
    "name", ["colours", "a/b/c", "me/", "me/..", "me/a b", "https://huggingface.co/me/colours", "me/README.md", ""]
)
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ToolkitError, match="no name of a repository"):
        check_repo(name)


def test_a_name_is_refused_before_anything_else(push: Push, hub: FakeHub) -> None:
    assert "no name of a repository (at colours)" in push("colours", code=2).stderr
    assert hub.requests == []


def test_no_token_a_wrong_one_and_one_without_rights(push: Push, hub: FakeHub) -> None:
    assert "no token" in push(NAME, code=2, HF_TOKEN="").stderr
    assert hub.requests == []
    assert "does not accept the token" in push(NAME, code=2, HF_TOKEN="hf_of_yesterday").stderr
    refused = push("another/colours", "--json", code=2)
    assert "may not write there" in json.loads(refused.stdout)["error"]["what"]
    assert hub.repos == {}
    assert not [line for line in hub.requests if TOKEN in line]


def test_no_network(push: Push) -> None:
    assert "gave no answer" in push(NAME, code=2, HF_ENDPOINT="http://127.0.0.1:9").stderr
    assert "HF_HUB_OFFLINE" in push(NAME, code=2, HF_HUB_OFFLINE="1").stderr


def test_a_repository_with_other_content_stays_as_it_is(push: Push, hub: FakeHub) -> None:
    files = {".gitattributes": b"", "README.md": b"mine"}
    hub.repos[NAME] = Repo(private=True, branches={"main": files})
    assert "holds other files: README.md (at me/colours)" in push(NAME, code=2).stderr
    assert hub.repos[NAME].branches["main"] == files


@pytest.mark.parametrize("there", [["model.safetensors"], ["old/manifest.json", "README.md"], ["colours/notes.txt"]])
def test_other_content_is_no_earlier_bundle(there: list[str], bundle: Path) -> None:
    with pytest.raises(ToolkitError, match="holds other files"):
        stale_files(there, NAME, uploads_of(Bundle(bundle), NAME))


def test_a_public_repository_is_not_private(push: Push, hub: FakeHub) -> None:
    hub.repos[NAME] = Repo(private=False)
    assert "is public, and --private" in push(NAME, "--private", code=2).stderr
    assert hub.repos[NAME].messages == []


def test_what_changed_since_it_was_verified_is_not_sent(bundle: Path) -> None:
    uploads = uploads_of(Bundle(bundle), NAME)
    assert [each.path_in_repo for each in additions(uploads)] == [each.path for each in uploads]
    flip_a_byte(bundle / "model.onnx")
    with pytest.raises(ToolkitError, match=r"colours/model\.onnx changed meanwhile"):
        additions(uploads)


def test_a_push_that_another_overtook_is_refused(push: Push, hub: FakeHub) -> None:
    hub.overtake = True
    assert "the repository changed meanwhile" in push(NAME, code=2).stderr
    assert set(hub.repos[NAME].branches["main"]) == {".gitattributes"}


def test_an_upload_that_breaks_off_leaves_no_commit(push: Push, hub: FakeHub) -> None:
    hub.lose_uploads = True
    assert "upload to the hub" in push(NAME, code=2).stderr
    assert hub.repos[NAME].messages == []
    hub.lose_uploads = False
    push(NAME)
    assert len(hub.repos[NAME].messages) == 1


@pytest.mark.parametrize(
    ("there", "stale"),
    [
        ([], []),
        ([".gitattributes"], []),
        (
            ["README.md", "colours/manifest.json", "colours/old.onnx", "colours/golden/9.png"],
            ["golden/9.png", "old.onnx"],
        ),
    ],
)
def test_only_files_of_an_earlier_bundle_are_stale(there: list[str], stale: list[str], bundle: Path) -> None:
    uploads = uploads_of(Bundle(bundle), NAME)
    assert stale_files(there, NAME, uploads) == [f"colours/{name}" for name in stale]
