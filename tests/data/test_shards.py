from __future__ import annotations

import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from counted import Counted
from PIL import Image

from toolkit.data.formats import list_data
from toolkit.data.listing import UNSPLIT
from toolkit.data.shard_index import IndexEntry, index_of, read_index
from toolkit.data.shard_scan import key_of, scan
from toolkit.data.sharding import index_shards, write_shards
from toolkit.data.shards import list_shards
from toolkit.data.source import open_data
from toolkit.errors import ToolkitError
from toolkit.files import sha256_of
from toolkit.recipe.data import DataConfig


def png(color: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (color, 0, 0)).save(content, "PNG")
    return content.getvalue()


def tar_of(path: Path, members: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            encoded = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(encoded)
            tar.addfile(member, io.BytesIO(encoded))
    return path


@pytest.fixture
def shards(color_data: Path, tmp_path: Path) -> Path:
    write_shards(DataConfig(path=color_data), tmp_path / "shards", images_per_shard=10)
    return tmp_path / "shards"


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("0001.jpg", "0001", "jpg"),
        ("train/a.b.Seg.PNG", "train/a", "b.seg.png"),
        ("a.b/c.json", "a.b/c", "json"),
        ("no-extension", "no-extension", ""),
    ],
)
def test_a_key_runs_to_the_first_dot_of_the_last_part(name: str, key: str, extension: str) -> None:
    assert key_of(name) == (key, extension)


def test_labels_stand_beside_images_or_in_json(tmp_path: Path) -> None:
    members = {
        "a.png": png(1),
        "a.cls": "cat\n",
        "b.json": json.dumps({"label": 3, "split": "val", "group": "p1", "width": 8}),
        "b.input.png": png(2),
        "c.txt": "dog",
        "c.png": png(3),
        "README.md": "no image",
    }
    shard = tar_of(tmp_path / "x.tar", members)
    found = scan(shard)
    samples = found.samples
    assert [(each.name, each.label, each.split, each.group) for each in samples] == [
        ("a.png", "cat", "", ""),
        ("b.input.png", "3", "val", "p1"),
        ("c.png", "dog", "", ""),
    ]
    assert found.left_out == {".md": 1}
    items, left_out = list_shards(tmp_path)
    assert left_out == found.left_out
    assert [item.content.read() for item in items] == [png(1), png(2), png(3)]
    assert [item.split for item in items] == [UNSPLIT, "validation", UNSPLIT]


@pytest.mark.parametrize(
    ("shard", "member", "split"),
    [
        ("train-00001.tar", "1", "train"),
        ("val/0.tar", "1", "validation"),
        ("0.tar", "test/1", "test"),
        ("imagenet-1.tar", "1", UNSPLIT),
    ],
)
def test_the_split_stands_in_the_name_of_key_shard_or_folder(
    tmp_path: Path, shard: str, member: str, split: str
) -> None:
    tar_of(tmp_path / shard, {f"{member}.png": png(1), f"{member}.cls": "a"})
    assert [item.split for item in list_shards(tmp_path)[0]] == [split]


