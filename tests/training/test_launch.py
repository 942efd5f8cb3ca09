"""A run that its own launcher started again goes on unasked, and no other run does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.recipe.recipe import Recipe
from toolkit.runs.launch import RUN_ID, Worker
from toolkit.runs.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
SAY = "from toolkit.runs.launch import Worker; print(Worker.this().model_dump_json())"


CLOCK_SET = "import psutil; boot = psutil._pslinux.boot_time; psutil._pslinux.boot_time = lambda: boot() + 3600"
"""What psutil reads of the kernel after the machine's clock was set an hour ahead."""


def worker(*between: str, run_id: str | None = "none", before: str = "") -> Worker:
    """What a process says of itself that this one starts, as a launcher does or as a shell does."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)} | ({RUN_ID: run_id} if run_id else {})
    said = subprocess.run(
        [*between, sys.executable, "-c", f"{before}\n{SAY}"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return Worker.model_validate_json(said.stdout)


def test_a_run_goes_on_where_its_own_launcher_started_workers_before(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RUN_ID, raising=False)
    first, second, wrapped, by_hand = worker(), worker(), worker("sh", "-c", '"$@"; exit', "sh"), worker(run_id=None)
    elsewhere = first.model_copy(update={"launcher": "another machine", "process": "another"})
    run = RunFolder(tmp_path / "run")
    run.prepare(make_recipe(), [elsewhere, first], resume=False)
    assert run.was_prepared_before([elsewhere, second])
    assert run.was_prepared_before([wrapped])
    assert not run.was_prepared_before([first])  # which began it
    assert not run.was_prepared_before([by_hand])
    assert not run.was_prepared_before([second.model_copy(update={"launcher": "a later launch"})])
    assert not RunFolder(tmp_path / "nowhere").was_prepared_before([second])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems note when a process started once")
def test_a_launcher_is_known_again_after_the_clock_was_set() -> None:
    first, second = worker(), worker(before=CLOCK_SET)
    assert second.follows(first)


@pytest.mark.parametrize("written", ["{}", "[]", "{", '{"workers": [{"process": "x"}, 3]}', '{"workers": null}'])
def test_a_description_of_before_or_a_damaged_one_is_no_run_to_go_on_with(written: str, tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text(written)
    assert not RunFolder(tmp_path).was_prepared_before([Worker(process="x", launcher="y")])
