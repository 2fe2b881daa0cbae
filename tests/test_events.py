"""The event log: the truth about a run, whole lines only, and time that never goes back."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hark.errors import DiskFull, RunError
from hark.record.events import EventLog
from peak_memory import allocating_at_most


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


def failing_late(number: int) -> Callable[[int, bytes], int]:
    """An `os.write` that takes all but the last 50 bytes, and then fails."""
    write = os.write

    def fail(descriptor: int, data: bytes) -> int:
        if len(data) <= 50:
            raise OSError(number, os.strerror(number))
        return write(descriptor, data[: len(data) - 50])

    return fail


@pytest.mark.fault("F4")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_on_a_full_disk_events_wait_and_are_written_in_order_when_there_is_space(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    log.append("train", step=1)
    before = log.path.read_bytes()
    with monkeypatch.context() as full:
        full.setattr(os, "write", failing_late(number))
        for step in (2, 3):
            log.append("train", step=step)
        with pytest.raises(DiskFull, match=r"events.jsonl: .*; free some"):
            log.flush()
        assert log.path.read_bytes() == before
    log.append("train", step=4)
    log.append("train", step=5)
    log.flush()
    assert logged(log) == [("train", step) for step in (1, 2, 3, 4, 5)]


@pytest.mark.fault("F5")
def test_any_other_failure_is_an_error_that_leaves_no_half_line(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("train", step=1)
    before = log.path.read_bytes()
    monkeypatch.setattr(os, "write", failing_late(errno.EIO))
    with pytest.raises(RunError, match=r"events.jsonl: Input/output error; check the disk"):
        log.append("train", step=2)
    assert log.path.read_bytes() == before


def test_what_was_flushed_is_on_the_disk(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.flush()
    log.append("train", step=1)
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), fsync(descriptor))
    )
    log.flush()
    assert synced == [log.path.stat().st_ino]


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


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "null", '{"kind": "train"}', '{"kind": "x", "step": "x"}', "\x00", '{"kind": 1, "step": 1}',
     '{"kind": "x", "step": -1}', '{"kind": "x", "step": true}', '{"kind": "x", "step": 1.5}',
     '{"kind": "x", "step": 1, "time_s": null}', '{"kind": "x", "step": 1, "time_s": "Infinity"}',
     '{"kind": "x", "step": 1, "time_s": 1' + "0" * 400 + "}"],
)  # fmt: skip
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


def test_a_reader_can_take_a_long_log_in_pieces(log: EventLog) -> None:
    for step in range(100):
        log.append("train", step=step)
    with log.path.open("a") as file:
        file.write('{"kind": "train", "st')  # still being written
    read, offset = list[int | None](), 0
    for _ in range(100):
        events, offset = log.since(offset, about_bytes=1000)
        read += [event["step"] for event in events]
        assert len(events) < 20
    assert read == list(range(100))


def test_a_line_that_nobody_can_have_meant_takes_no_memory_and_hides_no_other(log: EventLog) -> None:
    with log.path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(0, 2)
        file.write(b"\n")
    with allocating_at_most(16 << 20):
        log.append("train", step=1)
        damaged, event = log.counting()
    assert damaged["kind"] == "damaged"
    assert len(damaged["text"]) <= 1000
    assert event["step"] == 1
    size = log.path.stat().st_size
    with log.path.open("ab") as file:
        file.truncate(size + (64 << 20))
    with allocating_at_most(16 << 20):
        log.mend()
    assert log.path.stat().st_size == size


def test_a_log_of_many_resumes_is_read_in_one_pass(log: EventLog) -> None:
    """Each went through all events before it: 100,000 of them took minutes."""
    lines = (f'{{"kind": "resumed", "step": {step}}}\n' for step in range(100_000))
    log.path.write_text("".join(lines))
    assert len(log.counting()) == 100_000
