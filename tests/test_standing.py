"""What trackers have of a run is computed from what they confirmed and from the log, and never believed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hark.record import standing
from hark.record.locking import held
from hark.record.runs import Run
from hark.record.standing import Standing, Tail, note, standings


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path, "base", about={"kind": "train"})


def train(run: Run, *, steps: int = 5) -> None:
    run.log("began", step=0)
    for step in range(1, steps + 1):
        run.log("train", step=step, loss=1 / step)


def only(run: Run) -> Standing:
    """What the only tracker has."""
    (found,) = standings(run)
    return found


def test_a_run_without_trackers_has_none(run: Run) -> None:
    assert standings(run) == []


def test_what_is_not_confirmed_is_lost_and_what_is_no_metric_is_not_counted(run: Run) -> None:
    run.path("trackers").mkdir()
    train(run)
    note(run, "wandb", confirmed=2, reason="OSError: no such host")
    found = only(run)
    assert (found.events, found.confirmed, found.lost) == (5, 2, 3)
    assert str(found) == (
        "wandb lost up to 3 of 5 events (OSError: no such host); "
        f"replay with: hark track push {run.folder} --to wandb"
    )


def test_nothing_is_lost_where_all_is_confirmed_and_events_that_come_later_are(run: Run) -> None:
    run.path("trackers").mkdir()
    train(run)
    note(run, "wandb", confirmed=5)
    assert (only(run).lost, str(only(run))) == (0, "wandb has all 5 events")
    run.log("train", step=6, loss=0.0)
    assert only(run).lost == 1


def test_nothing_is_lost_as_long_as_a_process_feeds_the_tracker(run: Run) -> None:
    run.path("trackers").mkdir()
    train(run)
    note(run, "wandb", confirmed=2)
    with held(standing.lock(run, "wandb")):
        assert only(run).lost == 0
        assert str(only(run)).startswith("wandb has 2 of 5 events for certain; process ")
    assert only(run).lost == 3


@pytest.mark.parametrize(
    "damaged", ["", "{", "[]", '"x"', '{"confirmed": "x", "reason": ["\\u001b[2J"], "url": {"\\u001b": 1}}']
)
def test_a_damaged_note_confirms_nothing_and_does_nothing_to_a_terminal(run: Run, damaged: str) -> None:
    run.path("trackers").mkdir()
    train(run)
    run.path("trackers/wandb.json").write_text(damaged)
    run.path("trackers/\x1b[2J.json").write_text("{}")
    assert (only(run).lost, f"{only(run)}{only(run).url}".isprintable()) == (5, True)


def test_a_tracker_that_could_not_even_leave_a_note_is_not_forgotten(run: Run) -> None:
    run.path("trackers").mkdir()
    train(run)
    run.path("trackers/wandb.log").touch()
    assert str(only(run)).startswith(f"wandb lost up to 5 of 5 events (ended without a word, see {run.folder}/")


def test_a_note_changes_what_it_names_and_keeps_the_rest(run: Run) -> None:
    run.path("trackers").mkdir()
    note(run, "wandb", confirmed=2, url="https://example.org")
    note(run, "wandb", confirmed=3)
    assert (only(run).confirmed, only(run).url) == (3, "https://example.org")


def test_the_command_that_replays_can_be_pasted_whatever_the_folder_is_called(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "my run; rm x", about={"kind": "train"})
    assert standing.replay_command(run, "wandb") == f"hark track push '{run.folder}' --to wandb"


@given(read_bytes=st.integers(1, 2000), steps=st.lists(st.integers(0, 20), max_size=4))
def test_a_tail_gives_each_event_once_in_order_whatever_it_reads_at_a_time(
    tmp_path_factory: pytest.TempPathFactory, read_bytes: int, steps: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standing, "_READ_BYTES", read_bytes)
        run = Run.create(tmp_path_factory.mktemp("runs"), "base", about={"kind": "train"})
        tail, read = Tail(run), list[float]()
        for number in steps:
            train(run, steps=number)
            read += [event["step"] for events in tail.news() for event in events]
            assert list(tail.news()) == []
    assert read == [step for number in steps for step in range(1, number + 1)]


def test_a_look_at_the_log_reads_only_what_is_new(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else looking twice a second at a log of a million events would be all that a core can do."""
    since, read = run.event_log.since, list[int]()

    def watched(offset: int, *, about_bytes: int) -> tuple[list[object], int]:
        events, end = since(offset, about_bytes=about_bytes)
        read.append(end - offset)
        return events, end

    train(run, steps=1000)
    monkeypatch.setattr(run.event_log, "since", watched)
    tail = Tail(run)
    assert sum(len(events) for events in tail.news()) == 1000
    before = sum(read)
    run.log("train", step=1001, loss=0.0)
    assert [len(events) for events in tail.news()] == [1]
    assert sum(read) - before == len(run.path("events.jsonl").read_bytes().splitlines(keepends=True)[-1])
