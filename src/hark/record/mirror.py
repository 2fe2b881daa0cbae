"""Trackers as mirrors of a run's event log, which cannot hurt the training.

A process of its own (`python -P -m hark.record.mirror RUN --to wandb`) follows `events.jsonl`, hands on what it
finds and notes how much of it the tracker has confirmed. Whatever becomes of it, the training neither waits nor
fails, and the log can be replayed.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hark.errors import HarkError, RunBusy, RunError
from hark.files import explained
from hark.notices import say
from hark.record.locking import held
from hark.record.runs import TRACKER, Run
from hark.record.standing import Tail, lock, note, replay_command, standing
from hark.record.status import printable
from hark.record.tracking import BACKENDS, FOLDER, Backend, require_installed

POLL_S = 0.5
PARTING_S = 0.5
LINGER_S = 600
GRACE_S = 10


@contextmanager
def mirrors(run: Run, trackers: Sequence[str], *, command: Sequence[str] = ()) -> Iterator[None]:
    """Mirror the run's events to trackers while the context is open; nothing of it is ever raised.

    At the end they have half a second. What needs longer goes on by itself, ten minutes at most, which is noted.
    For a tracker that died before, one warning tells how many events it lost at most, and how to replay them.

    Args:
        run: the run, held by this process.
        trackers: names in `BACKENDS`.
        command: what to start instead of `python -P -m hark.record.mirror`; it gets the same arguments.
    """
    command = command or (sys.executable, "-P", "-m", __name__)
    started: dict[str, subprocess.Popen[bytes]] = {}
    with suppress(Exception):  # whatever it is, the training is worth more
        for tracker in trackers:
            if process := _start(run, tracker, command):
                started[tracker] = process
    try:
        yield
    finally:
        with suppress(Exception):
            _part(run, started)


def push(run: Run, *, to: str) -> int:
    """Replay all events of a run to a tracker, here and now; return how many had metrics.

    Raises:
        UsageError: the tracker is not known, or not installed.
        RunBusy: another process is feeding it.
        RunError: the tracker failed.
    """
    require_installed(to)
    with explained(run.path(FOLDER)):
        run.path(FOLDER).mkdir(exist_ok=True)
    with held(lock(run, to)):
        try:
            return follow(run, to=to, open_backend=BACKENDS[to], ended=lambda: True)
        except HarkError:
            raise
        except Exception as error:
            again = replay_command(run, to)
            raise RunError(f"{run.folder}: {to} failed ({printable(error)}); try again with: {again}") from error


def follow(run: Run, *, to: str, open_backend: Callable[[Run], Backend], ended: Callable[[], bool]) -> int:
    """Hand on the run's events, past and coming, until it has ended; return how many there were.

    Args:
        run: the run, which another process may be writing.
        to: the name under which progress is noted, for that process and for reports.
        open_backend: opens the tracker.
        ended: waits a moment, and returns whether no more events will come.

    Raises:
        RunError: the tracker does not have all of them.
        Exception: whatever the tracker raises.
    """
    backend, logged, tail = None, 0, Tail(run)
    note(run, to, confirmed=0, reason="", url=None)
    try:
        backend = open_backend(run)
        if backend.url is not None:
            note(run, to, url=backend.url)
            run.write_json(TRACKER, {"url": backend.url})
        over = False
        while not over:
            over = ended()
            for events in tail.news():
                for event in events:
                    backend.log(event)
                logged += len(events)
                backend.flush()
                note(run, to, confirmed=backend.confirmed)
        backend.finish()
        if backend.confirmed < logged:
            raise RunError(f"it holds {backend.confirmed} of {logged} events")
    except BaseException as error:
        with suppress(Exception):
            note(run, to, confirmed=backend.confirmed if backend else 0, reason=printable(_in_words(error)))
        raise
    note(run, to, confirmed=backend.confirmed)
    return logged


def serve(run: Run, *, to: str, open_backend: Callable[[Run], Backend], linger_s: int = LINGER_S) -> None:
    """Follow a run until standard input is closed, which the death of the training does too.

    From then on there are `linger_s` seconds: what hangs is interrupted, and what does not heed that is ended,
    its stacks on stderr. The system's means favour the training: this process runs when there is nothing else
    to do, and is the first to be killed where memory runs out.
    """
    over = threading.Event()

    def await_parting() -> None:
        sys.stdin.buffer.read()
        signal.alarm(linger_s)
        faulthandler.dump_traceback_later(linger_s + GRACE_S, exit=True)
        over.set()

    def give_up(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"it had not ended {linger_s} s after the training")

    os.nice(19)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    signal.signal(signal.SIGALRM, give_up)
    threading.Thread(target=await_parting, daemon=True).start()
    with _turn(run, to):
        follow(run, to=to, open_backend=open_backend, ended=lambda: over.wait(POLL_S))


def main() -> None:
    """Mirror a run to a tracker until standard input is closed; `hark.record.mirror.mirrors` starts this."""
    parser = argparse.ArgumentParser(prog="python -m hark.record.mirror", description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", choices=sorted(BACKENDS), required=True)
    options = parser.parse_args()
    serve(Run.open(options.run), to=options.to, open_backend=BACKENDS[options.to])


def _start(run: Run, to: str, command: Sequence[str]) -> subprocess.Popen[bytes] | None:
    try:
        folder = run.path(FOLDER)
        folder.mkdir(exist_ok=True)
        require_installed(to)
        with (folder / f"{to}.log").open("wb") as output:
            # A session of its own, so that neither Ctrl-C nor the end of the terminal reaches it.
            return subprocess.Popen(
                [*command, str(run.folder), "--to", to],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except (OSError, HarkError) as error:
        reason = printable(error)
        with suppress(RunError):
            note(run, to, reason=reason)
        _warn(run, to, f"nothing is mirrored to {to} ({reason}); replay later with: {replay_command(run, to)}")
        return None


def _part(run: Run, started: dict[str, subprocess.Popen[bytes]]) -> None:
    """Let the trackers finish, and log what became of those of which that is not clear."""
    for process in started.values():
        if process.stdin:
            process.stdin.close()
        process.send_signal(signal.SIGCONT)  # a stopped one could never come to its end
    end_s = time.monotonic() + PARTING_S
    for process in started.values():
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end_s - time.monotonic()))
    for tracker, process in started.items():
        if process.returncode is None:
            look = f"hark track status {shlex.quote(str(run.folder))}"
            message = f"{tracker} goes on as process {process.pid}, {LINGER_S // 60} minutes at most; see: {look}"
            run.log("note", step=None, tracker=tracker, message=message)
            continue
        if process.returncode < 0:
            with suppress(RunError):
                note(run, tracker, reason=f"killed by {signal.Signals(-process.returncode).name}")
        has = standing(run, tracker)
        if has.lost:
            _warn(run, tracker, str(has))


def _warn(run: Run, tracker: str, message: str) -> None:
    run.log("warning", step=None, tracker=tracker, message=message)
    say(f"{run.folder}: warning: {message}")


@contextmanager
def _turn(run: Run, tracker: str) -> Iterator[None]:
    """Feed the tracker alone: one that an earlier start of the run has left behind comes first."""
    with ExitStack() as turn:
        while True:
            try:
                turn.enter_context(held(lock(run, tracker)))
                break
            except RunBusy:
                time.sleep(POLL_S)
        yield


def _in_words(error: BaseException) -> str:
    if isinstance(error, HarkError) or not str(error):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
