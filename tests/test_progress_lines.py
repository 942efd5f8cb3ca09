"""Progress in lines, where there is no terminal, by a clock that the test turns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from toolkit.progress_lines import LineProgress, about


class Clock:
    """Seconds that pass when they are told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines(seconds_a_step: float, steps: int, total: float | None, completed: float = 0, **options: bool) -> list[str]:
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, width=40)
    with LineProgress("{task.description}", console=console, get_time=clock, **options) as progress:
        task = progress.add_task("reading [a] file", total=total, completed=completed)
        for _ in range(steps):
            clock.now += seconds_a_step
            progress.advance(task)
    return file.getvalue().splitlines()


def test_a_long_task_says_each_tenth_with_the_time_left() -> None:
    said = lines(1, 100, 100)
    assert len(said) == 9
    assert said[0] == "reading [a] file: 10 of 100 (10%), about 90 s left, 10 s so far"
    assert said[-1] == "reading [a] file: 90 of 100 (90%), about 10 s left, 90 s so far"


def test_a_very_long_task_says_something_every_half_minute() -> None:
    said = lines(10, 10, 1000)
    assert said[0] == "reading [a] file: 3 of 1,000 (0%), about 2.8 h left, 30 s so far"
    assert [line.rpartition(", ")[2] for line in said] == ["30 s so far", "60 s so far", "90 s so far"]


def test_a_quick_task_says_nothing() -> None:
    assert lines(0.04, 100, 100) == []


def test_tenths_that_come_too_fast_are_left_out() -> None:
    assert [line.partition(" of")[0] for line in lines(0.1, 100, 100)] == ["reading [a] file: 50"]


def test_a_task_of_unknown_length_says_what_it_did() -> None:
    assert lines(20, 3, None) == ["reading [a] file: 2, 40 s so far"]


def test_what_was_done_before_does_not_count_as_speed() -> None:
    assert lines(10, 1, 100, completed=89)[0] == "reading [a] file: 90 of 100 (90%), about 100 s left, 10 s so far"


def test_nothing_is_said_where_it_is_switched_off() -> None:
    assert lines(10, 100, 100, enabled=False) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.5, "0.5 s"), (119, "120 s"), (125, "2.1 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_times_have_two_digits(seconds: float, words: str) -> None:
    assert about(seconds) == words
