"""The training loop: recipes wire it up, this file runs it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from rich.progress import Progress, TaskID
from torch import Tensor

from toolkit.data.augment import Augment
from toolkit.data.dataset import ImageDataset, Loader, cores_of_this_process
from toolkit.data.source import DataSource
from toolkit.errors import Stopped, ToolkitError
from toolkit.metrics.split import score_by
from toolkit.models.build import trainable_groups
from toolkit.models.classifier import Classifier
from toolkit.models.processing import preprocess_from
from toolkit.models.text_inputs import TextInputs
from toolkit.recipe.recipe import Recipe
from toolkit.runs.run_folder import RunFolder
from toolkit.runs.summary_file import write_summary
from toolkit.runtime.memory import MIB, peak_resident_mib
from toolkit.training.activation_source import ActivationSource
from toolkit.training.averaging import RunningAverage, pretrained_weights
from toolkit.training.batch_schedule import BatchSchedule, MicroBatch, seed_of
from toolkit.training.best_classifier import BestClassifier
from toolkit.training.boundary import Boundary
from toolkit.training.checkpoints import whole
from toolkit.training.device_memory import device_memory
from toolkit.training.evaluation import predict_split
from toolkit.training.interruption import Interruption
from toolkit.training.mixing import Mixing
from toolkit.training.operating_point import check_operating_point
from toolkit.training.optimizer import build_optimizer, learning_rate_factor, set_schedule
from toolkit.training.ordered_sum import sum_in_order
from toolkit.training.processes import AllRanks
from toolkit.training.progress import bar, console, parameter_counts, print_groups
from toolkit.training.stability import MAX_SKIPPED, FlagOnItsWay, NonFiniteGuard, unstable
from toolkit.training.stopwatch import Stopwatch, advice
from toolkit.training.train_state import CheckpointManager, EpochRecord, TrainState
from toolkit.training.trunk import Trunk

AfterEpoch = Callable[[int, dict[str, float]], bool]
"""Told an epoch's number, from 1, and its metrics on validation; whether training shall end there."""


