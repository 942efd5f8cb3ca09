"""The families of encoders, one file each: the transformers classes, and the tower in neutral words."""
