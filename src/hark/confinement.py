"""Work on what may be hostile, done by a helper process that can crash, hang or run out of memory alone.

The near end holds a `Helper`; the far end is a module of hark that ends with

    if __name__ == "__main__":
        serve(_answer, LIMITS)

A helper is a fresh interpreter, `python -P -m hark.<module>`: it inherits no lock and no thread, and forks
nothing of this process. It starts with the first question. Whatever ends it, the next question starts another.

Both ends speak in frames, one answer to each question: two lengths in a fixed header, JSON, raw bytes. Nothing
is ever unpickled.

    ┌──────────────┬───────────────┬───────────┬────────────┐
    │ uint32, JSON │ uint64, bytes │ JSON      │ raw bytes  │   little-endian
    └──────────────┴───────────────┴───────────┴────────────┘
"""

from __future__ import annotations

import json
import math
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, Literal, TypeAlias

from hark.errors import HarkError

START_S, DYING_S = 60.0, 10.0
LONGEST_JSON_BYTES = 1 << 16
LONGEST_ERROR = 4096
LONGEST_COMPLAINT_BYTES = 1 << 20
_HEADER = struct.Struct("<IQ")

Module: TypeAlias = Literal["hark.sound.decoding", "hark.sound._espeak", "hark.storage.importing"]
"""The far ends that there are: what runs is never named by data."""

Answer: TypeAlias = tuple[Mapping[str, Any], bytes | memoryview]
"""JSON and raw bytes."""


@dataclass(frozen=True)
class Limits:
    """What a helper may take.

    Attributes:
        memory_bytes: address space, libraries included; what would need more gets a `MemoryError`.
        answer_s: for each answer; a helper that takes longer is killed.
        answer_bytes: raw bytes of each answer.
    """

    memory_bytes: int
    answer_s: float
    answer_bytes: int


class HelperError(Exception):
    """There is no answer; the message says why, to stand after "cannot be read: ". For hark to translate."""


class HelperRefused(HelperError):
    """The helper has said why not, and is well: the same question would get the same answer."""


class HelperLost(HelperError):
    """The helper crashed, hung or spoke nonsense, and is gone; the next question starts another."""