class Trainer:
    """Fine-tune a classifier on a data set and leave a run folder.

    ``texts`` make what the classifier takes of texts, if it takes any. A ``trunk`` runs in place of the classifier's
    frozen groups, in the steps as in all metrics.
    """

    def __init__(
        self,
        classifier: Classifier,
        processor: Any,
        data: DataSource,
        recipe: Recipe,
        run: RunFolder,
        accelerator: Accelerator,
        trunk: Trunk | None = None,
        texts: TextInputs | None = None,
    ) -> None:
        self.classifier, self.processor, self.data = classifier, processor, data
        self.recipe, self.run, self.accelerator = recipe, run, accelerator
        config, device = recipe.training, accelerator.device
        self.state = TrainState(batches_per_step=config.gradient_accumulation * accelerator.num_processes)
        self.record = EpochRecord(len(data.splits["train"]), device)
        self.agreement = AllRanks(accelerator.num_processes)
        self.interruption = Interruption()
        self._taken: FlagOnItsWay | bool | None = None
        """Whether the newest step was not skipped; None once it is counted."""
        self.finite = NonFiniteGuard(run, data.root, data.splits["train"], self.agreement)
        preprocess = preprocess_from(processor)
        size = preprocess.output_size
        assert size is not None  # checked when the preprocessing was built
        augment = Augment(recipe.data, size)
        datasets = {split: ImageDataset(examples, preprocess, texts=texts) for split, examples in data.splits.items()}
        self.plain_loaders = {
            split: Loader(dataset, config.loader_workers, device) for split, dataset in datasets.items()
        }
        self.loaders = dict(self.plain_loaders)
        if augment:
            augmented = ImageDataset(data.splits["train"], preprocess, augment, config.seed, texts)
            self.loaders["train"] = Loader(augmented, config.loader_workers, device)
        self.labels = tuple(data.labels("train").tolist())
        self.task = classifier.task
        self.task.check_metric(config.select_by)
        self.task.order_of(data.classes, given=recipe.data.classes is not None)
        labels = torch.from_numpy(data.labels("train"))
        self.loss = self.task.loss(config, data.classes, labels, device)
        self.task.prepare(classifier.head, data.classes, labels)
        check_operating_point(config.operating_point, self.task, data.classes)
        self.mixing = Mixing(config, size)
        from_text = recipe.model.head.init == "text"
        original = pretrained_weights(classifier, head=from_text) if config.wise_ft else {}
        if config.wise_ft and not original:
            fix = "unfreeze layers (model.unfreeze_last), set model.head.init=text, or leave wise_ft out"
            raise ToolkitError(
                "the head alone learns, and it has no original weights", where="training.wise_ft", fix=fix
            )
        self.parameter_counts = parameter_counts(classifier)
        self.boundary = Boundary(classifier, preprocess, data, recipe, accelerator, self.agreement, trunk, texts)
        self.best = BestClassifier(
            run=run,
            recipe=recipe,
            data=data,
            processor=processor,
            trained=classifier,
            original=original,
            boundary=self.boundary,
            loaders=self.plain_loaders,
            accelerator=accelerator,
        )
        classifier.encoder.recompute_layers = config.gradient_checkpointing
        optimizer = build_optimizer(classifier.groups, config)
        self.rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        # the schedule counts optimiser steps, so it is not prepared: a prepared one steps once a process
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        if config.compile:
            classifier.compile()  # in place, so that no name gets a prefix
        self.model, self.optimizer = accelerator.prepare(classifier, optimizer)
        sum_in_order(self.model)
        self.average = RunningAverage(classifier, config.ema_decay) if config.ema_decay else None
        self.checkpoint_manager = CheckpointManager(
            run, recipe, data, self.model, self.optimizer, accelerator, self.average, trunk
        )

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return bool(self.accelerator.is_main_process)

    @property
    def train_plan(self) -> BatchSchedule:
        """The order of the training images; a step keeps its images when a run goes on with other processes."""
        config = self.recipe.training
        plan = BatchSchedule(
            images=len(self.data.splits["train"]),
            batch_size=config.batch_size,
            batches_per_step=self.state.batches_per_step,
            seed=config.seed,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        return replace(plan, balance=self.labels) if config.sampling == "balanced" else plan

    def _learning_rate_factor(self, step: int) -> float:
        return learning_rate_factor(self.recipe.training, self.train_plan.steps_per_epoch, step)

    def resume(self) -> None:
        """Go on from the newest checkpoint, or from the beginning where there is none yet.

        Raises:
            ToolkitError: a checkpoint that is damaged, or of another recipe or data set.
        """
        restored = self.checkpoint_manager.restore(self.record)
        if restored is not None:
            self.state = restored
            set_schedule(self.scheduler, self.state.scheduled)

    def fit(self) -> dict[str, Any]:
        """Train, keep the best epoch by validation, touch the test split once; return the summary.

        Raises:
            ToolkitError: a loss or gradient that is not finite, or a full disk.
            Stopped: after Ctrl-C or SIGTERM, with a checkpoint written.
        """
        started = time.perf_counter()
        seconds = self.train()
        trained = time.perf_counter()
        with self.boundary.lack_of_memory_explained():
            summary = self._evaluate_best()
        ended = time.perf_counter()
        summary["seconds"] |= seconds | {"evaluation": ended - trained, "total": ended - started}
        if self.is_main:
            write_summary(self.run.path, summary)
            self.boundary.remove_private_cache()
        return summary

    def train(self, after_epoch: AfterEpoch | None = None) -> dict[str, float]:
        """Train and keep the best epoch by validation, without a look at the test split.

        What is left is a run without its end, which one that is resumed there gives it.

        Args:
            after_epoch: called in all processes when an epoch's weights and checkpoint are written; one that says True
                ends training.

        Returns:
            The seconds of ``caching`` and ``training``.

        Raises:
            ToolkitError: a loss or gradient that is not finite, or a full disk.
            Stopped: after Ctrl-C or SIGTERM, with a checkpoint written.
        """
        started = cached = time.perf_counter()
        if not self.state.step:
            self.checkpoint_manager.save(self.state, self.record)
        with self.interruption, ExitStack() as at_the_end:
            for loader in self.loaders.values():
                at_the_end.callback(loader.close)
            if self.is_main:
                print_groups(self.classifier, self.rates)
            if self.state.epoch < self.recipe.training.epochs and not self._waited_enough():
                feeds = self.boundary.feeds(
                    self.model, self.loaders, self._mixing_at("images"), self.run, self._stop_if_asked
                )
                cached = time.perf_counter()
                with self.boundary.lack_of_memory_explained():
                    self._run_epochs(feeds, after_epoch)
        return {"caching": cached - started, "training": time.perf_counter() - cached}

    def _evaluate_best(self) -> dict[str, Any]:
        """Load what was saved, fit the temperature on validation, and measure every split with it."""
        learns = self.parameter_counts[1]
        return self.best.evaluated() | {
            "trainable_groups": trainable_groups(self.classifier),
            "parameters": self.parameter_counts[0],
            "trainable_parameters": learns,
            "best_epoch": self.state.best_epoch,
            "epochs": self.state.epoch,
            "steps": self.state.step,
            "processes": self.accelerator.num_processes,
            "effective_batch": self.train_plan.effective_batch,
            "boundary_cache": self.recipe.training.boundary_cache.enabled,
            "boundary_cache_on_device": self.boundary.on_device,
            "trunk_precision": self.recipe.training.trunk_precision,
            "time_shares": self.state.time_shares,
            "advice": self._advice(),
            "peak_memory_bytes": round(peak_resident_mib() * MIB),
            **device_memory(self.accelerator.device),
        }

    def _mixing_at(self, place: str) -> Mixing | None:
        return self.mixing if self.recipe.training.mix_at == place else None

    def _advice(self) -> str:
        """What would make the epochs faster; nothing where this process trained none."""
        if not self.state.time_shares:
            return ""
        return advice(
            self.state.time_shares,
            self.recipe.training,
            cacheable=self.boundary.start > 0,
            workers=self.loaders["train"].workers,
            cores=cores_of_this_process(),
            on_gpu=self.accelerator.device.type == "cuda",
        )

    def _run_epochs(self, feeds: dict[str, ActivationSource], after_epoch: AfterEpoch | None) -> None:
        epochs, steps = self.recipe.training.epochs, self.train_plan.steps_per_epoch
        with bar(self.is_main) as progress:
            task = progress.add_task("training", total=epochs * steps, completed=self.state.step, metrics="")
            for epoch in range(self.state.epoch + 1, epochs + 1):
                if self._waited_enough():
                    break
                self._train_epoch(epoch, feeds["train"], progress, task)
                metrics = self._validate(epoch, feeds["validation"])
                self._stop_if_asked()
                if after_epoch is not None and self.agreement.any(after_epoch(epoch, metrics))[0]:
                    break

    def _waited_enough(self) -> bool:
        patience = self.recipe.training.early_stopping
        return patience is not None and self.state.epoch - self.state.best_epoch >= patience

    def _train_epoch(self, epoch: int, feed: ActivationSource, progress: Progress, task: TaskID) -> None:
        plan, done = self.train_plan, self.state.steps_of_epoch
        self.model.train()
        watch = Stopwatch(self.accelerator.device)
        activations = feed((batch for step in plan.steps(epoch, done) for batch in step), watch)
        for batches in plan.steps(epoch, done):
            losses, norm = self._step(batches, activations, watch)
            rates = {group["name"]: float(group["lr"]) for group in self.optimizer.param_groups}
            watch.images += batches[0].step_images
            self.state.step += 1
            self.state.steps_of_epoch += 1
            self._look_at(batches, losses, norm)
            self._log_step(epoch, batches, losses, rates, watch, progress, task)
            self._keep_or_stop(plan)
        next(activations, None)  # lets the loader's workers end their round
        self._settle()
        all_losses, all_hits = self.record.gathered(self.accelerator)
        metrics = {"loss": float(all_losses.double().mean()), self.task.headline: float(all_hits.double().mean())}
        times = watch.metrics()
        self.state.time_shares = times["time_shares"]
        self._log({"epoch": epoch, "split": "train", "step": self.state.step} | metrics | times)

    def _step(
        self, batches: list[MicroBatch], activations: Iterator[tuple[Any, Tensor]], watch: Stopwatch
    ) -> tuple[list[Tensor], Tensor]:
        """One optimiser step; the losses of this process's images by micro-batch, and the gradient's norm.

        The gradient is the mean over the step's images, however they are cut into micro-batches
        and dealt to processes; between processes it is averaged, hence the factor.
        """
        accelerator, config = self.accelerator, self.recipe.training
        losses = []
        for batch in batches:
            hidden, labels = next(activations)
            torch.manual_seed(seed_of(config.seed, batch.epoch, batch.number))
            partial = batch is not batches[-1]
            mix, mix_here = self.mixing(batch), self._mixing_at("boundary")
            with accelerator.no_sync(self.model) if partial else nullcontext(), watch.on_device("trainable"):
                inputs = mix(hidden) if mix and mix_here else hidden
                logits = self.model(inputs, start=self.boundary.start).float()
                loss_B = self.loss(logits, labels, mix)
                accelerator.backward(loss_B.sum() * (batch.weight * accelerator.num_processes))
            losses.append(loss_B.detach())
            wanted = mix.dominant(labels) if mix else labels
            self.record.note(batch, losses[-1], self.task.right(logits.detach(), wanted))
        with watch.on_device("optimizer"):
            norm = whole(accelerator.clip_grad_norm_(self.model.parameters(), config.max_gradient_norm))
            self._count_last_step()
            self.optimizer.step()
            self._taken = FlagOnItsWay(torch.isfinite(norm)) if accelerator.scaler else True
            self.optimizer.zero_grad()
        return losses, norm

    def _count_last_step(self) -> None:
        """Move schedule and running average past the newest step, unless the gradient scaler skipped it.

        The fused optimiser leaves that to the device, so the host asks when the next step's gradient is queued already.
        """
        if self._taken is None:
            return
        taken = self._taken if isinstance(self._taken, bool) else self._taken.arrived()
        self._taken = None
        if not taken:
            self.state.skipped += 1
            return
        self.scheduler.step()
        self.state.scheduled += 1
        self.state.skipped = 0
        if self.average is not None:
            self.average.update(self.state.scheduled)

    def _look_at(self, batches: list[MicroBatch], losses: list[Tensor], norm: Tensor) -> None:
        """Stop on what is not finite, in all processes at the same step; learn of a wish to stop."""
        scaled = self.accelerator.scaler is not None
        trouble = self.finite.saw_trouble(self.state.step, batches, losses, norm, norm_may_overflow=scaled)
        self.state.stop_asked, trouble = self.agreement.any(self.interruption.requested, trouble)
        if trouble:
            self.finite.fail()
        if self.state.skipped > MAX_SKIPPED:
            raise unstable(f"the gradient overflowed in {self.state.skipped} steps in a row", self.run)

    def _settle(self) -> None:
        """Know of the newest step, before anything is written that builds on it, that all of it was finite."""
        if self.agreement.any(self.finite.saw_trouble_at_last())[0]:
            self.finite.fail()
        self._count_last_step()

    def _keep_or_stop(self, plan: BatchSchedule) -> None:
        """Write a checkpoint within an epoch where one is due, or wished for before stopping."""
        every, done = self.recipe.training.checkpoint_every, self.state.steps_of_epoch
        due = every is not None and self.state.step % every == 0 and done < plan.steps_per_epoch
        if due or self.state.stop_asked:
            self._save_checkpoint()
        if self.state.stop_asked:
            self._stop()

    def _stop_if_asked(self) -> None:
        """Between steps, where everything is on the disk already."""
        if self.agreement.any(self.interruption.requested)[0]:
            self._stop()

    def _stop(self) -> None:
        number = max(self.agreement.gathered(int(self.interruption.signal or 0)))
        total = self.train_plan.steps_per_epoch * self.recipe.training.epochs
        raise Stopped(
            f"stopped at step {self.state.step:,} of {total:,}; go on with the same command and --resume", number
        )

    def _save_checkpoint(self) -> None:
        self._settle()
        self.checkpoint_manager.save(self.state, self.record)

    def _log_step(
        self,
        epoch: int,
        batches: list[MicroBatch],
        losses: list[Tensor],
        rates: dict[str, float],
        watch: Stopwatch,
        progress: Progress,
        task: TaskID,
    ) -> None:
        step = self.state.step
        if step % self.recipe.tracking.log_every == 0 or step == 1:
            mine = torch.stack([loss.sum() * batch.weight for batch, loss in zip(batches, losses, strict=True)])
            loss = float(self.accelerator.gather(mine).sum())
            self._settle()
            entry = {"epoch": epoch, "split": "train", "step": step, "loss": loss}
            self._log(entry | {"learning_rate": rates["head"], "learning_rates": rates})
            speed = f"{watch.images / watch.elapsed:,.0f} images/s"
            metrics = f"epoch {epoch}/{self.recipe.training.epochs}  loss {loss:.3f}  {speed}"
            progress.update(task, metrics=metrics)
        progress.advance(task)

    def _validate(self, epoch: int, feed: ActivationSource) -> dict[str, float]:
        """Evaluate on validation, keep the weights if they are the best, write a checkpoint; return the metrics."""
        watch = Stopwatch(self.accelerator.device)
        plan, classes = self.best.schedule("validation"), len(self.data.classes)
        with self.average.in_place() if self.average else nullcontext():
            logits = predict_split(self.model, self.boundary.start, feed, plan, classes, self.accelerator, watch)
            metrics = self.best.validation_metrics(logits)
            self._keep_if_best(epoch, metrics, watch)
        self.record.clear()
        self._save_checkpoint()
        return metrics

    def _keep_if_best(self, epoch: int, metrics: dict[str, float], watch: Stopwatch) -> None:
        if not math.isfinite(metrics["loss"]):
            raise unstable(f"the validation loss is {metrics['loss']} after epoch {epoch}", self.run)
        self._log({"epoch": epoch, "split": "validation"} | metrics | watch.metrics())
        if self.is_main and not console.is_terminal:
            headline = self.task.headline
            console.print(f"epoch {epoch}: validation loss {metrics['loss']:.4f}, {headline} {metrics[headline]:.4f}")
        if self.state.end_epoch(epoch, score_by(self.recipe.training.select_by, metrics)):
            weights = {}
            for name, tensor in self.classifier.state_dict().items():
                gathered = whole(tensor)
                if self.is_main:  # one tensor at a time is whole on the other devices
                    weights[name] = gathered.cpu()
            if self.is_main:
                self.run.drop_fine_tuned()
                self.best.save(self.classifier, weights)

    def _log(self, entry: dict[str, Any]) -> None:
        """Write an entry to ``metrics.jsonl`` and to the trackers."""
        if self.is_main:
            self.run.log(entry)
        names = {"loss", self.task.headline, "learning_rate", "images_per_second", "data_wait_share"}
        values = {f"{entry['split']}/{name}": entry[name] for name in sorted(names & set(entry))}
        values |= {f"learning_rate/{name}": rate for name, rate in entry.get("learning_rates", {}).items()}
        self.accelerator.log(values, step=self.state.step)
