"""A run at a glance: curves that are its events, nothing that it says of itself becomes markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hark.record.events import Event
from hark.record.portrait import LAST_REMARKS, MOST_POINTS, portrait, series
from hark.record.runs import Run
from hark.record.status import status_of
from test_status import BEGAN, EVENTS, FAILED, TRAIN, event

TAGS = {"div", "span", "b", "ul", "li", "svg", "text", "line", "polyline", "circle"}
STEPS, LEFT, RIGHT, TOP, BOTTOM = 100, 54, 342, 24, 120


class Page(HTMLParser):
    """What a browser makes of it: elements, their attributes, the text; every element is closed in its order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def points(self) -> list[list[tuple[float, float]]]:
        """The curves' points, curve by curve."""
        return [
            [(float(x), float(y)) for x, y in (pair.split(",") for pair in str(found["points"]).split())]
            for tag, found in self.elements
            if tag == "polyline"
        ]


def page(events: list[Event], *, name: str = "base", is_live: bool = False) -> Page:
    return Page(portrait(name, status_of(events, is_live=is_live), events))


def losses(*values: float) -> list[Event]:
    return [event("train", step, loss=value) for step, value in enumerate(values)]


@given(name=st.text(), events=EVENTS, is_live=st.booleans())
def test_nothing_a_run_says_becomes_markup_and_all_points_are_inside(
    name: str, events: list[Event], is_live: bool
) -> None:
    shown = page(events, name=name, is_live=is_live)
    assert {tag for tag, _ in shown.elements} <= TAGS
    assert not any(attribute.startswith("on") for _, attributes in shown.elements for attribute in attributes)
    for x, y in (point for curve in shown.points() for point in curve):
        assert LEFT <= x <= RIGHT
        assert TOP <= y <= BOTTOM


def test_a_script_in_a_warning_is_a_text() -> None:
    evil = '"><script>alert(1)</script>'
    began = event("began", 0, work={"device": evil})
    shown = page([began, event("warning", message=evil), event("ended", how="failed", why=evil)], name=evil)
    assert shown.text.count(evil) == 4


def test_it_tells_state_pace_and_newest_figures() -> None:
    shown = page([BEGAN, TRAIN, event("validation", 40, one_minus_auc=0.0123)], is_live=True)
    for words in ("base", "live at step 40 of 100", "cpu", "8 clips/s", "2 min left", "0.5", "0.0123"):
        assert words in shown.text
    assert "failed at step 40 of 100: no space" in page([BEGAN, TRAIN, FAILED]).text


def test_the_bar_is_as_long_as_what_is_done() -> None:
    bars = [str(found.get("style")) for tag, found in page([BEGAN, TRAIN]).elements if tag == "div"]
    assert [bar for bar in bars if "width:40.0%" in bar]


def test_a_curve_goes_from_the_first_step_to_the_share_that_is_done() -> None:
    """Values that differ by factors are drawn by their logarithm: halving is the same way down each time."""
    (curve,) = page([BEGAN, *losses(0.8, 0.4, 0.2, 0.1), event("train", STEPS // 2, loss=0.1)]).points()
    assert curve[0] == (LEFT, TOP)
    assert curve[-1] == ((LEFT + RIGHT) / 2, BOTTOM)
    drops = [lower - higher for (_, higher), (_, lower) in pairwise(curve[:4])]
    assert drops == pytest.approx([(BOTTOM - TOP) / 3] * 3, abs=0.1)


def test_values_close_together_are_drawn_as_they_are() -> None:
    (curve,) = page(losses(3.0, 2.0, 1.0)).points()
    assert [y for _, y in curve] == pytest.approx([TOP, (TOP + BOTTOM) / 2, BOTTOM])


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    (curve,) = page(losses(*(1 / (step + 1) for step in range(10_001)))).points()
    assert len(curve) <= MOST_POINTS + 1
    assert curve[-1] == (RIGHT, BOTTOM)


def test_nothing_is_drawn_before_there_is_something() -> None:
    assert page([BEGAN]).points() == []
    assert page([event("train", 1, loss="NaN"), event("train", 2, loss=float("nan"))]).points() == []


def test_the_last_remarks_are_listed_and_the_earlier_counted() -> None:
    remarks = [event("warning", message=f"w{number}") for number in range(LAST_REMARKS + 2)]
    text = page([*remarks, event("fallback", reason="SHA-256 differs")]).text
    assert "3 earlier remarks, then:" in text
    assert "w2" not in text
    assert "warning: w3" in text
    assert "fallback: SHA-256 differs" in text
    assert "earlier" not in page(remarks[:LAST_REMARKS]).text


def test_letters_take_the_colour_of_their_surroundings() -> None:
    """A notebook is light or dark, and only it knows: no letter has a colour of its own but the dot."""
    html = portrait("base", status_of([BEGAN, TRAIN, FAILED], is_live=False), [BEGAN, TRAIN, FAILED])
    coloured = re.findall(r'<(\w+)[^>]*(?:[" ;]color:|fill=")([^";]+)[^>]*>([^<]*)', html)
    assert {(tag, text) for tag, colour, text in coloured if colour not in ("currentColor", "none")} == {
        ("span", "●"),
        ("circle", ""),
    }


@pytest.mark.parametrize("value", ["x", None, True, float("inf"), 10**400])
def test_a_series_has_what_can_be_drawn_only(value: Any) -> None:
    events = [event("train", 1, loss=0.5), event("train", 2, loss=value), event("train", None, loss=0.1)]
    assert series(events, "train", "loss") == [(1, 0.5)]


def test_a_run_shows_itself_so_in_a_notebook(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "base", about={})
    run.log("train", step=3, loss=0.5)
    assert "stopped at step 3" in Page(run._repr_html_()).text
