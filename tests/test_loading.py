"""Loading: order and bits are the same whoever makes the batches, and nothing that befalls them lasts for ever."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from data_workers import data_workers, require_no_workers
from faulty_sound import faulty
from hark.errors import DataStalled, UsageError
from hark.learning import workers as workers_module
from hark.learning.batching import Batch, Batches, Variation
from hark.learning.dataset import Task
from hark.learning.devices import Machine
from hark.learning.loading import STACKS, Loader
from hark.network.features import LogMelConfig
from hark.record.runs import Run

NewRun = Callable[[str], Run]

PATIENT, IMPATIENT = 60.0, 0.5
pytestmark = pytest.mark.usefixtures("fair_watchdog")


def batches(task: Task, variation: Variation | None = None) -> Batches:
    """Three batches an epoch."""
    return Batches(task, variation or Variation(), LogMelConfig(), 16, 3)


def digest(batch: Batch) -> str:
    """What a batch holds, to the last bit."""
    sha = hashlib.sha256(str(batch.past_frames).encode())
    for tensor in (batch.waveforms, batch.targets, batch.masks):
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()


class Loading:
    """One loading: what came, and what was said."""

    def __init__(self, run: Run, data: Batches, *, workers: int, watchdog_s: float = PATIENT) -> None:
        self.run = run
        self.data = data
        self.machine = Machine(workers=workers, watchdog_s=watchdog_s)
        self.warnings: list[str] = []

    def digests(
        self, start: int, stop: int, *, before_each: Callable[[int], None] = lambda number: None
    ) -> list[str]:
        """The digests of the batches; `before_each` is called with the number of each that is now asked for."""
        came = []
        with Loader(self.data, self.machine, run=self.run, warn=self.warnings.append) as loader:
            stream = loader.stream(start, stop)
            for number in range(start, stop):
                before_each(number)
                came.append(digest(next(stream)))
        return came


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_and_bits_are_the_same_for_any_number_of_workers(
    tiny_task: Task, new_run: NewRun, workers: int
) -> None:
    loading = Loading(new_run("a"), batches(tiny_task), workers=workers)
    expected = [digest(batches(tiny_task).make(number)) for number in range(2, 9)]
    assert loading.digests(2, 9) == expected
    assert loading.digests(5, 6) == expected[3:4]
    assert loading.warnings == []
    assert loading.digests(4, 4) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_left_behind(tiny_task: Task, new_run: NewRun, workers: int) -> None:
    """Neither by a loading that came to its end, nor by one that was broken off."""
    run = new_run("a")
    before = {path.name for path in run.folder.iterdir()}
    loading = Loading(run, batches(tiny_task), workers=workers)
    loading.digests(0, 3)

    def break_off_at_1(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loading.digests(0, 3, before_each=break_off_at_1)
    require_no_workers()
    assert {path.name for path in run.folder.iterdir()} == before


@pytest.mark.fault("P5")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_that_does_not_come_is_not_awaited_when_it_is_no_longer_wanted(
    tiny_task: Task, new_run: NewRun, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The watchdog would wait for a minute, and then be patient."""
    monkeypatch.setattr(workers_module, "GLANCE_S", 0.01)
    asked = iter([False] * 5)
    data = batches(faulty(tiny_task, hangs=tuple(range(40))))
    with Loader(data, Machine(workers=workers), run=new_run("a"), warn=pytest.fail) as loader:
        assert list(loader.stream(0, 3, given_up=lambda: next(asked, True))) == []
    assert next(asked, None) is None
    require_no_workers()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_the_making_ends_the_loading(tiny_task: Task, new_run: NewRun, workers: int) -> None:
    noiseless = batches(replace(tiny_task, noises=()), Variation(policy="reference"))
    with pytest.raises(UsageError, match="no background recordings"):
        Loading(new_run("a"), noiseless, workers=workers).digests(0, 3)


def test_without_workers_a_batch_that_never_comes_is_told_twice_and_ends_the_loading_then(
    tiny_task: Task, new_run: NewRun
) -> None:
    run, data = new_run("a"), batches(faulty(tiny_task, hangs=tuple(range(40))))
    loading = Loading(run, data, workers=0, watchdog_s=0.05)
    with pytest.raises(
        DataStalled, match=r"no batch 0 for 0\.05 s .* 3 times over; the same command with --workers 1"
    ):
        loading.digests(0, 3)
    assert loading.warnings == [f"no batch 0 for 0.05 s (where it hangs stands in {run.path(STACKS)})"] * 2
    written = run.path(STACKS).read_text().split("no batch 0 for 0.05 s\n")[1:]
    assert ["faulty_sound.py" in stacks for stacks in written] == [True] * 3


