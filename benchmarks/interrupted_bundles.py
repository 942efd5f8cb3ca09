"""Interrupt every verb that writes into a bundle, at its writes and on a full disk; the bundle must stay a good one.

    python -m benchmarks.interrupted_bundles [--kills 100]

Each verb measures once. At its first write into the bundle the process is forked again and again:
each child goes on, until it is killed at one of the writes (opening to write, link, rename, unlink,
mkdir, rmdir), or until a disk with so many bytes free is full. ``export --force`` builds from the
start, so it is run whole each time. After each, ``toolkit verify`` must pass, and the bundle be the
old one or the new one. Needs root, for a tmpfs of its own; writes
benchmarks/results/interrupted_bundles.json; takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.files import sha256_of, write_json
from toolkit.runtime.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "interrupted_bundles.json"
VERBS = {
    "bench-latency": ["--runs", "5", "--seconds", "0", "--compare", "", "--no-details"],
    "parity": [],
    "tune": ["--p99-ms", "5000", "--max-accuracy-drop", "100"],
}
FREE = [20_000 * step for step in range(51)]
"""Bytes of a disk that are free."""
WRITES = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"})
NEVER = 1 << 60


def writes_into(bundle: Path, event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event is a write into a bundle; a probe for a nameless file in a folder is none."""
    if event not in WRITES or not isinstance(arguments[0], str | Path):
        return False
    if event == "open" and (not arguments[2] & (os.O_WRONLY | os.O_RDWR) or Path(arguments[0]).is_dir()):
        return False
    return any(str(each).startswith(f"{bundle}/") for each in arguments[:2] if isinstance(each, str | Path))


def outcome(bundle: Path, old: Path) -> str:
    """``old`` or ``new``, or what is wrong with it."""
    verified = subprocess.run(
        [sys.executable, "-m", "toolkit", "verify", bundle], check=False, capture_output=True, text=True
    )
    if verified.returncode:
        return f"LOST: {verified.stderr.strip().splitlines()[0]}"
    return "old" if sha256_of(bundle / "manifest.json") == sha256_of(old / "manifest.json") else "new"


def restore(bundle: Path, old: Path) -> None:
    """Make the bundle the old one again."""
    shutil.rmtree(bundle)
    shutil.copytree(old, bundle)


def leave_free(bundle: Path, free: int) -> Path:
    """Fill the disk that a bundle is on, but for so many bytes, with a file that is returned."""
    filler = bundle.with_name("filler")
    status = os.statvfs(bundle)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - free))
    return filler


