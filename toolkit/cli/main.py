"""The command ``toolkit`` and its verbs."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer

from toolkit.cli import app as app_
from toolkit.cli import (
    bench_latency,
    compare,
    data,
    demo,
    doctor,
    embed,
    encoders,
    evaluate,
    export,
    few_shot,
    import_,
    inspect,
    log_mlflow,
    parity,
    predict,
    push,
    recipes,
    serve,
    sweep,
    train,
    triton,
    tune,
    verify,
    zero_shot,
)
from toolkit.command import run
from toolkit.user_paths import local_paths_only

app = typer.Typer(
    name="toolkit",
    help="Fine-tune the last layers of a CLIP-family encoder, fuse it with its head into one ONNX graph, "
    "prove that the graph gives what PyTorch gave, measure its latency, ship a bundle that proves itself again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"clip-toolkit {version('clip-toolkit')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Nothing but what stands before a verb."""


app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("sweep")(sweep.sweep)
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")
app.add_typer(encoders.app, name="encoders")
app.command("inspect")(inspect.inspect)
app.command("zero-shot")(zero_shot.zero_shot)
app.command("few-shot")(few_shot.few_shot)
app.command("import")(import_.import_)
app.command("export")(export.export)
app.command("parity")(parity.parity)
app.command("bench-latency")(bench_latency.bench_latency)
app.command("tune")(tune.tune)
app.command("compare")(compare.compare)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("embed")(embed.embed)
app.command("serve")(serve.serve)
app.command("app")(app_.app)
app.command("triton")(triton.triton)
app.command("verify")(verify.verify)
app.command("push")(push.push)
app.command("log-mlflow")(log_mlflow.log_mlflow)
app.command("doctor")(doctor.doctor)


def _refuse_remote_paths(commands: typer.Typer) -> None:
    """Have every verb refuse URLs and ``-`` by name."""
    for command in commands.registered_commands:
        assert command.callback is not None
        command.callback = local_paths_only(command.callback)
    for group in commands.registered_groups:
        assert group.typer_instance is not None
        _refuse_remote_paths(group.typer_instance)


_refuse_remote_paths(app)


def main() -> NoReturn:
    """The entry point ``toolkit``."""
    run(app)


if __name__ == "__main__":
    main()
