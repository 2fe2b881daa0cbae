"""The event log: the truth about a run, whole lines only, and time that never goes back."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hark.errors import RunError
from hark.events import EventLog


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events.jsonl")


def logged(log: EventLog) -> list[tuple[str, int | None]]:
    return [(event["kind"], event["step"]) for event in log.counting()]


def test_what_is_logged_is_read_in_order(log: EventLog) -> None:
    log.append("train", step=1, loss=0.5, note="größer\nals")
    log.append("warning", step=None, message="x")
    first, second = log.history()
    assert first["loss"] == 0.5
    assert first["note"] == "größer\nals"
    assert (second["kind"], second["step"]) == ("warning", None)


def test_every_line_is_valid_json_even_when_training_diverges(log: EventLog) -> None:
    log.append("train", step=1, loss=math.nan, norm=math.inf)
    assert json.loads(log.path.read_text(), parse_constant=pytest.fail)["loss"] == "NaN"
    (event,) = log.history()
    assert math.isnan(event["loss"])
    assert event["norm"] == math.inf


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_log_cut_anywhere_reads_as_its_complete_lines_and_is_mended(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = EventLog(tmp_path_factory.mktemp("run") / "events.jsonl")
    for step in range(4):
        log.append("train", step=step)
    raw = log.path.read_bytes()[:cut]
    log.path.write_bytes(raw)
    complete = [("train", step) for step in range(raw.count(b"\n"))]
    assert logged(log) == complete
    log.mend()
    log.append("train", step=9)
    assert logged(log) == [*complete, ("train", 9)]


def test_a_full_disk_leaves_no_half_line(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append("train", step=1)
    before, write = log.path.read_bytes(), os.write

    def full_after_ten_bytes(descriptor: int, data: bytes) -> int:
        if len(data) < 60:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) - 50])

    monkeypatch.setattr(os, "write", full_after_ten_bytes)
    with pytest.raises(RunError, match=r"events.jsonl: No space left on device; free some space"):
        log.append("train", step=2)
    assert log.path.read_bytes() == before


def test_after_a_resume_the_events_past_the_restored_step_no_longer_count(log: EventLog) -> None:
    log.append("started", step=0)
    for step in (1, 2, 3):
        log.append("train", step=step)
    log.append("warning", step=None)
    log.append("resumed", step=1)
    log.append("train", step=2)
    assert logged(log) == [
        ("started", 0),
        ("train", 1),
        ("warning", None),
        ("resumed", 1),
        ("train", 2),
    ]
    assert len(log.history()) == 7


@settings(max_examples=50, deadline=None)
@given(attempts=st.lists(st.tuples(st.sampled_from(["train", "resumed"]), st.integers(0, 5)), max_size=8))
def test_an_event_counts_unless_a_later_resume_went_back_before_it(
    attempts: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = EventLog(tmp_path_factory.mktemp("run") / "events.jsonl")
    for kind, step in attempts:
        log.append(kind, step=step)
    assert logged(log) == [
        (kind, step)
        for place, (kind, step) in enumerate(attempts)
        if not any(later == "resumed" and back_to < step for later, back_to in attempts[place + 1 :])
    ]


def test_time_goes_on_after_a_resume_where_it_stopped(log: EventLog) -> None:
    log.append("train", step=1)
    line = json.loads(log.path.read_text())
    log.path.write_text(json.dumps({**line, "time_s": 1000.0}) + "\n")
    again = EventLog(log.path)
    again.append("train", step=2)
    again.append("train", step=3)
    times = [event["time_s"] for event in log.history()]
    assert times == sorted(times)
    assert 1000.0 <= times[-1] < 1010.0


@pytest.mark.parametrize("line", ["{", "[]", "null", '{"kind": "train"}', '{"kind": "x", "step": "x"}', "\x00"])
def test_a_damaged_line_is_shown_and_not_passed_over(log: EventLog, line: str) -> None:
    log.path.write_text(line + "\n")
    log.append("train", step=1)
    damaged, event = log.counting()
    assert (damaged["kind"], damaged["text"]) == ("damaged", line)
    assert event["step"] == 1


def test_a_reader_can_ask_for_what_is_new(log: EventLog) -> None:
    assert log.since(0) == ([], 0)
    log.append("train", step=1)
    first, offset = log.since(0)
    assert [event["step"] for event in first] == [1]
    assert log.since(offset) == ([], offset)
    log.append("train", step=2)
    assert [event["step"] for event in log.since(offset)[0]] == [2]
