from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest

from toolkit.labels import cell_text, label_text, natural_order, similar_labels

NAN = float("nan")


@pytest.mark.parametrize(
    "value",
    [
        *(None, NAN, np.float32(NAN), np.float64(NAN), Decimal("NaN"), pandas.NA, pandas.NaT),
        *(pyarrow.scalar(None), pyarrow.scalar(NAN), "", "  ", "nan", "NaN", "NAN", " nan ", b"nan"),
    ],
    ids=repr,
)
def test_what_is_missing_is_no_label(value: Any) -> None:
    assert label_text(value) == cell_text(value) == ""


@pytest.mark.parametrize(
    ("value", "label"),
    [
        *((1, "1"), (1.0, "1"), ("1.0", "1"), ("1.00", "1"), (np.float32(1), "1"), (np.int64(1), "1"), ("1", "1")),
        *((Decimal("1.0"), "1"), (pyarrow.scalar(1.0), "1"), (pyarrow.scalar("1"), "1"), (b"1", "1")),
        *((-3.0, "-3"), (1e15, "1000000000000000"), (1.5, "1.5"), ("1.5", "1.5"), (0, "0"), (0.0, "0")),
        *(
            (True, "True"),
            (float("inf"), "inf"),
            ("01", "01"),
            ("nancy", "nancy"),
            ("none", "none"),
            ("1.0.0", "1.0.0"),
        ),
        *(("cafe\u0301", "caf\u00e9"), ("caf\u00e9", "caf\u00e9"), ("\u1112\u1161\u11ab", "\ud55c")),
    ],
    ids=repr,
)
def test_a_label_reads_the_same_whatever_held_it(value: Any, label: str) -> None:
    assert label_text(value) == label
    assert label_text(label) == label


def test_numbers_come_by_value_before_names_in_one_total_order() -> None:
    ordered = ["0", "00", "001", "01", "1", "2", "10", "9" * 5000, "1" + "0" * 5000, "-1", "1.5", "a", "b"]
    keys = [natural_order(label) for label in ordered]
    assert len(set(keys)) == len(ordered)
    for seed in range(20):
        shuffled = ordered.copy()
        random.Random(seed).shuffle(shuffled)
        assert sorted(shuffled, key=natural_order) == ordered


def test_labels_that_look_alike_are_named_together() -> None:
    labels = ["Cat", "cat", "CAT ", "dog", "golden retriever", "golden  retriever", "\uff41", "a", "\ufb01sh", "fish"]
    labels += ["soft\u00adhyphen", "softhyphen", "stra\u00dfe", "STRASSE", "1", "01"]
    assert similar_labels(labels) == [
        ["Cat", "cat", "CAT "],
        ["golden retriever", "golden  retriever"],
        ["\uff41", "a"],
        ["\ufb01sh", "fish"],
        ["soft\u00adhyphen", "softhyphen"],
        ["stra\u00dfe", "STRASSE"],
    ]
    assert similar_labels(["cat", "dog", "bird"]) == []