class Helper:
    """The near end. Questions of several threads come one after the other."""

    def __init__(self, module: Module, limits: Limits) -> None:
        self._command = (sys.executable, "-P", "-m", module)  # -P: no module of the current folder comes first
        self._limits = limits
        self._lock = threading.Lock()
        self._running: _Process | None = None

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the helper; it holds nothing that could be lost, and another question starts another."""
        if self._running is not None:
            self._running.end()
            self._running = None

    def ask(
        self, question: Mapping[str, object], *, within_s: float | None = None
    ) -> tuple[dict[str, Any], bytearray]:
        """Ask, and wait for the answer: its JSON and its raw bytes.

        Args:
            question: What JSON can say, in at most 64 KiB.
            within_s: How long to wait, if not as long as the limits allow.

        Raises:
            HelperRefused, HelperLost: There is no answer, and why.
            HarkError: The helper cannot even be started, which is not the question's fault.
        """
        framed = _framed(question)
        if len(framed) > LONGEST_JSON_BYTES:
            raise HelperRefused(f"{len(framed)} bytes of question, expected at most {LONGEST_JSON_BYTES}")
        limit_s = self._limits.answer_s if within_s is None else min(within_s, self._limits.answer_s)
        with self._lock:
            if self._running is None:
                self._running = _Process(self._command)
            try:
                told, raw = self._running.exchange(framed, max(0.0, limit_s), self._limits.answer_bytes)
            except BaseException:  # an interruption too would leave an answer that nobody expects
                self.close()
                raise
        if "error" in told:
            raise HelperRefused(str(told["error"]))
        return told, raw


def serve(answer: Callable[[dict[str, Any]], Answer], limits: Limits) -> None:
    """The far end: answer each question until the near end closes the pipe or dies.

    Args:
        answer: From a question to its answer; a `HarkError` or `MemoryError` is told to the near end, any
            other exception ends the helper.
        limits: Set before the first question is read, and for whatever this process starts.
    """
    _confine(limits)
    # A copy of the output of its own, so that nothing a library prints can come between two answers.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _write(output, {})
    while (question := _read_question(sys.stdin.buffer)) is not None:
        # The near end kills in time; should it have been killed itself, no orphan works on for ever.
        signal.alarm(math.ceil(limits.answer_s) + 1)
        try:
            told, raw = answer(question)
        except HarkError as error:
            told, raw = {"error": str(error)[:LONGEST_ERROR]}, b""
        except MemoryError:
            told, raw = {"error": f"takes more than {limits.memory_bytes >> 20} MiB of memory"}, b""
        signal.alarm(0)
        _write(output, told, raw)


def _confine(limits: Limits) -> None:
    """Take from this process what it does not need."""
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, LONGEST_COMPLAINT_BYTES),  # it writes no file but its complaints
        (resource.RLIMIT_AS, limits.memory_bytes),
    ):
        with suppress(ValueError, OSError):  # macOS knows no limit of address space
            resource.setrlimit(kind, (most, most))


def _read_question(questions: BinaryIO) -> dict[str, Any] | None:
    header = questions.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    length, _ = _HEADER.unpack(header)
    question: dict[str, Any] = json.loads(questions.read(length))
    return question


def _write(output: BinaryIO, told: Mapping[str, Any], raw: bytes | memoryview = b"") -> None:
    output.write(_framed(told, len(raw)))
    output.write(raw)
    output.flush()


def _framed(told: Mapping[str, object], raw_bytes: int = 0) -> bytes:
    text = json.dumps(told).encode()
    return _HEADER.pack(len(text), raw_bytes) + text


class _Process:
    """One life of a helper."""

    def __init__(self, command: tuple[str, ...]) -> None:
        complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `_end`)
        # Threads of a BLAS would reserve address space, and there is nothing for them to do.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            # A session of its own: Ctrl-C is not for it, and it can be killed with all that it starts.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                bufsize=0,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            complaints.close()
            raise HarkError(f"{command[0]}: the helper cannot be started ({error.strerror})") from None
        self._complaints = complaints
        # Also when nobody calls `end`: with the last reference, or when this process exits.
        self.end = weakref.finalize(self, _end, self._process, complaints, os.getpid())
        try:
            self._receive(time.monotonic() + START_S, 0)
        except (HelperLost, TimeoutError) as error:
            self.end()
            why = str(error) or f"said nothing within {START_S:g} s"
            raise HarkError(f"the helper {command[-1]} cannot be started, it {why}; install hark anew") from None

    def exchange(self, framed: bytes, limit_s: float, most_bytes: int) -> tuple[dict[str, Any], bytearray]:
        """One question, one answer; after any exception something may be on its way, and `end` is due."""
        deadline_s = time.monotonic() + limit_s
        try:
            self._send(framed, deadline_s)
            return self._receive(deadline_s, most_bytes)
        except TimeoutError:
            raise HelperLost(f"gave no answer within {limit_s:.3g} s") from None

    def _send(self, framed: bytes, deadline_s: float) -> None:
        rest = memoryview(framed)
        with suppress(BrokenPipeError):  # it is dead: `_receive` says of what
            while rest:
                pipe = _ready(self._process.stdin, select.POLLOUT, deadline_s)
                rest = rest[os.write(pipe, rest[: select.PIPE_BUF]) :]

    def _receive(self, deadline_s: float, most_bytes: int) -> tuple[dict[str, Any], bytearray]:
        length, raw_bytes = _HEADER.unpack(self._read(_HEADER.size, deadline_s))
        if length > LONGEST_JSON_BYTES or raw_bytes > most_bytes:
            raise HelperLost("answered nonsense")
        try:
            told = dict(json.loads(self._read(length, deadline_s)))
        except (ValueError, TypeError, RecursionError):
            raise HelperLost("answered nonsense") from None
        return told, self._read(raw_bytes, deadline_s)

    def _read(self, count: int, deadline_s: float) -> bytearray:
        content = bytearray(count)
        rest = memoryview(content)
        while rest:
            pipe = _ready(self._process.stdout, select.POLLIN, deadline_s)
            taken = os.readv(pipe, [rest])
            if not taken:
                raise HelperLost(self._cause_of_death())
            rest = rest[taken:]
        return content

    def _cause_of_death(self) -> str:
        try:
            status = self._process.wait(timeout=DYING_S)
        except subprocess.TimeoutExpired:
            return "closed its output"
        if status < 0:
            return f"crashed ({signal.Signals(-status).name})"
        self._complaints.seek(0)
        last_words = self._complaints.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"ended with status {status} ({''.join(last_words) or 'no message'})"


def _ready(pipe: IO[bytes] | None, event: int, deadline_s: float) -> int:
    """The pipe's descriptor, once it can be used."""
    assert pipe is not None
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
        raise TimeoutError
    return pipe.fileno()


def _end(process: subprocess.Popen[bytes], complaints: IO[bytes], owner: int) -> None:
    # A fork of the owner has copies of the pipes, but the helper is not its to end.
    if os.getpid() == owner:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout, complaints):
        if stream is not None:
            stream.close()
