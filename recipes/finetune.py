"""Fine-tune the last layers of a CLIP-family encoder and a head.

accelerate launch recipes/finetune.py --config recipes/configs/digits.yaml --out runs/digits
accelerate launch recipes/finetune.py --config ... --out ... training.epochs=5 model.unfreeze_last=0
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.command import run
from toolkit.errors import Stopped
from toolkit.recipe.origins import naming_origins
from toolkit.recipe.reading import leaves, load_recipe
from toolkit.recipe.recipe import Recipe
from toolkit.user_paths import local_paths_only

if TYPE_CHECKING:
    from accelerate import Accelerator

    from toolkit.data.source import DataSource
    from toolkit.models.classifier import Classifier
    from toolkit.runs.run_folder import RunFolder
    from toolkit.runtime.preprocess import Preprocess
    from toolkit.training.texts import Texts
    from toolkit.training.trainer import Trainer
    from toolkit.training.trunk import Trunk


def finetune(recipe: Recipe, out: Path, *, resume: bool = False, force: bool = False) -> dict[str, Any]:
    """Run a recipe from its data to the run folder ``out``; return the summary."""
    with opened_trainer(recipe, out, resume=resume, force=force) as trainer:
        summary = trainer.fit()
        if recipe.tracking.plots and trainer.is_main:
            from toolkit.reporting.plots import plot_run

            plot_run(out, [example.picture for example in trainer.data.splits["test"]])
    return summary


@contextmanager
def opened_trainer(
    recipe: Recipe, out: Path, *, resume: bool = False, force: bool = False, data: DataSource | None = None
) -> Iterator[Trainer]:
    """All that a recipe asks for, wired up and announced; the run folder ``out`` is this process's while it is entered.

    Args:
        recipe: of the run.
        out: its folder.
        resume: go on from the newest checkpoint there.
        force: remove the run that is there.
        data: what the recipe's section ``data`` describes, if it was opened before.
    """
    from toolkit.files import room_for
    from toolkit.models.build import build_classifier
    from toolkit.models.processing import preprocess_from
    from toolkit.runs.launch import Worker
    from toolkit.runs.run_folder import RunFolder
    from toolkit.training.processes import of_all_processes, on_main_process
    from toolkit.training.setup import announce, build_accelerator, check_batch, check_task
    from toolkit.training.texts import texts_of
    from toolkit.training.trackers import start_trackers
    from toolkit.training.trainer import Trainer
    from toolkit.training.trunk import check_trunk_precision

    accelerator, folder = build_accelerator(check_task(recipe), out), RunFolder(out)
    workers = of_all_processes(accelerator, Worker.this())
    resume = resume or on_main_process(accelerator, lambda: folder.was_prepared_before(workers))
    on_main_process(accelerator, lambda: folder.refuse_if_taken(replace=force or resume))
    data = data or read_data(recipe, accelerator)
    if not resume:
        check_batch(accelerator, data, recipe)
    classifier, processor = build_classifier(recipe.model, data.classes, recipe.training.seed, data.value_range)
    texts = texts_of(classifier, data, recipe)
    precision, trunk = recipe.training.trunk_precision, None
    check_trunk_precision(precision, classifier)
    if precision != "fp32":
        recorded = on_main_process(accelerator, folder.trunk) if resume else None
        trunk = deployed_trunk(classifier, preprocess_from(processor), data, precision, recorded, accelerator)
    recipe = decide_on_cache(
        recipe, classifier, preprocess_from(processor), data, trunk, texts, folder, accelerator, resume=resume
    )
    about = trunk.describe() if trunk else None
    with ExitStack() as held:
        held.enter_context(room_for(out))
        trainer = Trainer(
            classifier, processor, data, recipe, folder, accelerator, trunk, texts.inputs if texts else None
        )
        on_main_process(accelerator, lambda: held.enter_context(folder.lock()))
        on_main_process(accelerator, lambda: folder.refuse_if_taken(replace=force or resume))  # somebody was faster
        on_main_process(accelerator, lambda: folder.prepare(recipe, workers, resume=resume, trunk=about))
        if resume:
            trainer.resume()
        notes = texts.notes() if texts else []
        announce(accelerator, data, recipe, trainer.train_plan, [*classifier.encoder.notes, *notes])
        start_trackers(accelerator, recipe, out, trainer.state.step)
        try:
            yield trainer
        except Exception as error:
            if isinstance(error, Stopped) or accelerator.num_processes == 1:  # else others may still be training
                accelerator.end_training()
            raise
    accelerator.end_training()


def read_data(recipe: Recipe, accelerator: Accelerator) -> DataSource:
    """The data set, read by the main process for all; shards of a store are copied on each machine before."""
    from toolkit.data.shard_store import copy_shards
    from toolkit.data.source import open_data
    from toolkit.training.processes import on_each_machine, on_main_process
    from toolkit.training.progress import counting

    if recipe.data.store is not None:
        with counting("copying shards, MB", accelerator.is_main_process) as progress:
            on_each_machine(accelerator, lambda: copy_shards(recipe.data, progress))
    with counting("reading images", accelerator.is_main_process) as progress:
        return on_main_process(accelerator, lambda: open_data(recipe.data, progress))


def decide_on_cache(
    recipe: Recipe,
    classifier: Classifier,
    preprocess: Preprocess,
    data: DataSource,
    trunk: Trunk | None,
    texts: Texts | None,
    folder: RunFolder,
    accelerator: Accelerator,
    *,
    resume: bool,
) -> Recipe:
    """The recipe with ``training.boundary_cache.enabled: auto`` decided, which a line says."""
    from toolkit.training.boundary import CACHED_SPLITS
    from toolkit.training.cache_choice import choose_cache
    from toolkit.training.processes import on_main_process
    from toolkit.training.progress import console

    if recipe.training.boundary_cache.enabled != "auto":
        return recipe
    size, config = preprocess.output_size, recipe.training
    assert size is not None  # checked when the preprocessing was built
    plain = config.mixed_precision == "no" and not config.compile and config.boundary_cache.dtype == "fp32"
    choice = on_main_process(
        accelerator,
        lambda: choose_cache(
            recipe,
            frozen=classifier.boundary > 0,
            images={split: len(data.splits[split]) for split in CACHED_SPLITS},
            trunk=trunk or classifier.trunk(),
            size=size,
            texts=texts.inputs if texts else None,
            folder=folder.path,
            exact=plain and trunk is None and accelerator.device.type == "cpu",
            recorded=folder.chose_cache() if resume else None,
        ),
    )
    if accelerator.is_main_process:
        console.print(f"boundary cache: {'on' if choice.enabled else 'off'}, {choice.why}", markup=False)
    return choice.applied(recipe)


def deployed_trunk(
    classifier: Classifier,
    preprocess: Preprocess,
    data: DataSource,
    precision: str,
    recorded: dict[str, Any] | None,
    accelerator: Accelerator,
) -> Trunk:
    """The frozen trunk as production will run it, measured once on training images unless a run recorded it."""
    from export.precision.trunk import measure_trunk, open_trunk
    from toolkit.data.dataset import cores_of_this_process
    from toolkit.training.processes import on_main_process

    content = recorded or on_main_process(accelerator, lambda: measure_trunk(classifier, preprocess, data, precision))
    provider = "cuda" if accelerator.device.type == "cuda" and precision == "fp16" else "cpu"
    return open_trunk(classifier, preprocess, content, threads=cores_of_this_process(), provider=provider)


def main(
    config: Annotated[Path, typer.Option(help="Recipe, such as recipes/configs/digits.yaml.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="section.key=value")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in OUT.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove the run that is in OUT already and start anew.")
    ] = False,
) -> None:
    """Fine-tune, and print where the run lies and what to type next."""
    recipe = load_recipe(config, overrides or ())
    with naming_origins(config, overrides or (), leaves(recipe)):
        summary = finetune(recipe, out, resume=resume, force=force)
    if os.environ.get("RANK", "0") == "0":
        from toolkit.training.setup import print_summary

        print_summary(summary, out)


if __name__ == "__main__":
    app = typer.Typer(name="finetune.py", add_completion=False, pretty_exceptions_enable=False)
    app.command()(local_paths_only(main))
    run(app)
