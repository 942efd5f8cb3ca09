"""Classifiers from a few images a class, compared: methods, shots, seeds."""
