"""What trials have shown, and their front: those that none beats in one figure without losing in another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from hark.exploring.budget import Price, Quality

T = TypeVar("T")

TIME_STEP = 1.2
"""Times on the engine whose ratio is below this are the same: a busy machine cannot tell them apart."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One trial as far as it has come."""

    number: int
    name: str
    in_words: str
    budget: str
    state: Literal["waiting", "running", "stopped", "done", "failed"]
    price: Price
    engine_us: float
    """Per second of sound, front end included; on whichever machine it was tried."""
    by_fold: tuple[float, ...]
    """0.02587 · (1 − AUC) of the packed model on the validation part of the first folds."""

    @property
    def quality(self) -> float:
        """Mean over the folds so far; infinite before the first."""
        return math.fsum(self.by_fold) / len(self.by_fold) if self.by_fold else math.inf

    @property
    def figures(self) -> tuple[float, ...]:
        """All the better the lower: quality, MACs per clip and per second, bytes, and time in rough steps."""
        time = round(math.log(max(self.engine_us, 1e-9), TIME_STEP))
        return self.quality, self.price.macs, self.price.macs_per_second, self.price.bytes, time

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `front.json` has them."""
        return {
            "trial": self.number,
            "name": self.name,
            "network": self.in_words,
            "budget": self.budget,
            "state": self.state,
            "quality": self.quality if self.by_fold else None,
            "by_fold": list(self.by_fold),
            **vars(self.price),
            "engine_us_per_second": self.engine_us,
        }


def front_of(items: Sequence[T], figures: Callable[[T], Sequence[float]]) -> list[T]:
    """Those that are not beaten, in their order; of equal ones the first.

    One beats another that is no better in any figure, and worse in some.
    """
    found: list[T] = []
    all_figures = [tuple(figures(item)) for item in items]
    for index, (item, mine) in enumerate(zip(items, all_figures, strict=True)):
        beaten = any(_beats(theirs, mine) for theirs in all_figures) or mine in all_figures[:index]
        if not beaten:
            found.append(item)
    return found


def front_of_trials(tried: Sequence[Tried]) -> list[Tried]:
    """The front of the trials that went through all folds, the best quality first."""
    done = sorted((each for each in tried if each.state == "done"), key=lambda each: each.figures)
    return front_of(done, lambda each: each.figures)


def chosen_of(front: Sequence[Tried], *, most: int, quality: Quality | None, base: float) -> list[Tried]:
    """The few of a front that are worth confirming.

    The best one; then, of those that are good enough (all, without a bound), the cheapest by each cost in turn;
    then the next best.
    """
    bound = math.inf if quality is None else quality.bound(base)
    good = [each for each in front if each.quality <= bound]
    cheapest = [min(good, key=lambda each: each.figures[cost]) for cost in (3, 1, 2) if good]
    return list(dict.fromkeys([*(front[:1] if not good else good[:1]), *cheapest, *good, *front]))[:most]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


@dataclass(frozen=True, kw_only=True)
class Found:
    """All that a search has come to know by now."""

    keyword: str
    folds: int
    budget: str
    quality: Quality | None
    wanted: int
    """Trials that are to be made."""
    tried: tuple[Tried, ...]
    """Those of this search."""
    others: tuple[Tried, ...] = ()
    """Those of searches within other budgets for the same keyword, in the same database."""
    base_by_fold: tuple[float, ...] = ()
    """What the base reaches on the validation parts of the first folds."""
    chosen: tuple[str, ...] = ()
    """The names of those that are confirmed."""

    @property
    def base(self) -> float:
        """Mean over the folds so far; NaN before the first."""
        return math.fsum(self.base_by_fold) / len(self.base_by_fold) if self.base_by_fold else math.nan

    @property
    def front(self) -> list[Tried]:
        """The front of this search and of the others."""
        return front_of_trials([*self.tried, *self.others])

    def count(self, *states: str) -> int:
        """How many trials of this search are in one of these states."""
        return sum(each.state in states for each in self.tried)
