"""A search in words and numbers: how far it is, what it has found, and how that is meant."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hark.exploring.front import Found, Tried
from hark.showing.wording import count, significant

COLUMNS = ("network", "MACs", "MACs/s with front end", "bytes", "engine µs/s", "quality, 1e-5", "folds")


def progress_in_words(found: Found) -> str:
    """How far the search is, in a line."""
    done, stopped, failed = (found.count(state) for state in ("done", "stopped", "failed"))
    parts = [
        f"{done + stopped} of {found.wanted} trials of {found.keyword!r} within {found.budget}",
        f"{done} through all {found.folds} folds, {stopped} stopped before",
        *([f"{failed} failed"] if failed else []),
        f"{found.count('running')} at work",
        *([f"base {significant(1e5 * found.base)}e-5"] if found.base_by_fold else []),
    ]
    return "; ".join(parts)


def caution(found: Found) -> str:
    """Why the figures of the search itself are too good."""
    made = found.count("done", "stopped")
    others = len([each for each in found.others if each.state in ("done", "stopped")])
    of_others = f" and {count(others)} within other budgets" if others else ""
    return (
        f"Picked from {count(made)} trials{of_others} by the very validation parts that these figures are of: "
        "they are optimistic. What holds is what the chosen few reach on the test parts, made with fresh seeds."
    )


def row(tried: Tried) -> tuple[str, ...]:
    """A trial as the cells under `COLUMNS`."""
    price = tried.price
    figures = (price.macs, price.macs_per_second, price.bytes, tried.engine_us)
    quality = significant(1e5 * tried.quality) if math.isfinite(tried.quality) else "–"
    return tried.in_words, *map(count, figures), quality, str(len(tried.by_fold))


def rows(front: Sequence[Tried]) -> list[tuple[str, ...]]:
    """A front as cells."""
    return [row(each) for each in front]
