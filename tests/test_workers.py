"""Workers: the same batches from another process, which may die at any moment and never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hark.errors import UsageError
from hark.learning import workers
from hark.learning.batching import Batches, Variation
from hark.learning.dataset import Source, Task
from hark.learning.workers import Died, Hangs, InProcess, Maker, Worker, answer_of, hire, write_stacks
from hark.network.features import LogMelConfig

LIMIT_S = 60.0


@pytest.fixture
def batches(tiny_task: Task) -> Batches:
    return Batches(tiny_task, Variation(), LogMelConfig(), 16, 3)


@contextmanager
def hired(batches: Batches, tmp_path: Path, count: int = 1) -> Iterator[list[Worker]]:
    found = hire(batches, count, tmp_path / "stacks.txt")
    try:
        yield found
    finally:
        for worker in found:
            worker.end()


def test_a_worker_makes_the_very_batches_and_clips_of_this_process(batches: Batches, tmp_path: Path) -> None:
    with hired(batches, tmp_path) as (worker,):
        for number in (7, 2, 11):
            batch, expected = answer_of(worker.ask((number, None)), LIMIT_S), batches.make(number)
            assert batch.past_frames == expected.past_frames
            assert torch.equal(batch.waveforms, expected.waveforms)
            assert torch.equal(batch.targets, expected.targets)
            assert torch.equal(batch.masks, expected.masks)
        clip = answer_of(worker.ask((7, 3)), LIMIT_S)
        past = batches.make(7).past_frames * LogMelConfig().hop_length
        assert np.array_equal(clip, batches.make(7).waveforms[3, past:].numpy())


@pytest.mark.parametrize("kind", ["thread", "worker"])
def test_what_goes_wrong_in_the_making_reaches_who_asked_and_the_maker_goes_on(
    tiny_task: Task, tmp_path: Path, kind: str
) -> None:
    noiseless = Batches(replace(tiny_task, noises=()), Variation(policy="reference"), LogMelConfig(), 16, 0)
    with hired(noiseless, tmp_path) as (worker,):
        maker: Maker = worker if kind == "worker" else InProcess(noiseless)
        for _ in range(2):
            with pytest.raises(UsageError, match="no background recordings") as caught:
                answer_of(maker.ask((0, None)), LIMIT_S)
        notes = "".join(getattr(caught.value, "__notes__", []))
        assert ("in reference_augmentation" in notes) == (kind == "worker"), (
            "where it was is told across processes"
        )


def test_a_worker_that_is_killed_answers_with_the_signal(batches: Batches, tmp_path: Path) -> None:
    with hired(batches, tmp_path) as (worker,):
        os.kill(pid(worker), signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(Died, match="SIGKILL"):
                answer_of(worker.ask((0, None)), LIMIT_S)


def test_a_worker_that_cannot_begin_is_an_error(batches: Batches, tmp_path: Path) -> None:
    with pytest.raises(Died, match="exit code 1"):
        hire(batches, 2, tmp_path / "no such folder" / "stacks.txt")


def test_if_one_cannot_be_started_none_is_left(
    batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Worker] = []

    def start(*arguments: Any) -> Worker:
        if started:
            raise OSError(11, "Resource temporarily unavailable")
        started.append(Worker(*arguments))
        return started[0]

    monkeypatch.setattr(workers, "Worker", start)
    with pytest.raises(OSError, match="temporarily unavailable"):
        hire(batches, 2, tmp_path / "stacks.txt")
    started[0].process.join(LIMIT_S)
    # 255 is what the fork server says of a child that was killed before it was told of it.
    assert started[0].process.exitcode in (-signal.SIGKILL, 255)


def test_workers_leave_the_signals_of_the_terminal_to_the_training(batches: Batches, tmp_path: Path) -> None:
    with hired(batches, tmp_path) as (worker,):
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(pid(worker), number)
        assert len(answer_of(worker.ask((0, None)), LIMIT_S)) == 16


def test_the_stacks_of_all_are_written_even_of_a_stopped_one(
    batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks = tmp_path / "stacks.txt"

    def give_time_to_write(_: float) -> None:
        wait_until(lambda: "in _work\n" in stacks.read_text().rpartition("worker ")[2])

    monkeypatch.setattr(workers, "time", SimpleNamespace(sleep=give_time_to_write, monotonic=time.monotonic))
    with hired(batches, tmp_path, 2) as both:
        os.kill(pid(both[0]), signal.SIGSTOP)
        with pytest.raises(Hangs, match=r"no answer within 0\.2 s"):
            answer_of(both[0].ask((0, None)), 0.2)
        write_stacks(stacks, both, title="nobody knows why")
    text = stacks.read_text()
    title, ours, *theirs = text.split("process ")[0], *text.replace("worker ", "process ").split("process ")[1:]
    assert title == "nobody knows why\n"
    assert ours.startswith(f"{os.getpid()}:") and "test_the_stacks_of_all" in ours
    for worker, told in zip(both, theirs, strict=True):
        assert told.startswith(f"{pid(worker)}:") and "in _work\n" in told


ENDLESS = """
import sys, time
from pathlib import Path
from hark.learning.batching import Batches, Variation
from hark.learning.dataset import Source, load_task
from hark.network.features import LogMelConfig
from hark.learning.workers import InProcess, hire

class Endless(Batches):
    def make(self, number):
        time.sleep(3600)

if __name__ == "__main__":
    root, cache, folder = map(Path, sys.argv[1:])
    task = load_task(Source(root=root, keyword="beep", cache=cache, folds=2), fold=0)
    batches = Endless(task, Variation(), LogMelConfig(), 16, 3)
    idle, busy = hire(batches, 2, folder / "stacks.txt")
    for maker in (busy, InProcess(batches)):
        maker.ask((0, None))
    print(idle.process.pid, busy.process.pid, flush=True)
    sys.stdin.read()
    idle.end()
    busy.end()
"""


@pytest.mark.parametrize("killed", [False, True], ids=["ended", "killed"])
def test_the_end_of_a_process_is_the_end_of_whoever_makes_its_batches(
    tiny_source: Source, tmp_path: Path, killed: bool
) -> None:
    """Also in the midst of something that never ends, in a worker or in a thread."""
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    command = [sys.executable, script, tiny_source.root, tiny_source.cache, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin and parent.stdout
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        if killed:
            parent.kill()
        parent.stdin.close()
        parent.wait(LIMIT_S)
    wait_until(lambda: not any(is_at_work(number) for number in pids))


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when something has come about."""
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "it has not come about"
        time.sleep(0.02)


def is_at_work(number: int) -> bool:
    """Whether the process is there and more than a zombie that nobody has buried."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pid(worker: Worker) -> int:
    number = worker.process.pid
    assert number is not None
    return number
