"""A search in words, in the terminal, and on the page, before anything is judged."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from hark.exploring.budget import Price
from hark.exploring.front import Found, Tried
from hark.showing import terminal_front
from hark.showing.exploration_chart import trial_clouds
from hark.showing.exploration_words import COLUMNS, caution, progress_in_words, row
from hark.showing.report import render
from hark.showing.study import Study
from hark.showing.terminal_front import TerminalFront, chart

NOTHING = Study((), ())


def tried(number: int, quality: float, macs: int, state: str = "done") -> Tried:
    return Tried(
        number=number,
        name=f"gru8-<{number}>",
        in_words="20 bands; gru 8",
        budget="macs<=9000",
        state=state,  # type: ignore[arg-type]
        price=Price(macs=macs, macs_per_second=50 * macs, bytes=macs // 10, ram=4_000, parameters=400),
        engine_us=30.0,
        by_fold=(quality, quality) if state == "done" else (quality,) if state == "stopped" else (),
    )


FOUND = Found(
    keyword="beep",
    folds=2,
    budget="macs<=9000",
    quality=None,
    wanted=9,
    tried=(
        tried(0, 2e-5, 8_000),
        tried(1, 4e-5, 4_000),
        tried(2, 9e-5, 6_000, "stopped"),
        tried(3, 0, 5_000, "running"),
    ),
    others=(tried(0, 1e-5, 30_000),),
    base_by_fold=(0.9e-5, 1.1e-5),
)
NEW = replace(FOUND, tried=(), others=(), base_by_fold=())


def test_progress_tells_of_every_trial_and_of_the_base() -> None:
    assert progress_in_words(FOUND) == (
        "3 of 9 trials of 'beep' within macs<=9000; 2 through all 2 folds, 1 stopped before; "
        "1 at work; base 1.00e-5"
    )
    assert "base" not in progress_in_words(NEW)
    assert "1 failed" in progress_in_words(replace(FOUND, tried=(tried(4, 0, 1, "failed"),)))


def test_the_number_of_trials_is_told_wherever_a_front_is() -> None:
    assert caution(FOUND).startswith(
        "Picked from 3 trials and 1 within other budgets by the very validation parts"
    )
    page = render(NOTHING, found=FOUND)
    assert "Picked from 3 trials" in page
    assert "3 of 9 trials" in page


def test_a_row_has_a_cell_for_each_column() -> None:
    assert row(FOUND.tried[0]) == ("20 bands; gru 8", "8,000", "400,000", "800", "30", "2.00", "2")
    assert len(row(FOUND.tried[0])) == len(COLUMNS)
    assert row(FOUND.tried[3])[-2:] == ("–", "0")


def test_the_page_shows_every_trial_and_the_front_by_name_and_escapes_what_it_is_told() -> None:
    page = render(NOTHING, found=FOUND)
    assert "gru8-&lt;1&gt;" in page and "gru8-<" not in page
    assert "gru8-&lt;2&gt;" not in page  # stopped: a point, and no row
    assert page.count("<svg") == 4


def test_a_page_of_a_search_that_has_just_begun_is_a_page() -> None:
    assert trial_clouds(NEW) == {}
    assert "0 of 9 trials" in render(NOTHING, found=NEW)


def test_a_page_without_a_search_says_nothing_of_one() -> None:
    assert "The search" not in render(NOTHING)


def test_the_chart_puts_better_below_and_cheaper_to_the_left() -> None:
    lines = chart(FOUND, width=40, height=8)
    places = {
        mark: [(y, line.index(mark)) for y, line in enumerate(lines[:8]) if mark in line] for mark in ("●", "·")
    }
    ((high, left), (middle, _), (low, right)) = places["●"]  # the front, from its cheapest to its best
    assert high < middle < low and left < right
    assert places["·"][0][0] < high
    assert all(len(line) <= 8 + 40 for line in lines)
    assert "4 k" in lines[-1] and "30 k" in lines[-1]


@pytest.mark.parametrize("found", [NEW, replace(FOUND, tried=FOUND.tried[:1], others=())])
def test_a_chart_of_nothing_or_of_one_trial_is_no_trouble(found: Found) -> None:
    assert "".join(chart(found, width=20)).count("●") == len(found.front)


def test_without_a_terminal_each_change_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalFront() as shown:
        for found in (NEW, NEW, FOUND):
            shown(found)
    assert capsys.readouterr().err.splitlines() == [progress_in_words(NEW), progress_in_words(FOUND)]


def test_in_a_terminal_the_front_is_drawn_and_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.live import Live

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(terminal_front, "_live", lambda: Live(console=console, auto_refresh=False))
    with TerminalFront() as shown:
        shown(NEW)
        shown(FOUND)
    drawn = screen.getvalue()
    assert "MACs per clip" in drawn and "●" in drawn and "engine µs/s" in drawn
    assert progress_in_words(FOUND) in drawn
