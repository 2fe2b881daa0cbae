"""The front of what was tried, and what is chosen from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hark.exploring.budget import Price, Quality
from hark.exploring.front import Found, Tried, chosen_of, front_of, front_of_trials

FIGURES = st.tuples(*[st.integers(0, 4)] * 3)


def same(figures: tuple[int, ...]) -> tuple[int, ...]:
    return figures


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


@given(st.lists(FIGURES))
def test_nothing_beats_what_is_on_the_front_and_something_there_is_as_good_as_all_else(
    items: list[tuple[int, ...]],
) -> None:
    front = front_of(items, same)
    assert not any(beats(one, other) for one in items for other in front)
    assert all(any(beats(one, item) or one == item for one in front) for item in items)
    assert len(set(front)) == len(front)


@given(st.lists(FIGURES))
def test_the_front_of_a_front_is_itself(items: list[tuple[int, ...]]) -> None:
    front = front_of(items, same)
    assert front_of(front, same) == front


@given(st.lists(FIGURES), st.randoms(use_true_random=False))
def test_the_order_of_trials_does_not_matter(items: list[tuple[int, ...]], random: object) -> None:
    shuffled = items[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert set(front_of(shuffled, same)) == set(front_of(items, same))


def tried(number: int, quality: float, macs: int, size: int, *, state: str = "done", time: float = 30.0) -> Tried:
    price = Price(macs=macs, macs_per_second=10 * macs, bytes=size, ram=5_000, parameters=100)
    return Tried(
        number=number,
        name=f"n{number}",
        in_words="a network",
        budget="macs<=9",
        state=state,  # type: ignore[arg-type]
        price=price,
        engine_us=time,
        by_fold=(quality,),
    )


def test_only_trials_through_all_folds_are_on_the_front_the_best_first() -> None:
    best, cheap, beaten = tried(0, 1e-5, 900, 90), tried(1, 3e-5, 500, 50), tried(2, 4e-5, 600, 60)
    stopped = tried(3, 0.5e-5, 100, 10, state="stopped")
    assert front_of_trials([beaten, cheap, stopped, best]) == [best, cheap]


def test_a_time_that_differs_by_noise_alone_puts_nothing_on_the_front() -> None:
    assert len(front_of_trials([tried(0, 1e-5, 900, 90, time=31.0), tried(1, 2e-5, 900, 90, time=30.0)])) == 1
    assert len(front_of_trials([tried(0, 1e-5, 900, 90, time=30.0), tried(1, 2e-5, 900, 90, time=15.0)])) == 2


FRONT = [tried(0, 1e-5, 900, 90), tried(1, 2e-5, 500, 80), tried(2, 3e-5, 700, 50), tried(3, 9e-5, 100, 10)]


def test_the_chosen_are_the_best_and_the_cheapest() -> None:
    assert [each.number for each in chosen_of(FRONT, most=3, quality=None, base=math.nan)] == [0, 3, 1]
    assert chosen_of(FRONT, most=9, quality=None, base=math.nan)[0] == FRONT[0]
    assert chosen_of(FRONT, most=0, quality=None, base=math.nan) == []
    assert chosen_of([], most=3, quality=None, base=math.nan) == []


def test_with_a_quality_the_cheapest_are_those_that_keep_it() -> None:
    chosen = chosen_of(FRONT, most=3, quality=Quality(3, of_base=True), base=1e-5)
    assert [each.number for each in chosen] == [0, 2, 1]


def test_the_best_is_chosen_even_if_it_does_not_reach_the_quality() -> None:
    assert chosen_of(FRONT, most=1, quality=Quality(1e-9, of_base=False), base=1.0) == [FRONT[0]]


def test_what_was_found_counts_its_trials_and_averages_the_base() -> None:
    found = Found(
        keyword="beep",
        folds=2,
        budget="macs<=9",
        quality=None,
        wanted=9,
        tried=(FRONT[0], tried(7, 8e-5, 1, 1, state="stopped")),
        others=(FRONT[3],),
        base_by_fold=(1e-5, 2e-5),
    )
    assert (found.count("done"), found.count("stopped", "failed")) == (1, 1)
    assert found.base == pytest.approx(1.5e-5)
    assert found.front == [FRONT[0], FRONT[3]]
