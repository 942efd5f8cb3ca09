"""Which key of a recipe is meant by one that there is not: other sections', other trainers' names, near spellings."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

SYNONYMS = {
    "training.learning_rate": "lr base_lr max_lr peak_lr initial_lr encoder_lr backbone_lr learningrate",
    "training.head_learning_rate": "lr_head head_lr classifier_lr",
    "training.layer_decay": "llrd layerwise_lr_decay layer_lr_decay layerwise_decay",
    "training.batch_size": "bs batch batchsize train_batch_size per_device_train_batch_size per_gpu_batch_size "
    "micro_batch_size global_batch_size",
    "training.epochs": "epoch num_epochs n_epochs nb_epochs max_epochs num_train_epochs",
    "training.weight_decay": "wd decay l2",
    "training.scheduler": "lr_scheduler lr_scheduler_type lr_schedule schedule sched",
    "training.warmup_share": "warmup warmup_ratio warmup_steps warmup_epochs warmup_proportion",
    "training.step_epochs": "step_size lr_step_size",
    "training.step_factor": "lr_gamma",
    "training.focal_gamma": "gamma focal focal_loss",
    "training.gradient_accumulation": "grad_accum accum accum_freq accum_steps grad_accum_steps "
    "accumulate_grad_batches gradient_accumulation_steps",
    "training.max_gradient_norm": "clip_grad grad_clip clip_grad_norm max_grad_norm grad_clip_norm gradient_clip_val",
    "training.gradient_checkpointing": "grad_checkpointing activation_checkpointing",
    "training.mixed_precision": "amp autocast precision fp16 bf16 half",
    "training.loader_workers": "workers num_workers n_workers dataloader_num_workers",
    "training.early_stopping": "patience early_stopping_patience early_stop",
    "training.label_smoothing": "smoothing label_smoothing_factor",
    "training.class_weights": "class_weight weights_per_class pos_weight",
    "training.sampling": "sampler weighted_sampler",
    "training.mixup": "mixup_alpha mix_up",
    "training.cutmix": "cutmix_alpha cut_mix",
    "training.ema_decay": "ema model_ema ema_momentum model_ema_decay",
    "training.checkpoint_every": "save_steps save_every save_interval checkpoint_interval",
    "training.keep_last": "save_total_limit keep_checkpoints save_top_k",
    "training.select_by": "metric_for_best_model monitor eval_metric",
    "training.compile": "torch_compile torchcompile",
    "training.seed": "random_seed random_state manual_seed",
    "training.boundary_cache.enabled": "cache cache_features boundary_cache",
    "model.encoder": "backbone arch architecture model_name model_name_or_path pretrained base_model checkpoint "
    "pretrained_model_name_or_path",
    "model.unfreeze_last": "freeze unfreeze_layers trainable_layers unlocked_groups num_unfrozen_layers",
    "model.head.hidden_size": "hidden hidden_dim head_dim",
    "model.head.dropout": "drop drop_rate dropout_rate",
    "data.path": "dataset data_dir data_path data_root root train_dir image_dir image_folder dataset_name",
    "data.augment": "aug augmentation augmentations transforms",
    "data.classes": "class_names label_names labels num_classes",
    "data.validation_share": "val_split val_ratio val_size validation_split validation_size",
    "data.test_share": "test_split test_ratio test_size",
    "tracking.trackers": "logger loggers report_to log_with",
    "tracking.project": "project_name experiment experiment_name wandb_project",
    "tracking.log_every": "logging_steps log_interval print_freq log_every_n_steps",
}
"""What other trainers call the keys of a recipe."""
MEANT = {name: key for key, names in SYNONYMS.items() for name in names.split()}
NEAR, SURE = 0.6, 0.8
"""Similarity (:func:`difflib.SequenceMatcher.ratio`) that is taken for a slip, in the same section and elsewhere."""


def meant(unknown: str, keys: Sequence[str]) -> str | None:
    """The key that an unknown one seems to stand for; None where nothing is like it.

    Args:
        unknown: as it was written, with its sections before it, if there were any.
        keys: every key that there is, with its sections, such as ``training.epochs``; and the sections themselves.
    """
    section, _, last = unknown.rpartition(".")
    name = last.lower().replace("-", "_")
    near = _nearest(name, [key for key in keys if key.rpartition(".")[0] == section], NEAR)
    elsewhere = [key for key in keys if key.rpartition(".")[2] == name]
    if elsewhere:
        return min(elsewhere, key=lambda key: (key.count("."), keys.index(key)))
    if name in MEANT:
        return MEANT[name]
    if near:
        return near
    known = _nearest(name, [*keys, *(f".{each}" for each in MEANT)], SURE)
    return MEANT.get(known[1:], known) if known else None


def _nearest(name: str, keys: Sequence[str], cutoff: float) -> str | None:
    """The key whose last part is most like a name."""
    by_name = {key.rpartition(".")[2]: key for key in reversed(keys)}
    found = difflib.get_close_matches(name, by_name, n=1, cutoff=cutoff)
    return by_name[found[0]] if found else None