def test_shards_are_the_same_bytes_each_time(color_data: Path, shards: Path, tmp_path: Path) -> None:
    write_shards(DataConfig(path=color_data), tmp_path / "again", images_per_shard=10)
    files = sorted(path.name for path in shards.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert [sha256_of(shards / name) for name in files] == [sha256_of(tmp_path / "again" / name) for name in files]
    about = json.loads((shards / "dataset.json").read_text())
    assert about["shards"] == sorted(
        about["shards"], key=lambda name: ["train", "validation", "test"].index(name[:-10])
    )
    assert about["images"] == sum(len(read_index(shard).samples) for shard in shards.glob("*.tar")) == 72


def test_webdatasets_own_reader_would_find_the_members(shards: Path) -> None:
    with tarfile.open(next(shards.glob("train-*.tar"))) as tar:
        names = tar.getnames()
    assert names[:4] == ["00000000.png", "00000000.json", "00000001.png", "00000001.json"]


def test_an_index_is_written_for_shards_of_others(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", {"1.png": png(1), "1.cls": "x"})
    tar_of(tmp_path / "b.tar", {"2.png": png(2), "2.cls": "y", "3.png": png(3), "3.cls": "x"})
    counted = Counted()
    found = index_shards(tmp_path, counted)
    assert found == {str(tmp_path / "a.tar"): 1, str(tmp_path / "b.tar"): 2}
    assert counted.seen == [(1, 2), (2, 2)]
    assert all(len(sample.sha256) == 64 for sample in read_index(tmp_path / "b.tar").samples)
    with pytest.raises(ToolkitError, match="no shards"):
        index_shards(tmp_path / "nowhere")


def test_existing_shards_are_replaced_only_if_asked(color_data: Path, shards: Path) -> None:
    with pytest.raises(ToolkitError, match="there already"):
        write_shards(DataConfig(path=color_data), shards)
    assert write_shards(DataConfig(path=color_data), shards, force=True)["shards"] == [
        "train-00000.tar", "validation-00000.tar", "test-00000.tar",
    ]  # fmt: skip


def changed_byte(shard: Path) -> None:
    sample = random.Random(0).choice(read_index(shard).samples)
    content = bytearray(shard.read_bytes())
    content[sample.offset + sample.length // 2] ^= 255
    shard.write_bytes(content)


def rewrite_index(shard: Path, change: Callable[[list[dict[str, object]]], object]) -> None:
    lines = [json.loads(line) for line in index_of(shard).read_text().splitlines()]
    change(lines)
    index_of(shard).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda shard: shard.write_bytes(shard.read_bytes() + b"\0" * 512), "the index doesn't match its shard"),
        (lambda shard: shutil.copyfile(next(shard.parent.glob("test-*.tar")), shard), "the index doesn't match"),
        (changed_byte, "promises other content"),
        (lambda shard: index_of(shard).write_text("{"), "damaged index"),
        (lambda shard: index_of(shard).write_text(""), "damaged index"),
        (lambda shard: index_of(shard).write_text('{"format": 1}\n'), "damaged index"),
        (lambda shard: rewrite_index(shard, lambda lines: lines.pop()), "the index doesn't match"),
        (lambda shard: rewrite_index(shard, lambda lines: lines[1].update(offset=10**9)), "the index doesn't match"),
        (lambda shard: rewrite_index(shard, lambda lines: lines[1].update(offset=-5)), "damaged index"),
        (lambda shard: rewrite_index(shard, lambda lines: lines[1].update(offset="x")), "damaged index"),
        (lambda shard: rewrite_index(shard, lambda lines: lines[1].update(label=None)), "no label in image 1"),
        (lambda shard: rewrite_index(shard, lambda lines: lines[1].update(offset=0)), "promises other content"),
    ],
    ids=[
        "longer", "another-shard", "changed-byte", "no-json", "empty", "no-fields", "line-lost", "beyond", "negative",
        "no-number", "no-label", "moved",
    ],
)  # fmt: skip
def test_an_index_that_does_not_match_its_shard_is_refused(
    shards: Path, damage: Callable[[Path], object], what: str
) -> None:
    damage(shards / "train-00000.tar")
    with pytest.raises(ToolkitError, match=what) as caught:
        open_data(DataConfig(path=shards, on_bad_image="skip"))
    assert "train-00000.tar" in caught.value.where
    assert "toolkit data index" in caught.value.fix


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:700],
        lambda content: b"",
        lambda content: b"text, not a tar file\n" * 100,
        lambda content: content[:512] + b"\xff" * 512 + content[1024:3000],
        lambda content: b"\x1f\x8b" + content,
    ],
    ids=["half", "within-the-first", "empty", "text", "cut-off-mess", "gzip-like"],
)
def test_a_broken_tar_is_refused(shards: Path, damage: Callable[[bytes], bytes]) -> None:
    shard = shards / "train-00000.tar"
    index_of(shard).unlink()
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(ToolkitError, match=r"broken tar|has no label|label or JSON is damaged") as caught:
        list_shards(shards)
    assert caught.value.where == str(shard)


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ({"a.png": b"x"}, "a.png has no label"),
        ({"a.png": b"x", "a.cls": " \n"}, "a.png has no label"),
        ({"a.png": b"x", "a.json": '{"label": NaN}'}, "a.png has no label"),
        ({"a.png": b"x", "a.json": "[1]"}, "a: label or JSON is damaged"),
        ({"a.png": b"x", "a.json": "{"}, "a: label or JSON is damaged"),
        ({"a.png": b"x", "a.cls": b"\xff"}, "a: label or JSON is damaged"),
        ({"a.png": b"x", "a.json": '{"label": 1, "split": "holdout"}'}, "a.png is of the split 'holdout'"),
        ({"a.txt": "x"}, "no shard with an image"),
        ({}, "no shard with an image"),
    ],
)
def test_samples_that_can_not_be_trained_on_are_named(
    tmp_path: Path, members: dict[str, bytes | str], what: str
) -> None:
    tar_of(tmp_path / "s" / "x.tar", members)
    with pytest.raises(ToolkitError, match=what) as caught:
        list_shards(tmp_path / "s")
    assert caught.value.where.startswith(str(tmp_path / "s"))


