"""Who makes batches: a thread of this process, or processes of their own.

A worker shares nothing with anybody, neither queue nor lock nor memory, only a pipe with this process. So it
may hang, stop or die at any moment and harms nobody, batches need no room in /dev/shm, and the end of the one
is the end of the other.

Workers are children of a fork server, a fresh process without threads. A fork of this process would copy
whatever lock another of its threads holds at that moment, never to be released, and the run's own lock.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import IO, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from hark.learning.batching import Batch, Batches

START_LIMIT_S = 120.0
WRITING_S = 0.3
DYING_S = 10.0
GLANCE_S = 0.5
"""How long an answer is awaited before a look whether anybody still wants it."""
WRITE_STACK = signal.SIGUSR2
# The terminal's Ctrl-C and end, and the wish to save, are for the training to answer.
NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

Question: TypeAlias = tuple[int, int | None]
"""The number of a batch, and the place of one clip in it, or None for the batch."""


class _Layout(NamedTuple):
    """What precedes the arrays of a batch: shape and type of each."""

    past_frames: int
    columns: list[tuple[tuple[int, ...], str]]


class Hangs(Exception):
    """There is no answer yet."""


class Died(Exception):
    """There will be no answer; the message says of what the worker died."""


class GivenUp(Exception):
    """Nobody waits for the answer any more."""


class Maker(Protocol):
    """Answers one question at a time."""

    def ask(self, question: Question) -> Future[Any]:
        """What will be the batch, or the clip; it raises `Died` or whatever went wrong in the making."""

    def write_stack(self, file: IO[str]) -> None:
        """Append where it is to a file that is open for appending."""

    def end(self) -> None:
        """Let go of it, whatever it is doing."""


class InProcess:
    """A thread for each question. One that hangs cannot be ended, but does not keep the process from ending."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def ask(self, question: Question) -> Future[Any]:
        """See `Maker`."""
        return _in_thread(_make, self.batches, question)

    def write_stack(self, file: IO[str]) -> None:
        """See `Maker`; it stands among those of this process."""

    def end(self) -> None:
        """See `Maker`."""


class Worker:
    """A process with batches of its own copy of the data.

    Args:
        batches: what it makes.
        stacks: where it writes its stack when asked to.
    """

    def __init__(self, batches: Batches, stacks: Path) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload([__name__])  # so torch is loaded once, not by each worker
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, batches, stacks), name="batches", daemon=True)
        self.process.start()
        theirs.close()
        self.ready = _in_thread(self._receive)

    def ask(self, question: Question) -> Future[Any]:
        """See `Maker`."""
        return _in_thread(self._exchange, question)

    def write_stack(self, file: IO[str]) -> None:
        """See `Maker`; a stopped process is set going for it."""
        pid = self.process.pid
        if pid is not None and self.process.is_alive():
            print(f"worker {pid}:", file=file, flush=True)
            os.kill(pid, WRITE_STACK)
            os.kill(pid, signal.SIGCONT)
            time.sleep(WRITING_S)

    def end(self) -> None:
        """See `Maker`: it has nothing that could be lost."""
        self.process.kill()

    def _exchange(self, question: Question) -> Any:
        with suppress(OSError):  # if it is dead, receiving says of what
            self._pipe.send(question)
        return self._receive()

    def _receive(self) -> Any:
        try:
            answer = _receive(self._pipe)
        except (EOFError, OSError):
            self.process.join(DYING_S)
            code = self.process.exitcode
            raise Died(signal.Signals(-code).name if code and code < 0 else f"exit code {code}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def hire(batches: Batches, count: int, stacks: Path) -> list[Worker]:
    """Start workers, and return when all are ready.

    Raises:
        Died, Hangs, OSError: one cannot be started; none is left.
    """
    workers: list[Worker] = []
    try:
        for _ in range(count):
            workers.append(Worker(batches, stacks))
        for worker in workers:
            answer_of(worker.ready, START_LIMIT_S)
    except BaseException:
        for worker in workers:
            worker.end()
        raise
    return workers


def answer_of(future: Future[Any], limit_s: float, *, given_up: Callable[[], bool] = lambda: False) -> Any:
    """The answer to a question.

    Raises:
        Hangs: it has not come within `limit_s`.
        GivenUp: it has not come before `given_up`, which is asked now and then, has said so.
    """
    begun = time.monotonic()
    while (left_s := begun + limit_s - time.monotonic()) > 0:
        done, _ = wait([future], min(left_s, GLANCE_S))
        if done:
            return future.result()
        if given_up():
            raise GivenUp
    raise Hangs(f"no answer within {limit_s:g} s")


def write_stacks(path: Path, makers: Sequence[Maker], *, title: str) -> None:
    """Append to a file where all threads of this process and all makers are."""
    with suppress(OSError), path.open("a") as file:  # without room for it, the rest goes on
        print(f"{title}\nprocess {os.getpid()}:", file=file, flush=True)
        faulthandler.dump_traceback(file)
        for maker in makers:
            maker.write_stack(file)


def _in_thread(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Call a function in a thread that, unlike an executor's, nobody waits for when the process ends."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    Thread(target=call, name="batches", daemon=True).start()
    return future


def _make(batches: Batches, question: Question) -> Any:
    number, place = question
    return batches.make(number) if place is None else batches.clip(number, place)


def _work(pipe: Connection, batches: Batches, stacks: Path) -> None:
    """The life of a worker."""
    for number in NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)
    faulthandler.register(WRITE_STACK, stacks.open("a"))
    Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        pipe.send(None)
        while True:
            question = pipe.recv()
            try:
                answer = _make(batches, question)
            except Exception as error:
                error.add_note(f"in a data worker:\n{traceback.format_exc()}")
                answer = error
            _send(pipe, answer)


def _send(pipe: Connection, answer: Any) -> None:
    """Send an answer, the arrays of a batch as they lie in memory: pickled, they would be copied thrice more."""
    if not isinstance(answer, Batch):
        pipe.send(answer)
        return
    past_frames, *columns = answer.as_arrays()
    pipe.send(_Layout(past_frames, [(column.shape, column.dtype.str) for column in columns]))
    for column in columns:
        rest = np.ascontiguousarray(column).data.cast("B")
        while rest:
            rest = rest[os.write(pipe.fileno(), rest) :]


def _receive(pipe: Connection) -> Any:
    """Receive what `_send` has sent.

    Raises:
        EOFError, OSError: the other end is gone.
    """
    answer = pipe.recv()
    if not isinstance(answer, _Layout):
        return answer
    columns = [np.empty(shape, dtype) for shape, dtype in answer.columns]
    for column in columns:
        rest = column.data.cast("B")
        while rest:
            taken = os.readv(pipe.fileno(), [rest])
            if not taken:
                raise EOFError
            rest = rest[taken:]
    return Batch.from_arrays(answer.past_frames, *columns)


def _end_with_parent() -> None:
    """Even in the midst of something that never ends."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
