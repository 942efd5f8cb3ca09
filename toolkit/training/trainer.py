"""The training loop: recipes wire it up, this file runs it."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.progress import Progress, TaskID
from torch import Tensor, nn

from toolkit.config import Recipe
from toolkit.data.dataset import Batch, EpochSampler, ImageDataset, build_loader
from toolkit.data.source import DataSource
from toolkit.errors import ToolkitError
from toolkit.files import staged_folder, write_json
from toolkit.models.build import load_classifier, save_classifier, trainable_groups
from toolkit.models.classifier import Classifier
from toolkit.models.processing import preprocess_from
from toolkit.training.calibration import fit_temperature
from toolkit.training.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from toolkit.training.evaluation import once_each, predict_split
from toolkit.training.metrics import split_metrics
from toolkit.training.optimizer import build_optimizer, learning_rate_factor
from toolkit.training.processes import on_main_process
from toolkit.training.progress import bar, console, parameter_counts, print_groups
from toolkit.training.run_folder import RunFolder


@dataclass
class Standing:
    """Where a run stands: what a checkpoint keeps beside weights and moments."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float = math.inf

    def improved_by(self, figures: dict[str, float]) -> bool:
        """Whether validation got better: in accuracy, and in loss where that is equal."""
        return (figures["accuracy"], -figures["loss"]) > (self.best_accuracy, -self.best_loss)