def test_an_image_that_was_broken_when_it_was_packed_is_skipped_if_asked(color_data: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(color_data, tmp_path / "data"))
    (data / "train" / "red" / "00.png").write_text("no image")
    write_shards(DataConfig(path=data), tmp_path / "shards")
    source = open_data(DataConfig(path=tmp_path / "shards", on_bad_image="skip"))
    assert [entry["reason"] for entry in source.skipped] == ["not an image that Pillow knows"]
    assert source.skipped[0]["path"].startswith(str(tmp_path / "shards" / "train-00000.tar"))


def test_a_sample_knows_whether_it_lies_in_a_file() -> None:
    assert IndexEntry("a", 0, 10, "x").lies_in(10)
    assert not IndexEntry("a", 1, 10, "x").lies_in(10)
    assert not IndexEntry("a", 0, -1, "x").lies_in(10)


def test_an_index_whose_shard_is_missing_is_refused(shards: Path) -> None:
    for shard in sorted(shards.glob("*.tar")):
        shard.unlink()
        with pytest.raises(ToolkitError, match=f"the index's shard {shard.name} is missing") as caught:
            open_data(DataConfig(path=shards))
        assert caught.value.where == str(index_of(shard))
        index_of(shard).unlink()


def test_the_folder_that_a_recipe_names_says_nothing_of_splits(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {"0.png": png(0), "0.cls": "a"}
    tar_of(tmp_path / "test" / "shard-0.tar", members)
    assert [item.split for item in list_shards(tmp_path / "test")[0]] == [UNSPLIT]
    assert [item.split for item in list_shards(tmp_path / "test" / "shard-0.tar")[0]] == [UNSPLIT]
    assert [item.split for item in list_shards(tmp_path)[0]] == ["test"]


def test_a_changed_image_names_the_shard_that_is_to_be_indexed_again(shards: Path) -> None:
    shard = next(shards.glob("train-*.tar"))
    sample = read_index(shard).samples[1]
    content = bytearray(shard.read_bytes())
    content[sample.offset + sample.length // 2] ^= 255
    shard.write_bytes(content)
    with pytest.raises(ToolkitError, match="promises other content") as caught:
        open_data(DataConfig(path=shards))
    assert caught.value.fix.endswith(f"toolkit data index {shard}")


def labelled(*keys: str) -> dict[str, bytes | str]:
    """An image of its own and a label a key."""
    members: dict[str, bytes | str] = {}
    for number, key in enumerate(keys):
        members |= {f"{key}.png": png(number), f"{key}.cls": "ab"[number % 2]}
    return members


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("imagenet-train-000000.tar", "train"),
        ("cifar_val_0.tar", "validation"),
        ("TEST_00.tar", "test"),
        ("train2017-1.tar", "train"),
        ("Eval/0.tar", "test"),
        ("train_set/0.tar", "train"),
        ("set-train-test-0.tar", UNSPLIT),
    ],
)
def test_the_split_in_a_shards_name_is_known_as_in_a_folders(tmp_path: Path, name: str, split: str) -> None:
    tar_of(tmp_path / name, labelled("0"))
    assert [item.split for item in list_shards(tmp_path)[0]] == [split]


