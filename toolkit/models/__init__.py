"""Encoder families as ordered groups of layers, heads, and the classifier fused of both."""
