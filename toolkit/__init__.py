"""Fine-tune, fuse, prove, time and ship CLIP-family image classifiers."""

__version__ = "0.1.0"