@pytest.mark.parametrize(
    ("shards", "what"),
    [
        (
            {"train-000.tar": ["0", "1"], "holdout-000.tar": ["2", "3"]},
            "2 images belong to no split, .*: holdout-000.tar",
        ),
        ({"train-0.tar": ["0"], **{f"x{n}.tar": [str(n)] for n in range(1, 6)}}, r"x1.tar, x2.tar, x3.tar and 2 more"),
        ({"x.tar": ["train/0", "train/1", "bus/2"]}, "1 images belong to no split, .*: x.tar"),
    ],
)
def test_images_of_no_split_beside_others_are_refused_by_name(
    tmp_path: Path, shards: dict[str, list[str]], what: str
) -> None:
    for name, keys in shards.items():
        tar_of(tmp_path / name, labelled(*keys))
    with pytest.raises(ToolkitError, match=what) as caught:
        list_data(DataConfig(path=tmp_path))
    assert caught.value.where == str(tmp_path)


LEFT_OUT = {
    ".npy": 1,
    ".heic": 1,
    "second image of a key": 2,
    "replaced by a later member of the same name": 1,
    "label without an image": 1,
    "hidden": 1,
    "__MACOSX": 1,
    "no suffix, no image": 1,
}


def with_odd_members(path: Path) -> Path:
    members = labelled("0", "1", "2") | {
        "0.jpg": b"second",
        "0.seg.png": png(9),
        "1.depth.npy": b"numbers",
        "2.heic": b"of a phone",
        "lonely.cls": "a",
        "._0.png": b"of macOS",
        "__MACOSX/0.png": b"of macOS",
        "LICENCE": "text",
        "bare": png(7),
        "bare.cls": "b",
    }
    tar_of(path, members)
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("2.png")
        member.size = len(png(8))
        tar.addfile(member, io.BytesIO(png(8)))
    return path


def test_members_that_are_no_part_of_a_sample_are_counted_with_an_index_and_without(tmp_path: Path) -> None:
    with_odd_members(tmp_path / "x.tar")
    (tmp_path / "README.md").touch()
    (tmp_path / "cover.png").touch()
    for _ in range(2):
        items, left_out = list_shards(tmp_path)
        assert [(item.path.name, item.label) for item in items] == [
            *(("0.png", "a"), ("1.png", "b"), ("2.png", "a"), ("bare", "b"))
        ]
        assert [item.content.read() for item in items] == [png(0), png(1), png(8), png(7)]
        assert left_out == LEFT_OUT | {".md": 1, "image in no shard": 1}
        index_shards(tmp_path)


