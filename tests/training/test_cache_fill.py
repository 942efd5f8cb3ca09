"""Whether all processes see the folder of a cache, and what killed runs left in it; filling is in test_resume.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.finetune import finetune
from toolkit.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]
LOOK = """
import os, sys
from pathlib import Path

from accelerate import Accelerator

from toolkit.errors import ToolkitError
from toolkit.training.cache_fill import _refuse_unshared
from toolkit.training.processes import AllRanks

other = os.fork()  # two processes that import once, before anything was computed
os.environ |= dict.fromkeys(("RANK", "LOCAL_RANK"), "0" if other else "1")
accelerator = Accelerator(cpu=True)
folder = Path(sys.argv[1 + accelerator.process_index])
if accelerator.process_index and os.geteuid() == 0:
    os.seteuid(65534)  # whom permissions hold for
try:
    _refuse_unshared(folder, accelerator, AllRanks(2))
except ToolkitError as error:
    print(error.what, flush=True)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) if other else 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are another matter there")
def test_a_process_that_may_not_search_the_folder_is_named_by_all(tmp_path: Path) -> None:
    cache, closed = tmp_path / "cache", tmp_path / "closed"
    cache.mkdir()
    closed.mkdir(mode=0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    group |= {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-c", LOOK, str(cache), str(closed / "cache")]
    done = subprocess.run(command, env=os.environ | group, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    host = socket.gethostname()
    expected = f"process 1 on {host} can't see the folder of the boundary cache that process 0 on {host} writes\n"
    assert done.stdout == expected + expected
    assert not list(cache.iterdir())


def test_what_killed_runs_left_in_a_cache_goes_when_it_is_opened(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe(training={"epochs": 1, "boundary_cache": {"enabled": True, "dir": tmp_path / "cache"}})
    finetune(recipe, tmp_path / "first")
    [folder] = (tmp_path / "cache").iterdir()
    whole = set(folder.rglob("*"))
    for name in (".sign-0123", "..sign-4567.partial-x", ".key.json.partial-x", "rank-00000/.a.safetensors.partial-1"):
        (folder / name).touch()
    finetune(recipe, tmp_path / "second")
    assert set(folder.rglob("*")) == whole
