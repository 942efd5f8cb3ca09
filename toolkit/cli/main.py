"""The command ``toolkit``: its verbs, and how errors reach the user."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from toolkit.cli import bench_latency, data, demo, doctor, export, parity, predict, recipes, verify
from toolkit.cli.output import print_json
from toolkit.errors import CheckFailed, ToolkitError

# typer carries its own click since 0.20, so its classes are found through what it exports
ClickException: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="toolkit",
    help="Fine-tune the last layers of a CLIP-family encoder, fuse it with its head into one ONNX graph, "
    "prove that the graph gives what PyTorch gave, measure its latency, ship a bundle that proves itself again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")
app.command("export")(export.export)
app.command("parity")(parity.parity)
app.command("bench-latency")(bench_latency.bench_latency)
app.command("predict")(predict.predict)
app.command("verify")(verify.verify)
app.command("doctor")(doctor.doctor)


def main() -> NoReturn:
    """Run a verb; exit 0 = good, 1 = a check failed, 2 = the input was wrong, said in one line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        code = app(standalone_mode=False) or 0
    except ToolkitError as error:
        code = _fail(2, error.as_line(), {"what": error.what, "where": error.where, "fix": error.fix})
    except CheckFailed as error:
        code = _fail(1, str(error), {"what": str(error)})
    except ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "toolkit"
        what = error.format_message()  # type: ignore[attr-defined]
        code = _fail(2, f"{what.rstrip('.')} (at {path}); see {path} --help", {"what": what})
    except (typer.Abort, KeyboardInterrupt):
        code = _fail(130, "stopped", {"what": "stopped"})
    except ModuleNotFoundError as error:
        extra = _extra_of(error.name or "")
        if extra is None:
            raise
        code = _fail(
            2,
            f'{error.name} is not installed (at {sys.prefix}); pip install "clip-toolkit[{extra}]"',
            {"what": str(error)},
        )
    sys.exit(code)


def _fail(code: int, line: str, content: dict[str, str]) -> int:
    sys.stderr.write(f"error: {line}\n")
    if "--json" in sys.argv and code != 1:
        print_json({"error": content})
    return code


def _extra_of(module: str) -> str | None:
    """The extra that brings a module, if one of ours does."""
    brought = {
        "torch",
        "transformers",
        "accelerate",
        "safetensors",
        "onnx",
        "onnxscript",
        "torchmetrics",
        "matplotlib",
        "sklearn",
        "scipy",
    }
    return "train" if module.partition(".")[0] in brought else None


if __name__ == "__main__":
    main()
