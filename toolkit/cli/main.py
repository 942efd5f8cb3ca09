"""The command ``toolkit`` and its verbs."""

from __future__ import annotations

from typing import NoReturn

import typer

from toolkit.cli import bench_latency, compare, data, demo, doctor, export, parity, predict, recipes, tune, verify
from toolkit.command import run

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
app.command("tune")(tune.tune)
app.command("compare")(compare.compare)
app.command("predict")(predict.predict)
app.command("verify")(verify.verify)
app.command("doctor")(doctor.doctor)


def main() -> NoReturn:
    """The entry point ``toolkit``."""
    run(app)


if __name__ == "__main__":
    main()
