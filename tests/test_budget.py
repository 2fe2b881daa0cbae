"""Budgets and qualities in words."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hark.errors import ConfigError
from hark.exploring.budget import LIMITED, Budget, Price, Quality, parse_budget, parse_quality

PRICE = Price(macs=18_000, macs_per_second=600_000, bytes=2_000, ram=6_000, parameters=900)


@given(st.dictionaries(st.sampled_from(sorted(LIMITED)), st.integers(1, 10**9), min_size=1))
def test_a_budget_reads_back_from_what_it_shows(limits: dict[str, int]) -> None:
    budget = Budget(**limits)
    assert parse_budget(str(budget)) == budget
    assert budget.limits == limits


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("macs<=18000,bytes<=2000", Budget(macs=18_000, bytes=2_000)),
        (" macs <= 18.6k , ram≤8_000,", Budget(macs=18_600, ram=8_000)),
        ("macs_per_second<=1.5M", Budget(macs_per_second=1_500_000)),
    ],
)
def test_limits_are_numbers_by_name(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


def test_all_that_can_be_limited_is_a_limit_and_a_price() -> None:
    assert set(LIMITED) == {entry.name for entry in fields(Budget)} <= {entry.name for entry in fields(Price)}


def test_every_fault_is_told_at_once_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_budget("mac<=1,bytes<=many,macs<=0,ram<9,bytes<=5,macs_per_second<=5k,macs_per_second<=6k")
    message = str(caught.value)
    assert "\n" not in message
    for fault in (
        "did you mean macs?",
        "bytes<=many, expected a number above 0",
        "macs<=0, expected a number above 0",
        "ram<9, expected NAME<=NUMBER",
        "macs_per_second is limited twice",
    ):
        assert fault in message


@pytest.mark.parametrize("text", ["", " , "])
def test_no_limit_is_no_budget(text: str) -> None:
    with pytest.raises(ConfigError, match="no limit, expected some of macs, macs_per_second, bytes, ram"):
        parse_budget(text)


def test_a_price_at_the_limits_is_within_and_one_more_of_anything_is_not() -> None:
    budget = Budget(macs=18_000, macs_per_second=600_000, bytes=2_000, ram=6_000)
    assert budget.admits(PRICE)
    assert budget.excess(PRICE) == 1
    for name in LIMITED:
        dearer = replace(PRICE, **{name: getattr(PRICE, name) + 1})
        assert not budget.admits(dearer)
        assert budget.excess(dearer) > 1
    assert Budget(macs=18_000).admits(replace(PRICE, bytes=10**9))


@pytest.mark.parametrize(
    ("text", "bound"), [("<=1.1x base", 2.2e-5), ("<= 1.1X Base", 2.2e-5), ("≤1xbase", 2e-5), ("<=5.5e-5", 5.5e-5)]
)
def test_a_quality_is_a_number_or_a_multiple_of_the_base_s(text: str, bound: float) -> None:
    quality = parse_quality(text)
    assert quality.bound(2e-5) == pytest.approx(bound)
    assert parse_quality(str(quality)) == quality


@pytest.mark.parametrize("text", ["", "1.1x base", "<=0", "<=x base", "<=1.1y base", "<=nan"])
def test_another_quality_is_refused_with_two_that_are_not(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a bound such as '<=1\.1x base'"):
        parse_quality(text)


def test_a_quality_shows_what_it_is_measured_against() -> None:
    assert str(Quality(1.1, of_base=True)) == "<=1.1x base"
