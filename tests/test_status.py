"""How a run stands: the last thing done decides, and no event can make it raise or upset a terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hark.errors import Interrupted, RunError
from hark.record.events import Event
from hark.record.status import LONGEST_REASON, duration, ending, printable, status_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=3,
)
KINDS = ("train", "validation", "began", "ended", "finished", "resumed", "saved", "warning", "fallback")
FIELDS = ("wall", "why", "how", "loss", "rate", "one_minus_auc", "work", "message", "reason")
WORK = st.dictionaries(st.sampled_from(["steps", "clips_per_step", "device"]), JSON)
EVENTS = st.lists(
    st.builds(
        lambda kind, step, rest, work: {"kind": kind, "step": step, **rest, **({"work": work} if work else {})},
        st.sampled_from(KINDS) | st.text(),
        st.none() | st.integers(),
        st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
        WORK,
    ),
    max_size=4,
)


def event(kind: str, step: int | None = None, **values: Any) -> Event:
    return {"kind": kind, "step": step, "wall": "2026-01-02T03:04:05.000+00:00", **values}


BEGAN = event("began", 0, work={"steps": 100, "clips_per_step": 16, "device": "cpu"})
TRAIN = event("train", 40, loss=0.5, rate=8.0)
FAILED = event("ended", how="failed", why="no space")


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], "stopped at step 0"),
        ([BEGAN], "stopped at step 0 of 100"),
        ([BEGAN, TRAIN], "stopped at step 40 of 100"),
        ([BEGAN, TRAIN, event("finished")], "finished"),
        ([BEGAN, TRAIN, FAILED], "failed at step 40 of 100: no space"),
        ([FAILED], "failed: no space"),
        ([BEGAN, TRAIN, event("ended", how="interrupted", why="SIGTERM")],
         "interrupted by SIGTERM at step 40 of 100"),
        ([BEGAN, FAILED, event("warning", message="begun by other code")], "failed: no space"),
        ([BEGAN, FAILED, event("resumed", 0), TRAIN], "stopped at step 40 of 100"),
        ([event("ended")], "failed: "),
    ],
)  # fmt: skip
def test_the_last_thing_done_decides(events: list[Event], words: str) -> None:
    assert str(status_of(events, is_live=False)) == words


def test_whoever_is_at_work_makes_it_live_whatever_was_before() -> None:
    assert str(status_of([BEGAN, TRAIN, FAILED], is_live=True)) == "live at step 40 of 100"
    assert str(status_of([], is_live=True)) == "live"


def test_figures_are_the_newest_and_the_rest_takes_as_long_as_they_say() -> None:
    newer = event("train", 50, loss=0.25, rate=16.0, note="x", diverged=float("nan"))
    status = status_of([BEGAN, TRAIN, newer, event("validation", 50, one_minus_auc=0.01)], is_live=True)
    assert status.latest == {
        "train/loss": 0.25,
        "train/rate": 16.0,
        "validation/one_minus_auc": 0.01,
    }
    assert status.left_s == 50 * 16 / 16.0
    assert status.pace == ["16 clips/s", "50 s left"]
    assert status.device == "cpu"


def test_warnings_and_fallbacks_are_counted_damaged_lines_among_them() -> None:
    events = [event("warning"), event("damaged"), event("fallback"), event("note")]
    status = status_of(events, is_live=False)
    assert (status.warnings, status.fallbacks) == (2, 1)
    assert status.remarks == "1 fallback, 2 warnings"
    assert status_of([], is_live=False).remarks == ""


def test_its_age_is_that_of_the_last_event_and_never_negative() -> None:
    status = status_of([event("train", 1), event("damaged") | {"wall": "yesterday"}], is_live=False)
    then = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert status.age_s(then + timedelta(seconds=90)) == 90
    assert status.age_s(then - timedelta(days=1)) == 0
    assert status_of([], is_live=False).age_s(then) is None


@given(events=EVENTS, is_live=st.booleans())
def test_no_event_makes_it_raise_or_write_anything_but_one_plain_line(events: list[Event], is_live: bool) -> None:
    status = status_of(events, is_live=is_live)
    for words in (str(status), status.remarks, status.device, *status.pace):
        assert words == "" or words.isprintable()
    assert (status.state == "live") == is_live


@pytest.mark.parametrize(
    ("error", "how", "why"),
    [
        (Interrupted("stopped", signal_number=15), "interrupted", "SIGTERM"),
        (Interrupted("stopped", signal_number=2), "interrupted", "SIGINT"),
        (KeyboardInterrupt(), "interrupted", "SIGINT"),
        (SystemExit(143), "interrupted", "SIGTERM"),
        (SystemExit("nothing to say"), "failed", "SystemExit: nothing to say"),
        (
            RunError("a/events.jsonl: No space left;\nfree some"),
            "failed",
            "a/events.jsonl: No space left; free some",
        ),
        (ValueError("bad\x1b[2Jvalue"), "failed", "ValueError: bad\N{REPLACEMENT CHARACTER}[2Jvalue"),
        (MemoryError(), "failed", "MemoryError"),
    ],
)
def test_an_end_is_told_in_one_line(error: BaseException, how: str, why: str) -> None:
    assert ending(error) == {"how": how, "why": why}


@given(st.text(st.characters()))
@example("x" * (LONGEST_REASON + 1))
def test_what_is_printed_is_one_line_that_a_terminal_only_shows(text: str) -> None:
    shown = printable(text)
    assert shown == "" or shown.isprintable()
    assert len(shown) <= LONGEST_REASON
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (119, "119 s"), (121, "2 min"), (7199, "120 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_durations_read_like_speech(seconds: float, words: str) -> None:
    assert duration(seconds) == words