def test_a_worker_that_stops_is_replaced_and_its_stack_written(tiny_task: Task, new_run: NewRun) -> None:
    run = new_run("a")
    loading = Loading(run, batches(tiny_task), workers=2, watchdog_s=IMPATIENT)

    def stop_one(number: int) -> None:
        if number == 2:
            os.kill(data_workers()[0], signal.SIGSTOP)

    expected = [digest(batches(tiny_task).make(number)) for number in range(8)]
    assert loading.digests(0, 8, before_each=stop_one) == expected
    (warning,) = loading.warnings
    assert "for 0.5 s (where it hangs stands in " in warning
    assert warning.endswith("): other workers take over")
    assert run.path(STACKS).read_text().count("worker ") == 2


def test_workers_that_die_again_and_again_are_replaced_as_often(tiny_task: Task, new_run: NewRun) -> None:
    loading = Loading(new_run("a"), batches(tiny_task), workers=2)

    def kill_all(number: int) -> None:
        if number in (1, 4, 7, 10, 13):
            for pid in data_workers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    expected = [digest(batches(tiny_task).make(number)) for number in range(16)]
    assert loading.digests(0, 16, before_each=kill_all) == expected
    assert len(loading.warnings) == 5
    for warning in loading.warnings:
        assert warning.startswith("a data worker died at batch ")
        assert warning.endswith(" (SIGKILL): other workers take over")


def test_after_the_third_hang_there_are_no_more_workers(tiny_task: Task, new_run: NewRun) -> None:
    loading = Loading(new_run("a"), batches(tiny_task), workers=1, watchdog_s=IMPATIENT)

    def stop_all(number: int) -> None:
        for pid in data_workers():
            with suppress(ProcessLookupError):  # it may be one that is just leaving
                os.kill(pid, signal.SIGSTOP)

    expected = [digest(batches(tiny_task).make(number)) for number in range(8)]
    assert loading.digests(0, 8, before_each=stop_all) == expected
    assert [warning.rpartition(": ")[2] for warning in loading.warnings] == [
        "other workers take over",
        "other workers take over",
        "from here on this process makes the batches itself",
    ]
    assert "the last of 3 times" in loading.warnings[-1]


def test_a_clip_that_kills_is_put_in_quarantine_and_others_take_its_place(
    tiny_task: Task, new_run: NewRun
) -> None:
    """What goes on from there knows it; that a clip which hangs fares alike is shown with a whole training."""
    run, row = new_run("a"), 7
    data = batches(faulty(tiny_task, kills=(row,)))
    first = next(number for number in range(99) if row in data.rows(number))
    without = replace(batches(tiny_task), quarantine=((row, first),))
    loading = Loading(run, data, workers=2)
    assert loading.digests(0, first + 4) == [digest(without.make(number)) for number in range(first + 4)]
    (event,) = [event for event in run.events() if event["kind"] == "quarantined"]
    clip = str(tiny_task.training.clips[row].path)
    assert (event["clip"], event["row"], event["from_batch"]) == (clip, row, first)
    assert [clip in warning for warning in loading.warnings] == [False, False, True]

    again = Loading(run, batches(faulty(tiny_task, hangs=(row,))), workers=0)
    assert again.digests(first, first + 2) == [digest(without.make(number)) for number in (first, first + 1)]
    assert again.warnings == []


def test_many_clips_that_never_come_are_not_the_clips_fault(tiny_task: Task, new_run: NewRun) -> None:
    run, data = new_run("a"), batches(faulty(tiny_task, hangs=tuple(range(40))))
    clips = [str(tiny_task.training.clips[row].path) for row in data.rows(0)]
    with pytest.raises(DataStalled, match="perhaps more hang; see whether their disk does") as caught:
        Loading(run, data, workers=1, watchdog_s=0.2).digests(0, 3)
    assert sum(clip in str(caught.value) for clip in dict.fromkeys(clips)) == 3
    assert not [event for event in run.events() if event["kind"] == "quarantined"]


def test_workers_that_cannot_be_started_are_done_without(
    tiny_task: Task, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hark.learning.workers.Worker", refuse)
    loading = Loading(new_run("a"), batches(tiny_task), workers=2)
    assert loading.digests(0, 3) == [digest(batches(tiny_task).make(number)) for number in range(3)]
    (warning,) = loading.warnings
    assert warning.startswith("data workers cannot be started ([Errno 28] No space left on device)")

    hanging = batches(faulty(tiny_task, hangs=tuple(range(40))))
    with pytest.raises(DataStalled, match=r"no batch 0 for 0\.05 s"):
        Loading(new_run("b"), hanging, workers=2, watchdog_s=0.05).digests(0, 3)
