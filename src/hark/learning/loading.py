"""Batches in time: made ahead, in order, under a watchdog that replaces whoever hangs or dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any

from hark.errors import DataStalled
from hark.learning.batching import Batch, Batches
from hark.learning.devices import Machine
from hark.learning.workers import Died, GivenUp, Hangs, InProcess, Maker, answer_of, hire, write_stacks
from hark.record.runs import Run

TRIES = 3
STACKS = "stacks.txt"
SPOILED = "hangs or kills whoever makes a batch with it"


class Loader:
    """Gives the batches of a training in order, come what may; use it as a context manager.

    A batch is a function of its number, so order and bits are the same however many make them and whatever
    becomes of those who do. When one takes longer than it may, all stacks go to the run's `stacks.txt`.
    Workers are replaced when one hangs or has died. At the third try of a batch each of its clips is tried
    alone, twice, and those that never come are put in quarantine: from this batch on, the next clip of their
    class is heard in their place. If none is to blame, or at the third hang in all, this process makes the
    batches itself. Where it does so already nothing can be replaced, and at the third time it gives up.

    Args:
        batches: what is made.
        machine: by how many workers, and how long a batch may take.
        run: for what must be known later: the stacks, and the clips in quarantine.
        warn: is told what went wrong.
    """

    def __init__(self, batches: Batches, machine: Machine, *, run: Run, warn: Callable[[str], None]) -> None:
        known = [event for event in run.events() if event["kind"] == "quarantined"]
        self._batches = replace(batches, quarantine=tuple((event["row"], event["from_batch"]) for event in known))
        self._workers = machine.workers
        self._watchdog_s = machine.watchdog_s
        self._run = run
        self._warn = warn
        self._stacks = run.path(STACKS)
        self._makers: Sequence[Maker] = ()
        self._asked: dict[int, Future[Batch]] = {}
        self._hangs = self._tries = 0
        self._given_up: Callable[[], bool] = lambda: False

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dismiss()

    def stream(self, start: int, stop: int, *, given_up: Callable[[], bool] = lambda: False) -> Iterator[Batch]:
        """The batches `start` to `stop`; it ends early if one does not come before it is given up.

        Raises:
            DataStalled: there is no getting further.
        """
        self._given_up = given_up
        with suppress(GivenUp):
            for number in range(start, stop):
                batch = self._wait_for(number, stop)
                del self._asked[number]
                self._tries = 0
                self._ask_for(number + 1, stop)
                yield batch

    def _wait_for(self, number: int, stop: int) -> Batch:
        while True:
            if not self._makers:
                self._hire()
            self._ask_for(number, stop)
            try:
                batch: Batch = self._answer(self._asked[number])
                return batch
            except (Hangs, Died) as trouble:
                self._recover(number, trouble)

    def _answer(self, future: Future[Any]) -> Any:
        return answer_of(future, self._watchdog_s, given_up=self._given_up)

    def _ask_for(self, number: int, stop: int) -> None:
        """Have each maker make one of the batches from `number` on."""
        for following in range(number, min(stop, number + len(self._makers))):
            if following not in self._asked:
                self._asked[following] = self._makers[following % len(self._makers)].ask((following, None))

    def _hire(self) -> None:
        """Find whoever makes batches: the workers wished for, or this process where they cannot be had."""
        try:
            self._makers = hire(self._batches, self._workers, self._stacks)
        except (Hangs, Died, OSError) as error:
            self._warn(f"data workers cannot be started ({error}): this process makes the batches itself")
            self._workers = 0
        self._makers = self._makers or [InProcess(self._batches)]

    def _dismiss(self) -> None:
        for maker in self._makers:
            maker.end()
        self._makers = ()
        self._asked.clear()
        with suppress(OSError):
            if not self._stacks.stat().st_size:
                self._stacks.unlink()

    def _recover(self, number: int, trouble: Hangs | Died) -> None:
        """Do what may bring the batch nearer: patience, other workers, without some clips, without workers."""
        self._tries += 1
        what = self._what(number, trouble)
        if not self._workers:
            if self._tries == TRIES:
                raise DataStalled(
                    f"{what}, {TRIES} times over; the same command with --workers 1 finds a clip that hangs "
                    "and goes on without it"
                )
            self._warn(what)
            return
        self._dismiss()
        spoiled = self._spoiled_rows(number) if self._tries == TRIES else []
        if spoiled:
            self._quarantine(spoiled, number)
            self._hangs = self._tries = 0
        elif TRIES in (self._tries, self._hangs):
            self._warn(f"{what}, the last of {TRIES} times: from here on this process makes the batches itself")
            self._workers = self._tries = 0
        else:
            self._warn(f"{what}: other workers take over")

    def _what(self, number: int, trouble: Hangs | Died) -> str:
        """What happened, in words; where everybody hangs is written down."""
        if isinstance(trouble, Died):
            return f"a data worker died at batch {number} ({trouble})"
        self._hangs += 1
        what = f"no batch {number} for {self._watchdog_s:g} s"
        write_stacks(self._stacks, self._makers, title=what)
        return f"{what} (where it hangs stands in {self._stacks})"

    def _spoiled_rows(self, number: int) -> list[int]:
        """The rows of a batch whose clips never come, though each is tried alone.

        Raises:
            DataStalled: there are so many that it is not they who are at fault.
        """
        spoiled: list[int] = []
        for place, row in enumerate(self._batches.rows(number).tolist()):
            if row in spoiled or self._comes(number, place) or self._comes(number, place):
                continue
            spoiled.append(row)
            if len(spoiled) == TRIES:
                clips = ", ".join(str(self._batches.task.training.clips[row].path) for row in spoiled)
                raise DataStalled(f"batch {number}: {clips} and perhaps more hang; see whether their disk does")
        return spoiled

    def _comes(self, number: int, place: int) -> bool:
        if not self._makers:
            self._hire()
        try:
            self._answer(self._makers[0].ask((number, place)))
        except (Hangs, Died):
            self._dismiss()
            return False
        return True

    def _quarantine(self, rows: Sequence[int], number: int) -> None:
        """Leave clips out from batch `number` on, in this process and in those that go on after it."""
        for row in rows:
            clip = self._batches.task.training.clips[row].path
            self._run.log("quarantined", step=None, clip=str(clip), row=row, from_batch=number, reason=SPOILED)
            self._warn(f"{clip}: {SPOILED}; in quarantine, others take its place")
        known = (*self._batches.quarantine, *((row, number) for row in rows))
        self._batches = replace(self._batches, quarantine=known)
        self._dismiss()
