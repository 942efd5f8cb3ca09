"""Ordered classes as ONNX nodes: what :class:`toolkit.models.head.OrdinalHead` and the task ``ordinal`` compute."""

# B batch, K classes

from __future__ import annotations

import numpy as np

from export.graph.builder import GraphBuilder, Scope
from export.graph.tensor_names import LOGITS, PROBABILITIES

NOTHING = -1e30
"""Added to the logarithm of what is left out of a sum."""


def add_ordered_logits(builder: GraphBuilder, odds: str, classes: int, name: str) -> str:
    """Log-odds of passing each class where it is reached [B, K - 1] -> ``logits`` [B, K], log-probabilities.

    Sums over the classes before are matmuls with constants of zeros and minus ones.

    Args:
        builder: of the graph.
        odds: name of the log-odds.
        classes: K.
        name: of the head.
    """
    add = Scope(builder, name)
    passed, stopped = add("Softplus", add("Neg", odds)), add("Softplus", odds)  # minus the two logarithms
    before = -np.triu(np.ones((classes - 1, classes)), 1)
    here = -np.eye(classes - 1, classes)
    terms = (add("MatMul", values, add.single(matrix)) for values, matrix in ((passed, before), (stopped, here)))
    return str(add("Add", *terms, name=LOGITS))


def add_ordered_probabilities(builder: GraphBuilder, logits: str, temperature: str, classes: int) -> str:
    """``logits`` [B, K] -> ``probabilities`` [B, K]: differences of the shares beyond each class, at a temperature."""
    add = Scope(builder, PROBABILITIES)
    rows = add("Unsqueeze", logits, add.integers(1))  # each class but the last takes a row: [B, K - 1, K]
    beyond = np.triu(np.ones((classes - 1, classes)), 1)
    sums = (
        add("ReduceLogSumExp", add("Add", rows, add.single(NOTHING * away)), add.integers(-1), keepdims=0)
        for away in (1 - beyond, beyond)
    )
    shares = add("Sigmoid", add("Div", add("Sub", *sums), temperature))
    steps = np.eye(classes - 1, classes, 1) - np.eye(classes - 1, classes)
    differences = add("Add", add("MatMul", shares, add.single(steps)), add.single(np.eye(1, classes)[0]))
    return str(add("Relu", differences, name=PROBABILITIES))