def test_shards_of_a_system_are_no_shards(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", labelled("0", "1"))
    for name in ("._a.tar", "@eaDir/a.tar", "b/c/a.tar", "b/c/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"no tar")
    items, left_out = list_shards(tmp_path)
    assert len(items) == 2
    assert left_out == {"hidden": 1, "@eaDir": 1, "shard more than one folder down": 1, ".txt": 1}


@pytest.mark.parametrize("value", ['"nan"', '" NaN "', "NaN", "null", '""', '" "'])
def test_members_without_a_label_are_all_named(tmp_path: Path, value: str) -> None:
    members: dict[str, bytes | str] = {f"{number}.png": png(number) for number in range(5)}
    members |= {f"{number}.json": f'{{"label": {value}}}' for number in range(5)}
    tar_of(tmp_path / "x.tar", members)
    with pytest.raises(ToolkitError, match=r"0\.png, 1\.png, 2\.png and 2 more have no label") as caught:
        list_shards(tmp_path)
    assert "put 0.cls beside the image" in caught.value.fix


@pytest.mark.parametrize(
    ("written", "label"), [(1, "1"), (1.0, "1"), ("1.0", "1"), ("cafe\u0301", "caf\u00e9"), (True, "True")]
)
def test_labels_of_any_type_read_as_in_other_formats(tmp_path: Path, written: object, label: str) -> None:
    tar_of(tmp_path / "x.tar", {"0.png": png(0), "0.json": json.dumps({"label": written, "group": 7.0})})
    assert [(item.label, item.group) for item in list_shards(tmp_path)[0]] == [(label, "7")]
    index_shards(tmp_path)
    rewrite_index(tmp_path / "x.tar", lambda lines: lines[1].update(label=written, group=7))
    assert [(item.label, item.group) for item in list_shards(tmp_path)[0]] == [(label, "7")]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"label": float("nan")}, "no label in image 1"),
        ({"label": "NaN"}, "no label in image 1"),
        ({"label": ""}, "no label in image 1"),
        ({"name": 5}, "damaged index"),
        ({"offset": 512.0}, "damaged index"),
        ({"length": True}, "damaged index"),
        ({"split": 5}, "of the split '5'"),
        ({"offset": -1}, "damaged index"),
        ({"length": -1}, "damaged index"),
        ({"offset": 10**300}, "damaged index"),
        ({"offset": 2**63 - 1, "length": 2**63 - 1}, "the index doesn't match"),
        ({"offset": "0"}, "damaged index"),
        ({"offset": None}, "damaged index"),
        ({"offset": [0]}, "damaged index"),
        ({"offset": float("nan")}, "damaged index"),
        ({"length": float("inf")}, "damaged index"),
        ({"label": ["a"]}, "damaged index"),
        ({"label": {"a": 1}}, "damaged index"),
        ({"group": [1]}, "damaged index"),
        ({"sha256": {}}, "damaged index"),
        ({"label": "\udcff"}, "damaged index"),
        ({"more": 1}, "damaged index"),
    ],
)
def test_an_index_with_odd_types_is_refused(tmp_path: Path, changes: dict[str, object], what: str) -> None:
    tar_of(tmp_path / "x.tar", labelled("0", "1"))
    index_shards(tmp_path)
    rewrite_index(tmp_path / "x.tar", lambda lines: lines[1].update(changes))
    with pytest.raises(ToolkitError, match=what):
        list_shards(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        *('{"bytes": 1e400}', '{"bytes": "12"}', '{"bytes": -1}', '{"bytes": null}', '{"bytes": true}', "[]", "5"),
        *('{"left_out": {".txt": -1}}', '{"left_out": {".txt": "x"}}', '{"left_out": [1]}', '{"left_out": 1e400}'),
        *("[" * 100_000, '{"a":' * 100_000, "NaN", "\x00", "\udcff", '{"images": 1e400}', '{"shard": ["x.tar"]}'),
    ],
)
def test_the_first_line_of_an_index_with_odd_numbers_is_refused(tmp_path: Path, line: str) -> None:
    tar_of(tmp_path / "x.tar", labelled("0", "1"))
    index_shards(tmp_path)
    index = index_of(tmp_path / "x.tar")
    first, *others = index.read_text().splitlines()
    changes_a_key = line.startswith('{"') and len(line) < 100
    first = f"{first[:-1]}, {line[1:]}" if changes_a_key else line  # the last of two equal keys counts
    index.write_bytes("\n".join([first, *others]).encode(errors="surrogateescape"))
    with pytest.raises(ToolkitError, match=r"damaged index|the index doesn't match") as caught:
        list_shards(tmp_path)
    assert len(caught.value.as_line()) < 1000


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "5", '{"label": "\\udcff"}', "\udcff"])
def test_a_member_of_json_that_a_stranger_wrote_is_refused(tmp_path: Path, content: str) -> None:
    tar_of(tmp_path / "x.tar", {"0.png": png(0), "0.json": content.encode(errors="surrogateescape")})
    with pytest.raises(ToolkitError, match="JSON is damaged"):
        list_shards(tmp_path)


def test_images_of_any_suffix_are_packed_so_that_they_are_found_again(tmp_path: Path) -> None:
    for number, name in enumerate(("a/0.jfif", "a/1", "a/2.avif", "b/3.tga", "b/4.jp2")):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(png(number))) as image:
            kind = {"": "PNG", ".jfif": "JPEG", ".jp2": "JPEG2000"}.get(Path(name).suffix, Path(name).suffix[1:])
            image.save(tmp_path / "data" / name, kind)
    rows = [f"{path},{path.parent.name}" for path in sorted((tmp_path / "data").rglob("*")) if path.is_file()]
    (tmp_path / "broken.dat").write_text("no image")
    (tmp_path / "m.csv").write_text("\n".join(["path,label", *rows, "broken.dat,a"]))
    assert write_shards(DataConfig(path=tmp_path / "m.csv"), tmp_path / "shards")["left_out"] == {}
    (tmp_path / "data" / "notes.txt").touch()
    of_folder = write_shards(DataConfig(path=tmp_path / "data"), tmp_path / "of a folder")
    assert (of_folder["images"], of_folder["left_out"]) == (5, {".txt": 1})
    packed = list_data(DataConfig(path=tmp_path / "shards"))
    assert sorted(item.path.suffix for item in packed.items) == [".avif", ".jp2", ".jpg", ".jpg", ".png", ".tga"]
    assert packed.left_out == {}
