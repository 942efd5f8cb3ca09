from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from chest_xrays import PATIENTS, PATTERN

from toolkit.data.check import check_data
from toolkit.data.formats import list_data
from toolkit.data.source import DataSource, open_data
from toolkit.errors import ToolkitError
from toolkit.recipe.data import DataConfig


def patients(source: DataSource, split: str) -> set[str]:
    """Read off the names another way than the toolkit does."""
    names = [example.path.name.removeprefix("NORMAL2-") for example in source.splits[split]]
    return {name.split("_")[0] if name.startswith("person") else name[:7] for name in names}


@pytest.fixture
def unsplit(chest_xrays: Path, tmp_path: Path) -> Path:
    for folder in chest_xrays.glob("*/*"):
        shutil.copytree(folder, tmp_path / "unsplit" / folder.name, dirs_exist_ok=True)
    return tmp_path / "unsplit"


@pytest.mark.parametrize("seed", range(5))
def test_no_split_that_is_made_divides_a_patient(unsplit: Path, seed: int) -> None:
    source = open_data(DataConfig(path=unsplit, group_pattern=PATTERN, split_seed=seed))
    found = [patients(source, split) for split in source.splits]
    assert sum(map(len, found)) == len(set.union(*found)) == sum(map(sum, PATIENTS.values()))
    assert source.groups("test") is not None
    plain = open_data(DataConfig(path=unsplit, split_seed=seed))
    assert patients(plain, "train") & patients(plain, "test")  # by image, some patients stand on both sides


def test_a_manifest_is_divided_as_the_folder_is(unsplit: Path, tmp_path: Path) -> None:
    files = sorted(unsplit.rglob("*.jpeg"))
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in files]
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *rows]))
    configs = [DataConfig(path=path, group_pattern=PATTERN) for path in (unsplit, tmp_path / "images.csv")]
    folder, manifest = map(open_data, configs)
    assert folder.fingerprint == manifest.fingerprint
    assert folder.groups("test") == manifest.groups("test")


def test_an_image_whose_name_tells_no_group_is_one_of_its_own_wherever_the_data_lies(
    unsplit: Path, tmp_path: Path
) -> None:
    shutil.copytree(unsplit, tmp_path / "moved")
    first, moved = (
        list_data(DataConfig(path=path, group_pattern="(IM-.*)-")) for path in (unsplit, tmp_path / "moved")
    )
    assert [item.group for item in first.items] == [item.group for item in moved.items]
    alone = [item.group for item in first.items if item.path.name.startswith("person")]
    assert len(set(alone)) == len(alone) > 0


def test_the_first_group_that_matches_counts(unsplit: Path) -> None:
    either = list_data(DataConfig(path=unsplit, group_pattern=r"(person\d+)_|(IM-\d+)-"))
    assert [item.group for item in either.items] == [
        item.group for item in list_data(DataConfig(path=unsplit, group_pattern=PATTERN)).items
    ]


def test_a_patient_in_two_given_splits_is_a_warning_and_a_problem_of_the_check(
    chest_xrays: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(chest_xrays, tmp_path / "data"))
    config = DataConfig(path=data, group_pattern=PATTERN)
    assert open_data(config).leaks == {}
    known = min((data / "train" / "PNEUMONIA").iterdir())
    person = known.name.split("_")[0]
    stranger = min((data / "test" / "PNEUMONIA").iterdir())
    stranger.rename(stranger.with_name(f"{person}_virus_9999.jpeg"))
    source, report = open_data(config), check_data(config)
    assert source.leaks == report["groups_across_splits"] == {person: ["test", "train"]}
    assert report["problems"] == ["1 groups stand in more than one split"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [(r"person\d+", "parentheses"), ("(person", "no regular expression: missing \\)"), ("", "parentheses")],
)
def test_a_pattern_that_can_tell_no_group_is_refused(chest_xrays: Path, pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(path=chest_xrays, group_pattern=pattern)


def test_a_pattern_that_matches_nothing_is_refused_with_a_name(chest_xrays: Path) -> None:
    with pytest.raises(ToolkitError, match=re.escape("'(patient)' matches no file name")) as caught:
        open_data(DataConfig(path=chest_xrays, group_pattern="(patient)"))
    assert ".jpeg" in caught.value.fix


def test_groups_of_the_source_and_a_pattern_are_one_too_many(chest_xrays: Path, tmp_path: Path) -> None:
    files = sorted(chest_xrays.rglob("*.jpeg"))
    rows = [f"{path},{path.parent.name},{number}" for number, path in enumerate(files)]
    (tmp_path / "images.csv").write_text("\n".join(["path,label,group", *rows]))
    with pytest.raises(ToolkitError, match="groups of its own"):
        open_data(DataConfig(path=tmp_path / "images.csv", group_pattern=PATTERN))
