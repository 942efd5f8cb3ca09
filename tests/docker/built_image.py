"""What a Dockerfile's lines make, run without an engine: in a folder, in a clean environment, and never as root.

This machine stands for the base image. The lines' absolute paths are moved below a folder; the lines that need root
(packages of the system, users) are given back, not run. What was built is owned by another user than who runs it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile import ROOT, Instruction, Stage, context, stages

BUILDER = "65533:65533"
PLACES = ("/src", "/opt/toolkit", "/home/toolkit", "/work")
"""Folders of the images."""
FOR_ROOT = ("apt-get", "useradd")
HOST = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or "proxy" in name.lower()}
"""How this machine reaches a package index."""
READ_ONLY = """
for place in "$0" / /tmp /var/tmp; do
  if [ "$place" = "$0" ]; then mount --bind "$place" "$place"; fi
  if mountpoint -q "$place"; then mount -o remount,bind,ro "$place"; fi
done
exec "$@"
"""


def as_user(user: str) -> list[str]:
    """A command's beginning, under which it runs as a user; where we are not root, as ourselves."""
    if os.geteuid() != 0:
        return []
    uid, gid = user.split(":")
    # setpriv itself may still enter folders of root's; what env starts may not
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs", "env"]


def any_python() -> str | None:
    """A Python that every user can run, preferably the one that we run on."""
    told = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
    ours = f"python3.{sys.version_info.minor}"
    near = [getattr(sys, "_base_executable", sys.executable), f"/usr/local/bin/{ours}", f"/usr/bin/{ours}"]
    for each in (*near, "/usr/local/bin/python3", "/usr/bin/python3"):
        command = [*as_user(BUILDER), each, "-c", told]
        if Path(each).is_absolute() and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return each
    return None


@dataclass
class Image:
    """A folder that stands for an image's root, and what its Dockerfile says of running it."""

    root: Path
    stage: Stage
    environment: dict[str, str]
    left_to_root: list[str] = field(default_factory=list)
    """Lines that were not run."""

    @property
    def user(self) -> str:
        """Who runs it, by number."""
        return self.stage.last("USER").value

    @property
    def site_packages(self) -> Path:
        """Where its packages are."""
        (folder,) = self.root.glob("opt/toolkit/lib/python3.*/site-packages")
        return folder

    def command(self, *words: str, read_only: bool = False) -> list[str]:
        """A command in the image, in its environment, as its user, and perhaps on a root that nobody can write to."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        mounted = ["unshare", "--mount", "sh", "-euc", READ_ONLY, str(self.root)] if read_only else []
        return ["env", "-i", "-C", "/", *variables, *mounted, *as_user(self.user), *words]

    def run(self, *words: str, read_only: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command in the image."""
        return subprocess.run(self.command(*words, read_only=read_only), capture_output=True, text=True, check=False)

    def can_be_read_only(self) -> bool:
        """Whether this machine lets us mount."""
        return os.geteuid() == 0 and self.run("true", read_only=True).returncode == 0


def build(dockerfile: Path, root: Path, python: str, arguments: Mapping[str, str]) -> Image:
    """Run a Dockerfile's lines.

    Args:
        dockerfile: the file.
        root: an empty folder that every user may enter.
        python: stands for the base image's; it gets a pip of its own.
        arguments: of the build (``--build-arg``).

    Raises:
        RuntimeError: a line failed; it and what it printed.
    """
    return _Build(root, python, arguments).run(stages(dockerfile))


class _Build:
    def __init__(self, root: Path, python: str, arguments: Mapping[str, str]) -> None:
        self._root, self._arguments, self._left = root, arguments, list[str]()
        _own(root)
        for name in ("tmp", "home"):
            _own(root / name)
        self._base = {"PATH": f"{root}/base/bin:/usr/local/bin:/usr/bin:/bin", "HOME": f"{root}/home"}
        self._execute([python, "-m", "venv", f"{root}/base"], self._base, root)

    def run(self, of: Sequence[Stage]) -> Image:
        for stage in of:
            environment = self._stage(stage)
        return Image(self._root, of[-1], environment, self._left)

    def _stage(self, stage: Stage) -> dict[str, str]:
        environment, declared, folder = dict(self._base), dict[str, str](), self._root
        for each in stage.instructions:
            if each.name == "ARG":
                name, _, default = each.value.partition("=")
                declared[name] = self._arguments.get(name, default)
            elif each.name == "ENV":
                for name, _, value in (word.partition("=") for word in shlex.split(self._moved(each.value))):
                    environment[name] = string.Template(value).substitute(environment)
            elif each.name == "WORKDIR":
                folder = Path(self._moved(each.value))
                _own(folder)
            elif each.name == "COPY":
                self._copy(each, folder)
            elif each.name == "RUN" and each.value.startswith(FOR_ROOT):
                self._left.append(each.value)
            elif each.name == "RUN":
                command = ["/bin/sh", "-c", self._moved(each.value)]
                self._execute(command, environment | declared | HOST | {"TMPDIR": f"{self._root}/tmp"}, folder)
        return environment

    def _moved(self, text: str) -> str:
        places = "|".join(map(re.escape, PLACES))
        return re.sub(rf"(?<![\w./-])({places})(?![\w.-])", lambda found: f"{self._root}{found[0]}", text)

    def _copy(self, instruction: Instruction, folder: Path) -> None:
        words = shlex.split(instruction.value)
        if words[0].startswith("--from="):
            assert words[1] == words[2], "stages share their folders here"
            return
        *sources, target = words
        files = context(ROOT)
        for source in sources:
            inside = [file for file in files if source in {".", file}]
            assert inside, f"{source} is not in the build's context"
            for file in inside:
                place = folder / (file if source == "." else f"{target}/{Path(file).name}")
                for parent in reversed(place.relative_to(folder).parents):
                    _own(folder / parent)
                shutil.copyfile(ROOT / file, place)
                _own(place)

    def _execute(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        command = [*as_user(BUILDER), *command]
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False
        )
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}")


def _own(path: Path) -> None:
    """A file, or a folder that is made where it is missing, becomes the builder's."""
    if not path.is_file():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(path, *map(int, BUILDER.split(":")))