class Interrupted:
    """One verb in this process, which is forked at its first write into a bundle, for each interruption.

    Args:
        bundle: that the verb writes into.
        old: a copy of it.
        kills: children that are killed.
    """

    def __init__(self, bundle: Path, old: Path, kills: int) -> None:
        self.bundle, self.old, self.kills = bundle, old, kills
        self.role, self.left, self.writes = "measuring", NEVER, 0
        self.counted = bundle.with_name("writes")
        self.kept: list[dict[str, Any]] = []

    def run(self, command: list[str]) -> None:
        """Run a command of the toolkit; prints what became of the bundle, as JSON."""
        from toolkit.cli.main import app

        sys.addaudithook(self._hook)
        sys.stdout = sys.stderr
        try:
            app(command, standalone_mode=False)
        finally:
            if self.role == "writing":
                self.role = "judging"
                try:
                    self.counted.write_text(str(self.writes))
                finally:
                    os._exit(0)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.role == "judging" or not writes_into(self.bundle, event, arguments):
            return
        if self.role == "measuring":
            self.role = "judging"
            # sessions among them: a child would wait for ever for the end of their threads, which it does not have
            self.kept.extend(dict(frame.f_locals) for frame, _ in traceback.walk_stack(None))
            report = self._judge()
            if report is not None:
                sys.__stdout__.write(json.dumps(report))
                sys.__stdout__.flush()
                os._exit(0)
        self.writes += 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1

    def _is_parent(self, left: int) -> bool:
        """Fork: False in the child, which goes on for so many writes; True in the parent when it has ended."""
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return True
        self.role, self.left = "writing", left
        return False

    def _judge(self) -> dict[str, Any] | None:
        """Counts of what became of the bundle; None in a child."""
        if not self._is_parent(NEVER):
            return None
        writes = int(self.counted.read_text())
        whole, killed, full = Counter([self._outcome()]), Counter[str](), Counter[str]()
        for number in range(self.kills):
            if not self._is_parent(number * writes // self.kills):
                return None
            killed[self._outcome()] += 1
        for free in FREE:
            filler = leave_free(self.bundle, free)
            if not self._is_parent(NEVER):
                return None
            filler.unlink()
            full[self._outcome()] += 1
        return {"writes": writes, "whole": dict(whole), "killed": dict(killed), "full": dict(full)}

    def _outcome(self) -> str:
        self.counted.unlink(missing_ok=True)
        found = outcome(self.bundle, self.old)
        restore(self.bundle, self.old)
        return found


def export_again_and_again(run: Path, bundle: Path, old: Path, kills: int) -> dict[str, Any]:
    """``export --force``, whole each time."""

    def export(left: int) -> int:
        done = subprocess.run(
            [sys.executable, __file__, "--export", run, bundle, str(left)], check=False, capture_output=True, text=True
        )
        return int(done.stdout or -1)

    writes = export(NEVER)
    whole, killed, full = Counter([outcome(bundle, old)]), Counter[str](), Counter[str]()
    restore(bundle, old)
    for number in range(kills):
        export(number * writes // kills)
        killed[outcome(bundle, old)] += 1
        restore(bundle, old)
    for free in FREE:
        filler = leave_free(bundle, free)
        export(NEVER)
        filler.unlink()
        full[outcome(bundle, old)] += 1
        restore(bundle, old)
    return {"writes": writes, "whole": dict(whole), "killed": dict(killed), "full": dict(full)}


def export_once(run: str, bundle: Path, left: int) -> None:
    """Export over a bundle, until a write; prints how many there were."""
    from toolkit.cli.main import app

    state = {"left": left, "writes": 0}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if writes_into(bundle, event, arguments):
            state["writes"] += 1
            if state["left"] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            state["left"] -= 1

    sys.addaudithook(hook)
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        app(["export", "--onnx", run, "--out", str(bundle), "--force"], standalone_mode=False)
    finally:
        stdout.write(str(state["writes"]))
        stdout.flush()


@contextmanager
def disk() -> Iterator[Path]:
    """A file system in memory, to be filled."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def main() -> None:
    """Train and export once, then interrupt every verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="a verb")
    parser.add_argument("--verb", nargs=3, metavar=("VERB", "BUNDLE", "OLD"), help=argparse.SUPPRESS)
    parser.add_argument("--export", nargs=3, metavar=("RUN", "BUNDLE", "LEFT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.verb:
        verb, bundle, old = arguments.verb
        Interrupted(Path(bundle), Path(old), arguments.kills).run([verb, bundle, *VERBS[verb]])
        return
    if arguments.export:
        run, bundle, left = arguments.export
        export_once(run, Path(bundle), int(left))
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder, disk() as mounted:
        work = Path(folder)
        for command in (
            ["data", "digits", work / "digits"],
            ["train", "digits", f"data.path={work / 'digits'}", "training.epochs=1", "--out", work / "run"],
            ["export", "--onnx", work / "run", "--out", work / "old"],
        ):
            subprocess.run([sys.executable, "-m", "toolkit", *command], check=True, capture_output=True)
        for verb in VERBS:
            shutil.copytree(work / "old", mounted / "bundle")
            command = [sys.executable, __file__, "--kills", str(arguments.kills), "--verb", verb]
            done = subprocess.run(
                [*command, mounted / "bundle", work / "old"], check=False, capture_output=True, text=True
            )
            found[verb] = json.loads(done.stdout)
            print(verb, found[verb], file=sys.stderr, flush=True)
            shutil.rmtree(mounted / "bundle")
        shutil.copytree(work / "old", mounted / "bundle")
        found["export --force"] = export_again_and_again(
            work / "run", mounted / "bundle", work / "old", arguments.kills
        )
        print("export --force", found["export --force"], file=sys.stderr, flush=True)
    write_json(RESULTS, {"kills": arguments.kills, "free_bytes": FREE, "verbs": found, "machine": describe_machine()})


if __name__ == "__main__":
    main()
