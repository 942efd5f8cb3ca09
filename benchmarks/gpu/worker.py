"""Runs stages one after the other and writes the record of each; ends at the first that fails."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.gpu.setting import Setting, StageError
from benchmarks.gpu.stages import STAGES


def main() -> int:
    """Run them; 1 after a failure, since a CUDA error leaves a process that can't go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("out", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("stages", nargs="+")
    given = parser.parse_args()
    setting = Setting(given.work, dry=given.dry)
    for name in given.stages:
        record = run(name, setting)
        partial = given.out / f".{name}.json.partial"
        partial.write_text(json.dumps(record, indent=1, default=str) + "\n", "utf-8")
        partial.replace(given.out / f"{name}.json")
        if not record["ok"]:
            return 1
    return 0


def run(name: str, setting: Setting) -> dict[str, Any]:
    """The record of a stage: what it found, or why it failed, with what it had found until then."""
    module, function = STAGES[name].split(":")
    started, error, found = time.monotonic(), None, {}
    try:
        found = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(setting)
    except StageError as failure:
        error, found = str(failure), failure.found
    except Exception:
        error = traceback.format_exc()
    record = {"stage": name, "ok": error is None, "dry": setting.dry}
    return record | {"seconds": time.monotonic() - started, "error": error, "found": found}


if __name__ == "__main__":
    sys.exit(main())