class Trainer:
    """Fine-tune a classifier on a data set and leave a run folder."""

    def __init__(
        self,
        classifier: Classifier,
        processor: Any,
        data: DataSource,
        recipe: Recipe,
        run: RunFolder,
        accelerator: Accelerator,
    ) -> None:
        self.classifier, self.processor, self.data = classifier, processor, data
        self.recipe, self.run, self.accelerator = recipe, run, accelerator
        self.standing = Standing()
        config = recipe.training
        preprocess = preprocess_from(processor)
        self.train_set = ImageDataset(data.splits["train"], preprocess, recipe.data.augment, config.seed)
        self.sampler = EpochSampler(len(self.train_set), config.seed)
        self.loaders = {"train": accelerator.prepare(build_loader(self.train_set, config.batch_size, self.sampler))}
        for split in ("validation", "test"):
            held_out = ImageDataset(data.splits[split], preprocess)
            self.loaders[split] = accelerator.prepare(build_loader(held_out, config.batch_size))
        plain_train = ImageDataset(data.splits["train"], preprocess)
        self.evaluation_loaders = self.loaders | {
            "train": accelerator.prepare(build_loader(plain_train, config.batch_size))
        }
        optimizer = build_optimizer(classifier.groups, config)
        self.rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        self.steps_per_epoch = math.ceil(len(self.loaders["train"]) / config.gradient_accumulation)
        # the schedule counts optimiser steps, so it is not prepared: a prepared one steps once a process
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, learning_rate_factor(config, self.steps_per_epoch)
        )
        self.model, self.optimizer = accelerator.prepare(classifier, optimizer)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return bool(self.accelerator.is_main_process)

    def fit(self, resume: bool = False) -> dict[str, Any]:
        """Train, keep the best epoch by validation, touch the test split once; return the summary."""
        started = time.perf_counter()
        if resume:
            self._resume()
        if self.is_main:
            print_groups(self.classifier, self.rates)
        epochs = self.recipe.training.epochs
        done = self.standing.epoch * self.steps_per_epoch
        with bar(self.is_main) as progress:
            task = progress.add_task("training", total=epochs * self.steps_per_epoch, completed=done, figures="")
            for epoch in range(self.standing.epoch + 1, epochs + 1):
                self._train_epoch(epoch, progress, task)
                self._validate(epoch)
        trained = time.perf_counter()
        summary = self._evaluate_best()
        summary["seconds"] = {
            "training": trained - started,
            "evaluation": time.perf_counter() - trained,
            "total": time.perf_counter() - started,
        }
        if self.is_main:
            write_json(self.run.path / "summary.json", summary)
        return summary

    def _train_epoch(self, epoch: int, progress: Progress, task: TaskID) -> None:
        config, accelerator = self.recipe.training, self.accelerator
        self.sampler.epoch = self.train_set.epoch = epoch
        torch.manual_seed(_seed_of(config.seed, epoch, accelerator.process_index))
        self.model.train()
        indices, losses, hits = [], [], []
        clock = _Clock()
        for batch in clock.waiting_for(self.loaders["train"]):
            with accelerator.accumulate(self.model):
                loss_B, hits_B = self._step(batch)
            indices.append(batch["indices"])
            losses.append(loss_B)
            hits.append(hits_B)
            clock.images += len(loss_B) * accelerator.num_processes
            if accelerator.sync_gradients:
                self._after_optimizer_step(epoch, loss_B, clock, progress, task)
        loss, hit = once_each(accelerator, torch.cat(indices), torch.cat(losses), torch.cat(hits))
        self._log(
            {
                "epoch": epoch,
                "split": "train",
                "loss": self._finite(float(loss.double().mean())),
                "accuracy": float(hit.double().mean()),
                "epoch_seconds": clock.seconds,
                "images_per_second": clock.images / clock.seconds,
                "data_wait_share": clock.waited / clock.seconds,
            }
        )

    def _step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Forward, backward and, where gradients are whole, an optimiser step; loss and hit of each image."""
        logits = self.model(batch["pixel_values"]).float()
        loss_B = nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
        self.accelerator.backward(loss_B.mean())
        if self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.training.max_gradient_norm)
        self.optimizer.step()
        if self.accelerator.sync_gradients and not self.accelerator.optimizer_step_was_skipped:
            self.scheduler.step()
        self.optimizer.zero_grad()
        return loss_B.detach(), logits.argmax(-1) == batch["labels"]

    def _after_optimizer_step(
        self,
        epoch: int,
        loss_B: Tensor,
        clock: _Clock,
        progress: Progress,
        task: TaskID,
    ) -> None:
        self.standing.step += 1
        if self.standing.step % self.recipe.tracking.log_every == 0 or self.standing.step == 1:
            loss = self._finite(float(self.accelerator.reduce(loss_B.mean(), "mean")))
            rate = self.scheduler.get_last_lr()[-1]
            self._log(
                {"epoch": epoch, "split": "train", "step": self.standing.step, "loss": loss, "learning_rate": rate}
            )
            speed = clock.images / clock.seconds
            figures = f"epoch {epoch}/{self.recipe.training.epochs}  loss {loss:.3f}  {speed:.0f} images/s"
            progress.update(task, figures=figures)
        progress.advance(task)

    def _validate(self, epoch: int) -> None:
        """Evaluate on validation, keep the weights if they are the best, write a checkpoint."""
        clock = _Clock()
        logits, labels = predict_split(self.model, clock.waiting_for(self.loaders["validation"]), self.accelerator)
        figures = split_metrics(logits, labels)
        self._finite(figures["loss"])
        self._log(
            {
                "epoch": epoch,
                "split": "validation",
                "loss": figures["loss"],
                "accuracy": figures["accuracy"],
                "epoch_seconds": clock.seconds,
                "images_per_second": len(labels) / clock.seconds,
                "data_wait_share": clock.waited / clock.seconds,
            }
        )
        if self.is_main and not console.is_terminal:
            console.print(f"epoch {epoch}: validation loss {figures['loss']:.4f}, accuracy {figures['accuracy']:.4f}")
        standing = self.standing
        standing.epoch = epoch
        improved = standing.improved_by(figures)
        if improved:
            standing.best_epoch, standing.best_accuracy, standing.best_loss = (
                epoch,
                figures["accuracy"],
                figures["loss"],
            )
        if self.is_main:
            if improved:
                self._write_best(self.classifier)
            model = self.accelerator.unwrap_model(self.model)
            state = {
                "standing": vars(standing),
                "seed": self.recipe.training.seed,
                "processes": self.accelerator.num_processes,
                "scheduler_steps": self.scheduler.last_epoch,
                "gradient_scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            }
            save_checkpoint(self.run.checkpoints, standing.step, model, self.optimizer.optimizer, state)
        self.accelerator.wait_for_everyone()

    def _finite(self, loss: float) -> float:
        """The loss, which is the same in every process, or an error that ends them all."""
        if not math.isfinite(loss):
            fix = "lower training.learning_rate, or train with mixed_precision: bf16 or no"
            raise ToolkitError(f"the loss is {loss} at step {self.standing.step}", where=self.run.path, fix=fix)
        return loss

    def _write_best(self, classifier: Classifier) -> None:
        with staged_folder(self.run.best, what="checkpoint", marker="model.safetensors", replace=True) as stage:
            save_classifier(stage, classifier, self.recipe.model.head, self.processor)

    def _evaluate_best(self) -> dict[str, Any]:
        """Load what was saved, fit the temperature on validation, and figure every split with it."""
        best, _ = load_classifier(self.run.best)
        best.to(self.accelerator.device)
        outcomes = {
            split: predict_split(best, loader, self.accelerator) for split, loader in self.evaluation_loaders.items()
        }
        temperature = fit_temperature(*outcomes["validation"])
        best.temperature.fill_(temperature)
        total, learns = parameter_counts(self.classifier)
        best.requires_grad_(False)
        if self.is_main:
            for mine, saved in zip(self.classifier.parameters(), best.parameters(), strict=True):
                saved.requires_grad_(mine.requires_grad)
            self._write_best(best)
        self.accelerator.wait_for_everyone()
        figures = {split: split_metrics(*outcomes[split], temperature) for split in ("train", "validation", "test")}
        return figures | {
            "uncalibrated": {
                split: {"loss": split_metrics(*outcomes[split])["loss"]} for split in ("validation", "test")
            },
            "temperature": temperature,
            "classes": self.data.classes,
            "images": {split: len(examples) for split, examples in self.data.splits.items()},
            "skipped_images": self.data.skipped,
            "data_fingerprint": self.data.fingerprint,
            "data": {key: self.data.about[key] for key in ("name", "source", "licence") if key in self.data.about},
            "trainable_groups": trainable_groups(self.classifier),
            "parameters": total,
            "trainable_parameters": learns,
            "best_epoch": self.standing.best_epoch,
            "epochs": self.standing.epoch,
            "steps": self.standing.step,
            "processes": self.accelerator.num_processes,
            "peak_memory_bytes": peak_memory(),
            "confusion_matrix": _confusion(*outcomes["test"]),
        }

    def _resume(self) -> None:
        path = on_main_process(self.accelerator, lambda: latest_checkpoint(self.run.checkpoints))
        model = self.accelerator.unwrap_model(self.model)
        state = load_checkpoint(path, model, self.optimizer.optimizer)
        try:
            same = (state["processes"], state["seed"]) == (self.accelerator.num_processes, self.recipe.training.seed)
            self.standing, steps, scaler = (
                Standing(**state["standing"]),
                state["scheduler_steps"],
                state["gradient_scaler"],
            )
        except (KeyError, TypeError) as error:
            raise ToolkitError(f"damaged checkpoint: {error}", where=path, fix="resume from the one before") from error
        if not same:
            fix = "resume with the same seed and number of processes"
            what = "the checkpoint belongs to a run with another seed or number of processes"
            raise ToolkitError(what, where=path, fix=fix)
        if self.accelerator.scaler and scaler:
            self.accelerator.scaler.load_state_dict(scaler)
        self.scheduler.last_epoch = steps
        for group, base, factor in zip(
            self.optimizer.param_groups, self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(steps)
        if self.is_main:
            self.run.keep_history(self.standing.epoch)

    def _log(self, entry: dict[str, Any]) -> None:
        """Write an entry to ``metrics.jsonl`` and to the trackers."""
        if self.is_main:
            self.run.log(entry)
        names = {"loss", "accuracy", "learning_rate", "images_per_second", "data_wait_share"}
        values = {f"{entry['split']}/{name}": entry[name] for name in names & set(entry)}
        self.accelerator.log(values, step=self.standing.step)


class _Clock:
    """Seconds of an epoch, and those of them spent waiting for data."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.waited = 0.0
        self.images = 0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def waiting_for(self, batches: Any) -> Iterator[Batch]:
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _confusion(logits: Tensor, labels: Tensor) -> list[list[int]]:
    """Counts [true class][predicted class]."""
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(-1)
    return pairs.bincount(minlength=classes * classes).reshape(classes, classes).tolist()
